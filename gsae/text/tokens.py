"""The token store: documents as rows of tokens on disk, written once and then only mapped into memory.

Packed across documents, these form one stream, each preceded by the separator (if there is one), cut into rows of the
context length. Rows may begin with a BOS token that is no part of the stream. The last, partial row is dropped: what is
lost is less than one row, and in return every row is full, nothing is padding, and every batch counts alike.

With one document a row, a row is the beginning of a document, after BOS, filled up with padding that never counts and
belongs to no document.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.text.documents import Document
from gsae.text.packing import LENGTHS, NAMES, STARTS, TOKENS, EncodeBatch, encoded, rows_of
from gsae.text.progress import Progress

FORMATS = {"across_documents": "gsae tokens 1", "one_document": "gsae tokens 1, one document a row"}  # by packing
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
        if manifest.get("format") not in FORMATS.values():
            raise RunError(f"{path}: is not a token store of this version ({manifest.get('format')!r})")
        store = cls(path, manifest)
        expected = {
            TOKENS: store.num_sequences * store.context_length * np.dtype(manifest["dtype"]).itemsize,
            STARTS: store.num_documents * 8,
        } | ({LENGTHS: store.num_sequences * 4} if store.one_document else {})
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
    def one_document(self) -> bool:
        """Whether every row holds one document."""
        return self.manifest["format"] == FORMATS["one_document"]

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

    @cached_property
    def _row_lengths(self) -> np.memmap:
        """[N] int32: the positions of each row that are not padding, of a store with one document a row."""
        return np.memmap(self.path / LENGTHS, dtype="<i4", mode="r", shape=(self.num_sequences,))

    def documents_of(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The index of the document at every position of the rows: [n] -> [n, T] int32.

        The separator belongs to the document that it precedes; a row's BOS token to the document of the next token;
        padding has -1.
        """
        ids = self._checked(sequence_ids)
        bos = int(self.manifest["bos_id"] is not None)
        column = np.maximum(np.arange(self.context_length) - bos, 0)
        positions = ids[:, None] * (self.context_length - bos) + column
        documents = np.searchsorted(self.document_starts, positions, side="right") - 1
        return np.where(self._not_padding(ids), documents, -1).astype(np.int32)

    def mask(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The positions that count: [n] -> [n, T] bool. No padding, no special token, not a row's first few."""
        ids = self._checked(sequence_ids)
        mask = ~np.isin(self.tokens[ids], self.manifest["special_ids"]) & self._not_padding(ids)
        mask[:, : self.manifest["masked_positions"]] = False
        return mask

    def _not_padding(self, ids: np.ndarray) -> np.ndarray:
        """[n] -> [n, T] bool."""
        if not self.one_document:
            return np.ones((ids.size, self.context_length), bool)
        return np.arange(self.context_length) < self._row_lengths[ids][:, None]

    def _checked(self, sequence_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(sequence_ids, np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.num_sequences):
            raise IndexError(f"sequence ids must be from 0 to {self.num_sequences - 1}; got {ids.min()} to {ids.max()}")
        return ids


def write_token_store(
    path: str | Path,
    documents: Iterable[Document],
    encode_batch: EncodeBatch,
    *,
    progress: bool = True,
    **settings: Any,
) -> TokenStore:
    """Encodes documents and publishes them as the token store `path`; memory does not grow with the text.

    Args:
        path: where the store appears when it is finished, in place of an older one.
        documents: read once; a sequence gives a time of arrival on the progress bar.
        encode_batch: texts -> their token ids, without special tokens around them.
        progress: draws a progress bar.
        settings: those of `write_rows`.

    Raises:
        SettingError, RunError: see `write_rows`.
    """
    characters = sum(document.characters for document in documents) if isinstance(documents, Sequence) else None
    with Progress(characters=characters, show=progress) as bar:
        pairs = ((document.name, ids) for document, ids in encoded(documents, encode_batch, bar))
        return write_rows(path, pairs, **settings)


def write_rows(
    path: str | Path,
    documents: Iterable[tuple[str, np.ndarray]],
    *,
    context_length: int,
    separator_id: int | None,
    special_ids: Sequence[int],
    vocabulary: int,
    bos_id: int | None = None,
    masked_positions: int = 1,
    packing: str = "across_documents",
    manifest: Mapping[str, Any] | None = None,
) -> TokenStore:
    """Publishes documents, given by name and token ids, as the token store `path`.

    Args:
        path: where the store appears when it is finished, in place of an older one.
        documents: read once.
        context_length: T, tokens of a row.
        separator_id: the token put before each document of a packed stream; None for nothing.
        special_ids: tokens that never count (`TokenStore.mask`): BOS, EOS, padding, unknown.
        vocabulary: ids are below this; up to 65,536 they take two bytes on disk, otherwise four.
        bos_id: the token that every row begins with; None for none.
        masked_positions: how many positions at the start of each row never count.
        packing: `across_documents` or `one_document`.
        manifest: what the maker says about the store (plain values), for example the tokenizer's fingerprint.

    Raises:
        SettingError: when the context length is too small, or larger than the whole text; when no position counts;
            for another packing.
        RunError: when there are ids outside the vocabulary; when the disk is full.
    """
    _check(context_length, masked_positions, packing)
    path, one_document = Path(path), packing == "one_document"
    record: dict[str, Any] = {
        **(manifest or {}),
        "format": FORMATS[packing],
        "dtype": "<u2" if vocabulary <= 1 << 16 else "<u4",
        "context_length": context_length,
        "separator_id": None if one_document else separator_id,
        "bos_id": bos_id,
        "special_ids": sorted(set(special_ids)),
        "masked_positions": masked_positions,
    }
    if one_document:  # any token will do: it comes after all that counts, and counts nowhere
        record["padding_id"] = next(i for i in (separator_id, bos_id, 0) if i is not None)
    with artifacts.publish(path, record) as directory:
        with rows_of(directory, record, one_document) as rows:
            for name, ids in documents:
                rows.append(name, _in_vocabulary(ids, vocabulary, name))
        if not rows.sequences:
            allowed = f"the text has only {rows.dropped} tokens, fewer than one row; give more text or a smaller value"
            raise SettingError("config.text.context_length", context_length, allowed)
        record["num_sequences"] = rows.sequences
        record["num_documents"] = rows.documents
        record["dropped_tokens"] = rows.dropped
    return TokenStore.open(path)


def _check(context_length: int, masked_positions: int, packing: str) -> None:
    if context_length < 2:
        raise SettingError("config.text.context_length", context_length, "must be at least 2 tokens")
    if not 0 <= masked_positions < context_length:
        allowed = f"must be from 0 to {context_length - 1}: something of each row has to count"
        raise SettingError("config.text.skip_positions", masked_positions, allowed)
    if packing not in FORMATS:
        raise SettingError("config.text.packing", packing, f"must be one of {', '.join(FORMATS)}")


def _in_vocabulary(ids: np.ndarray, vocabulary: int, name: str) -> np.ndarray:
    if ids.size and not (ids.min() >= 0 and ids.max() < vocabulary):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise RunError(
            f"the tokenizer gave token {wrong} for {name}; the language model knows only 0 to {vocabulary - 1}"
        )
    return ids
