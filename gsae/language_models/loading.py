"""Loads a language model from a Hugging Face directory, from the hub, or the one that ships with the package.

Weights are read tensor by tensor with safetensors; torch is not needed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer as FastTokenizer

from gsae.artifacts import digest_file
from gsae.errors import SettingError
from gsae.language_models.families import SETTING, Family, Tensor, family_of, refused
from gsae.language_models.transformer import Settings, Transformer

BUNDLED = "bundled"
DTYPES = ("float32", "bfloat16", "float16")
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


class Tokenizer(Protocol):
    """Text to token ids and back, no special tokens added."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts, in parallel where the tokenizer can."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens shown."""
        ...


@dataclasses.dataclass(frozen=True)
class _FromFile:
    """A `tokenizer.json`, by the tokenizers library."""

    fast: FastTokenizer

    def encode(self, text: str) -> list[int]:
        return self.fast.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        return self.fast.decode([int(i) for i in ids], skip_special_tokens=False)

    def begins_with(self) -> int | None:
        return _added_first(self.fast.encode("a").ids, self.encode("a"))


@dataclasses.dataclass(frozen=True)
class _FromTransformers:
    """Any other tokenizer, by transformers."""

    slow: Any

    def encode(self, text: str) -> list[int]:
        return self.slow.encode(text, add_special_tokens=False)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return self.slow.decode([int(i) for i in ids], skip_special_tokens=False)

    def begins_with(self) -> int | None:
        return _added_first(self.slow.encode("a"), self.encode("a"))


def _added_first(with_special: Sequence[int], without: Sequence[int]) -> int | None:
    """The token that a tokenizer by itself puts before a text; None where it puts none."""
    return with_special[0] if len(with_special) > len(without) and with_special[0] != without[0] else None


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with its tokenizer and what tells it from every other one."""

    name: str  # as it was asked for
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


def load_language_model(name: str, dtype: str = "float32") -> LanguageModel:
    """Loads `bundled`, a Hugging Face model directory, or a hub id such as `EleutherAI/pythia-70m`.

    Args:
        name: which one. A hub id needs the network, or a cache filled earlier.
        dtype: of the parameters and of the computation, whatever the file's dtype: one of `DTYPES`.

    Raises:
        SettingError: when there is no such model, its family or one of its settings is not supported, or a tensor is
            missing, extra or of another shape than the configuration says.
    """
    if dtype not in DTYPES:
        raise SettingError("config.language_model.dtype", dtype, f"must be one of {', '.join(DTYPES)}")
    directory = _directory(name)
    config = _json(directory / "config.json")
    family = family_of(config)
    settings = family.settings(config)
    files = _weight_files(directory)
    model = _load_weights(family, settings, files, jnp.dtype(dtype))
    tokenizer, special = _load_tokenizer(directory, config)
    first_id, bos_id, eos_id = tokenizer.begins_with(), _first_of(config, "bos"), _first_of(config, "eos")
    bos_id = first_id if bos_id is None else bos_id
    separator_id = bos_id if eos_id is None else eos_id
    beyond = [i for i in (*special, *([] if separator_id is None else [separator_id])) if i >= settings.vocabulary]
    if beyond:
        raise refused("special token id", beyond[0], f"is beyond the model's vocabulary of {settings.vocabulary}")
    described = [directory / "config.json", *files, *(directory / f for f in TOKENIZER_FILES)]
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        special_ids=special,
        separator_id=separator_id,
        fingerprint=_fingerprint(path for path in described if path.is_file()),
        directory=directory,
        bos_id=bos_id,
        eos_id=eos_id,
        begins_with_bos=first_id is not None and first_id == bos_id,
    )


def _directory(name: str) -> Path:
    if name == BUNDLED:
        return Path(__file__).parent / "bundled"
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SettingError(SETTING, name, "is a directory without config.json; a Hugging Face model has one")
        return path
    looks_like_an_id = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and name.strip("/") == name
    if not name or not looks_like_an_id:
        raise SettingError(SETTING, name, f"is no directory; must be one, a Hugging Face hub id, or {BUNDLED!r}")
    return _snapshot(name)


