"""Loads a language model from a Hugging Face directory, from the hub, or the one that ships with the package.

Weights are read tensor by tensor with safetensors; torch is not needed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from gsae.errors import SettingError
from gsae.language_models import hub
from gsae.language_models.directory import CONFIG, identifying_files, read_json, weight_files
from gsae.language_models.families import SETTING, Family, Tensor, family_of, refused
from gsae.language_models.fingerprint import Digests
from gsae.language_models.settings import Settings
from gsae.language_models.tokenizer import Tokenizer, load_tokenizer
from gsae.language_models.transformer import Transformer

DTYPES = ("float32", "bfloat16", "float16")


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


def load_language_model(name: str, dtype: str = "float32", *, revision: str = hub.MAIN) -> LanguageModel:
    """Loads `bundled`, a Hugging Face model directory, or a hub id such as `EleutherAI/pythia-70m`.

    Args:
        name: which one. A hub id needs the network, or a cache filled earlier.
        dtype: of the parameters and of the computation, whatever the file's dtype: one of `DTYPES`.
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
    with Digests(identifying_files(found.directory)) as digests:
        model = _load_weights(family, settings, weight_files(found.directory), jnp.dtype(dtype))
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


def _load_weights(family: Family, settings: Settings, files: Sequence[Path], dtype: Any) -> Transformer:
    """The model with every parameter of its family's table read from the files, no other tensor being there."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))))
    parameters = dict(nnx.to_flat_state(abstract))
    wanted: dict[str, list[Tensor]] = {}
    for tensor in family.tensors(settings):
        wanted.setdefault(tensor.name, []).append(tensor)
    found: set[str] = set()
    for path, name, array in _tensors(files, lambda name: family.known_as(name, settings) is not None):
        known = family.known_as(name, settings)
        if known not in wanted:
            raise refused("tensor", name, f"is in {path} but in no model of this configuration")
        if known in found:
            raise refused("tensor", name, f"is in more than one file, the last of them {path}")
        found.add(known)
        for tensor in wanted[known]:
            shape = list(tensor.file_shape)
            if list(array.shape) != shape:
                raise refused(f"tensor {name}", list(array.shape), f"must have the shape {shape} ({path})")
            everything = [slice(None)] * len(tensor.shape)
            here = jnp.asarray(tensor.layout.read(array.__getitem__, everything, dtype))
            parameters[tensor.path] = parameters[tensor.path].replace(here)
    for name in wanted:
        if name not in found:
            raise refused("tensor", name, f"is missing from {', '.join(map(str, files))}")
    return nnx.merge(graph, nnx.from_flat_state(parameters))


def _tensors(files: Sequence[Path], read: Callable[[str], bool]) -> Iterator[tuple[Path, str, np.ndarray]]:
    """Every tensor of the files whose name `read` accepts, one at a time in memory."""
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                    if read(name):
                        yield path, name, file.get_tensor(name)
        except SafetensorError as error:
            raise SettingError(SETTING, str(path), f"is no readable safetensors file ({error})") from error
