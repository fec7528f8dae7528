"""Loads a language model from a Hugging Face directory, from the hub, or the one that ships with the package.

`hub.py` finds the directory, `families/` says what its configuration and tensors mean, `weights.py` reads them,
`tokenizer.py` the tokenizer. torch is needed for weights that it saved alone (`pickled.py`).
"""

import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh

from gsae.errors import SettingError
from gsae.language_models import hub
from gsae.language_models.directory import CONFIG, identifying_files, read_json, weight_files
from gsae.language_models.families import family_of, refused
from gsae.language_models.fingerprint import Digests
from gsae.language_models.settings import Settings
from gsae.language_models.tokenizer import Tokenizer, load_tokenizer
from gsae.language_models.transformer import Transformer
from gsae.language_models.weights import DTYPES, load_weights
from gsae.mesh import automatic


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer and what tells it from every other one."""

    name: str  # as it was asked for
    commit: str | None  # of the hub's repository; None where the model is not from there
    model: Transformer
    tokenizer: Tokenizer
    settings: Settings
    special_ids: tuple[int, ...]  # ids that never count as text: BOS, EOS, PAD and the like
    separator_id: int | None  # the id that stands between documents (EOS; BOS where there is no EOS)
    fingerprint: str  # SHA-256 over configuration, weights and tokenizer files
    directory: Path | None = None  # where its files are
    bos_id: int | None = None  # the id that begins a text, if it has one
    eos_id: int | None = None  # the id that ends a text, if it has one
    begins_with_bos: bool = False  # its tokenizer puts BOS before every text by itself (Llama, Gemma)


def describe(name: str, revision: str = hub.MAIN) -> Settings:
    """What a model is, from its config.json alone: no weights are read, or downloaded.

    Raises:
        SettingError, RunError: as `load_language_model`.
    """
    config = read_json(hub.find_configuration(name, revision))
    return family_of(config).settings(config)


def load_language_model(
    name: str, dtype: str = "float32", mesh: Mesh | None = None, *, revision: str = hub.MAIN
) -> LanguageModel:
    """Loads `bundled`, a Hugging Face model directory, or a hub id such as `EleutherAI/pythia-70m`.

    Args:
        name: which one. A hub id needs the network, or a cache filled earlier.
        dtype: of the parameters and of the computation, one of `DTYPES`; `file`: what each tensor has in the file.
        mesh: devices that share the parameters: heads, neurons and vocabulary over its axis `feature`, the rest on
            every device; its processes load together. None for the default device.
        revision: branch, tag or commit of a hub id.

    Raises:
        SettingError: when there is no such model, its family or one of its settings is not supported, or a tensor is
            missing, extra or of another shape than the configuration says.
        RunError: when the hub cannot be reached and its cache does not have the model.
    """
    if dtype not in DTYPES:
        raise SettingError("config.language_model.dtype", dtype, f"must be one of {', '.join(DTYPES)}")
    found = hub.find(name, revision)
    config = read_json(found.directory / CONFIG)
    family = family_of(config)
    settings = family.settings(config)
    tokenizer, special = load_tokenizer(found.directory, config)
    beyond = [i for i in (*special.every, special.separator) if i is not None and i >= settings.vocabulary]
    if beyond:
        raise refused("special token id", beyond[0], f"is beyond the model's vocabulary of {settings.vocabulary}")
    over, shares = None if mesh is None else automatic(mesh), (0, 1)
    if mesh is not None and mesh.is_multi_process:
        shares = jax.process_index(), jax.process_count()
    with Digests(identifying_files(found.directory), *shares) as digests:
        model = load_weights(family, settings, weight_files(found.directory), dtype, over)
        return LanguageModel(
            name=name,
            commit=found.commit,
            model=model,
            tokenizer=tokenizer,
            settings=settings,
            special_ids=special.every,
            separator_id=special.separator,
            fingerprint=digests.fingerprint(),
            directory=found.directory,
            bos_id=special.bos,
            eos_id=special.eos,
            begins_with_bos=special.begins_with_bos,
        )