def _snapshot(name: str) -> Path:
    """The local copy of a hub model, downloaded if it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingError(
            SETTING, name, f"is neither {BUNDLED!r} nor a directory, and cannot be had from the hub ({reason})"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(SETTING, str(path), "is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError(SETTING, str(path), f"is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise SettingError(SETTING, str(path), "must hold a JSON object")
    return value


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model: the single one, or those that the index of a sharded one lists."""
    single = directory / "model.safetensors"
    if single.is_file():
        return [single]
    if not (directory / INDEX).is_file():
        raise SettingError(SETTING, str(directory), f"holds neither model.safetensors nor {INDEX}")
    names = sorted(set(_json(directory / INDEX).get("weight_map", {}).values()))
    for name in names:
        if not (directory / name).is_file():
            raise SettingError(SETTING, str(directory / name), f"is missing, but {INDEX} lists it")
    return [directory / name for name in names]


def _load_weights(family: Family, settings: Settings, files: Sequence[Path], dtype: Any) -> Transformer:
    """The model with every parameter of its family's table read from the files, no other tensor being there."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))))
    parameters = dict(nnx.to_flat_state(abstract))
    wanted = {tensor.name: tensor for tensor in family.tensors(settings)}
    found: set[str] = set()
    for path, name, array in _tensors(files, lambda name: not family.buffers.fullmatch(name)):
        tensor = _known(wanted, settings, name, path)
        if tensor is None:
            continue
        if array.shape != tensor.shape:
            raise refused(f"tensor {name}", list(array.shape), f"must have the shape {list(tensor.shape)} ({path})")
        if name in found:
            raise refused("tensor", name, f"is in more than one file, the last of them {path}")
        found.add(name)
        parameters[tensor.path] = parameters[tensor.path].replace(jnp.asarray(tensor.read(array)).astype(dtype))
    for name in wanted:
        if name not in found:
            raise refused("tensor", name, f"is missing from {', '.join(map(str, files))}")
    return nnx.merge(graph, nnx.from_flat_state(parameters))


def _known(wanted: Mapping[str, Tensor], settings: Settings, name: str, path: Path) -> Tensor | None:
    """The table's entry of a tensor; None for the copy of a tied embedding, which some files hold beside it."""
    if name in wanted:
        return wanted[name]
    if settings.tied_embeddings and name in ("embed_out.weight", "lm_head.weight"):
        return None
    raise refused("tensor", name, f"is in {path} but in no model of this configuration")


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


def _load_tokenizer(
    directory: Path, config: Mapping[str, Any]
) -> tuple[_FromFile | _FromTransformers, tuple[int, ...]]:
    """The tokenizer, and the ids of its special tokens."""
    path = directory / "tokenizer.json"
    if path.is_file():
        try:
            fast = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise SettingError(SETTING, str(path), f"is no readable tokenizer ({error})") from error
        special = {i for i, token in fast.get_added_tokens_decoder().items() if token.special}
        tokenizer: _FromFile | _FromTransformers = _FromFile(fast)
    else:
        from transformers import AutoTokenizer

        try:
            slow = AutoTokenizer.from_pretrained(str(directory))
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SettingError(SETTING, str(directory), f"holds no tokenizer that can be read ({reason})") from error
        special = set(slow.all_special_ids)
        tokenizer = _FromTransformers(slow)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = config.get(key)
        special |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
    return tokenizer, tuple(sorted(special))


def _first_of(config: Mapping[str, Any], token: str) -> int | None:
    """The id that the configuration gives for `bos` or `eos`; the first where it gives several."""
    ids = config.get(f"{token}_token_id")
    return (ids[0] if ids else None) if isinstance(ids, list) else ids


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{digest_file(path)}\n".encode())
    return digest.hexdigest()
