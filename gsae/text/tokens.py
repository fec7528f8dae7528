"""The token store: documents as rows of tokens on disk, written once and then only mapped into memory.

The documents form one stream, each preceded by the separator (if the language model has one), cut into rows of the
context length. Rows may begin with a BOS token that is no part of the stream. The last, partial row is dropped: what is
lost is less than one row, and in return every row is full, nothing is padding, and every batch counts alike.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.text.packing import NAMES, STARTS, TOKENS, encoded, packer
from gsae.text.sources import Document

FORMAT = "gsae tokens 1"
CONTENT = ("format", "dtype", "context_length", "separator_id", "bos_id", "special_ids", "masked_positions")


@dataclass(frozen=True)
class TokenStore:
    """A finished token store, N rows of T tokens, read from disk as they are asked for."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Opens the store and compares every byte of it with its digests.

        Raises:
            RunError: when there is no finished store, or naming the file that is missing, truncated or altered.
        """
        path = Path(path)
        manifest = artifacts.verify(path)
        if manifest.get("format") != FORMAT:
            raise RunError(f"{path}: is not a token store of this version ({manifest.get('format')!r}, not {FORMAT!r})")
        store = cls(path, manifest)
        expected = {
            TOKENS: store.num_sequences * store.context_length * np.dtype(manifest["dtype"]).itemsize,
            STARTS: store.num_documents * 8,
        }
        for name, size in expected.items():
            if (path / name).stat().st_size != size:
                raise RunError(f"{path / name}: has {(path / name).stat().st_size} bytes, {size} are needed")
        return store

    @property
    def num_sequences(self) -> int:
        """N, the number of rows."""
        return self.manifest["num_sequences"]

    @property
    def context_length(self) -> int:
        """T, the tokens of a row, a BOS token included."""
        return self.manifest["context_length"]

    @property
    def num_documents(self) -> int:
        """The number of documents of which at least the beginning is in the store."""
        return self.manifest["num_documents"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: tokens, documents, and what decides packing and mask. Not of the maker's notes."""
        digests = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        return artifacts.fingerprint({**{key: self.manifest[key] for key in CONTENT}, "files": digests})

    @cached_property
    def tokens(self) -> np.memmap:
        """[N, T] uint16 or uint32, mapped from disk."""
        shape = (self.num_sequences, self.context_length)
        return np.memmap(self.path / TOKENS, dtype=self.manifest["dtype"], mode="r", shape=shape)

    @cached_property
    def document_names(self) -> list[str]:
        """The documents' names, in the order of their indices."""
        with open(self.path / NAMES, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    @cached_property
    def document_starts(self) -> np.ndarray:
        """[documents] int64: where in the stream (which BOS tokens are no part of) each document begins."""
        return np.fromfile(self.path / STARTS, dtype="<i8")

    def documents_of(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The index of the document at every position of the rows: [n] -> [n, T] int32.

        The separator belongs to the document that it precedes; a row's BOS token to the document of the next token.
        """
        ids = self._checked(sequence_ids)
        bos = int(self.manifest["bos_id"] is not None)
        column = np.maximum(np.arange(self.context_length) - bos, 0)
        positions = ids[:, None] * (self.context_length - bos) + column
        return (np.searchsorted(self.document_starts, positions, side="right") - 1).astype(np.int32)

    def mask(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The positions that count: [n] -> [n, T] bool. No special token, and not a row's first (an attention sink)."""
        ids = self._checked(sequence_ids)
        mask = ~np.isin(self.tokens[ids], self.manifest["special_ids"])
        mask[:, : self.manifest["masked_positions"]] = False
        return mask

    def _checked(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(sequence_ids, np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.num_sequences):
            raise IndexError(f"sequence ids must be from 0 to {self.num_sequences - 1}; got {ids.min()} to {ids.max()}")
        return ids


def write_token_store(
    path: str | Path,
    documents: Iterable[Document],
    encode_batch: Callable[[list[str]], Sequence[Sequence[int]]],
    *,
    context_length: int,
    separator_id: int | None,
    special_ids: Sequence[int],
    vocabulary: int,
    bos_id: int | None = None,
    masked_positions: int = 1,
    manifest: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TokenStore:
    """Encodes documents and publishes them as the token store `path`; memory does not grow with the text.

    Args:
        path: where the store appears when it is finished, in place of an older one.
        documents: read once; a sequence gives a time of arrival on the progress bar.
        encode_batch: texts -> their token ids, without special tokens around them.
        context_length: T, tokens of a row.
        separator_id: the token put before each document; None for nothing.
        special_ids: tokens that never count (`TokenStore.mask`): BOS, EOS, padding, unknown.
        vocabulary: ids are below this; up to 65,536 they take two bytes on disk, otherwise four.
        bos_id: the token that every row begins with; None for none.
        masked_positions: how many positions at the start of each row never count.
        manifest: what the maker says about the store (plain values), for example the tokenizer's fingerprint.
        progress: draws a progress bar.

    Raises:
        SettingError: when the context length is too small, or larger than the whole text; when no position counts.
        RunError: when the tokenizer gives ids outside the vocabulary; when the disk is full.
    """
    if context_length < 2:
        raise SettingError("config.text.context_length", context_length, "must be at least 2 tokens")
    if not 0 <= masked_positions < context_length:
        allowed = f"must be from 0 to {context_length - 1}: something of each row has to count"
        raise SettingError("config.text.skip_positions", masked_positions, allowed)
    path = Path(path)
    record: dict[str, Any] = {
        **(manifest or {}),
        "format": FORMAT,
        "dtype": "<u2" if vocabulary <= 1 << 16 else "<u4",
        "context_length": context_length,
        "separator_id": separator_id,
        "bos_id": bos_id,
        "special_ids": sorted(set(special_ids)),
        "masked_positions": masked_positions,
    }
    with artifacts.publish(path, record) as directory:
        with packer(directory, record) as rows:
            for document, ids in encoded(documents, encode_batch, progress):
                rows.append(document.name, _in_vocabulary(ids, vocabulary, document.name))
        if not rows.sequences:
            allowed = f"the text has only {rows.buffered} tokens, fewer than one row; give more text or a smaller value"
            raise SettingError("config.text.context_length", context_length, allowed)
        record["num_sequences"] = rows.sequences
        record["num_documents"] = rows.documents
        record["dropped_tokens"] = rows.buffered
    return TokenStore.open(path)


def _in_vocabulary(ids: np.ndarray, vocabulary: int, name: str) -> np.ndarray:
    if ids.size and not (ids.min() >= 0 and ids.max() < vocabulary):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise RunError(
            f"the tokenizer gave token {wrong} for {name}; the language model knows only 0 to {vocabulary - 1}"
        )
    return ids
