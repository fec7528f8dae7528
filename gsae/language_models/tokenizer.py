"""The tokenizer of a model directory."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as FastTokenizer

from gsae.errors import SettingError
from gsae.language_models.directory import TOKENIZER
from gsae.language_models.families import SETTING


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
class SpecialIds:
    """The ids that are no text."""

    every: tuple[int, ...]  # BOS, EOS, PAD and the like
    bos: int | None  # begins a text
    eos: int | None  # ends a text
    begins_with_bos: bool  # the tokenizer puts BOS before every text by itself (Llama, Gemma)

    @property
    def separator(self) -> int | None:
        """The id that stands between documents: EOS, or BOS where there is no EOS."""
        return self.bos if self.eos is None else self.eos


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


def load_tokenizer(directory: Path, config: Mapping[str, Any]) -> tuple[Tokenizer, SpecialIds]:
    """The tokenizer of a directory and the ids that are no text.

    Models of TransformerLens name a tokenizer of the hub instead of bringing one.

    Args:
        directory: where it is.
        config: the model's config.json.

    Raises:
        SettingError: when there is none that can be read.
    """
    path = directory / TOKENIZER
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
            slow = AutoTokenizer.from_pretrained(config.get("tokenizer_name") or str(directory))
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SettingError(SETTING, str(directory), f"holds no tokenizer that can be read ({reason})") from error
        special = set(slow.all_special_ids)
        config = {f"{token}_token_id": getattr(slow, f"{token}_token_id") for token in ("bos", "eos")} | dict(config)
        tokenizer = _FromTransformers(slow)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = config.get(key)
        special |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
    first, bos = tokenizer.begins_with(), _first_of(config, "bos")
    bos = first if bos is None else bos
    begins = first is not None and first == bos
    return tokenizer, SpecialIds(tuple(sorted(special)), bos, _first_of(config, "eos"), begins)


def _first_of(config: Mapping[str, Any], token: str) -> int | None:
    """The id that the configuration gives for `bos` or `eos`; the first where it gives several."""
    ids = config.get(f"{token}_token_id")
    return (ids[0] if ids else None) if isinstance(ids, list) else ids
