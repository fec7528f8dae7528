"""Documents to rows of tokens, as they come: encoding in portions, and writers that hold no more than one portion."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from gsae.text.documents import Document
from gsae.text.progress import Progress

TOKENS, STARTS, NAMES = "tokens.bin", "document_starts.bin", "document_names.jsonl"
LENGTHS = "row_lengths.bin"  # of a store with one document a row
CHARACTERS_AT_ONCE = TOKENS_AT_ONCE = 1 << 20

EncodeBatch = Callable[[list[str]], Sequence[Sequence[int]]]


class Rows(Protocol):
    """What is filled with documents, one after the other, and writes rows of tokens."""

    sequences: int  # rows written, after the last flush
    documents: int  # documents of which at least the beginning is in them
    dropped: int  # tokens that are in no row

    def append(self, name: str, ids: np.ndarray) -> None:
        """Adds one document."""
        ...

    def flush(self) -> None:
        """Writes the rows that are full."""
        ...


@contextmanager
def rows_of(directory: Path, record: Mapping[str, Any], one_document: bool) -> Iterator[Rows]:
    """`Rows` that write the store's files into `directory`; they are complete after a clean exit."""
    names = (TOKENS, STARTS, NAMES, LENGTHS) if one_document else (TOKENS, STARTS, NAMES)
    with ExitStack() as files:
        opened = [files.enter_context(open(directory / name, "wb")) for name in names]
        rows: Rows = (DocumentRows if one_document else PackedRows)(record, *opened)
        yield rows
        rows.flush()


class PackedRows:
    """Cuts the stream of documents into rows and appends them to the files, with the documents that begin in them."""

    def __init__(self, record: Mapping[str, Any], tokens: BinaryIO, starts: BinaryIO, names: BinaryIO):
        self.tokens, self.starts, self.names = tokens, starts, names
        self.dtype = np.dtype(record["dtype"])
        self.before_document = np.array([i for i in [record["separator_id"]] if i is not None], self.dtype)
        self.before_row = np.array([i for i in [record["bos_id"]] if i is not None], self.dtype)
        self.tokens_a_row = record["context_length"] - self.before_row.size
        self.sequences = self.documents = 0
        self.buffer: list[np.ndarray] = []
        self.dropped = 0  # what is in the buffer now
        self.waiting: deque[tuple[int, str]] = deque()

    def append(self, name: str, ids: np.ndarray) -> None:
        """Adds one document to the stream, its separator first."""
        self.waiting.append((self.sequences * self.tokens_a_row + self.dropped, name))
        self.buffer += [self.before_document, ids.astype(self.dtype)]
        self.dropped += self.before_document.size + ids.size
        if self.dropped >= max(TOKENS_AT_ONCE, self.tokens_a_row):
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are full; the rest of the stream stays in the buffer."""
        stream = np.concatenate([*self.buffer, np.empty(0, self.dtype)])
        rows = stream.size // self.tokens_a_row
        whole = stream[: rows * self.tokens_a_row].reshape(rows, self.tokens_a_row)
        self.tokens.write(np.hstack([np.tile(self.before_row, (rows, 1)), whole]).tobytes())
        self.sequences += rows
        self.buffer, self.dropped = [stream[whole.size :]], stream.size - whole.size
        while self.waiting and self.waiting[0][0] < self.sequences * self.tokens_a_row:
            start, name = self.waiting.popleft()
            _note(self.starts, self.names, start, name)
            self.documents += 1


class DocumentRows:
    """A row for each document: its beginning, filled up with padding that the row's length excludes."""

    def __init__(
        self, record: Mapping[str, Any], tokens: BinaryIO, starts: BinaryIO, names: BinaryIO, lengths: BinaryIO
    ):
        self.tokens, self.starts, self.names, self.lengths = tokens, starts, names, lengths
        self.bos_id = record["bos_id"]
        self.tokens_a_row = record["context_length"] - (self.bos_id is not None)
        self.empty_row = np.full(record["context_length"], record["padding_id"], record["dtype"])
        self.sequences = self.documents = self.dropped = 0

    def append(self, name: str, ids: np.ndarray) -> None:
        """Writes the row of a document; BOS is put before it unless it begins with it. No tokens make no row."""
        if not ids.size:
            return
        if self.bos_id is not None and ids[0] != self.bos_id:
            ids = np.concatenate([[self.bos_id], ids])
        row = self.empty_row.copy()
        kept = ids[: row.size]
        row[: kept.size] = kept
        self.tokens.write(row.tobytes())
        self.lengths.write(kept.size.to_bytes(4, "little"))
        _note(self.starts, self.names, self.sequences * self.tokens_a_row, name)
        self.sequences += 1
        self.documents += 1
        self.dropped += ids.size - kept.size

    def flush(self) -> None:
        """Nothing is held back."""


def _note(starts: BinaryIO, names: BinaryIO, start: int, name: str) -> None:
    starts.write(start.to_bytes(8, "little"))
    names.write(json.dumps(name).encode() + b"\n")


def encoded(
    documents: Iterable[Document], encode_batch: EncodeBatch, progress: Progress
) -> Iterator[tuple[Document, np.ndarray]]:
    """Yields every document with its token ids (int64); those that came as ids keep them."""
    for batch in _batches(documents):
        texts = [document.text for document in batch if document.ids is None]
        made = iter(encode_batch(texts) if texts else ())
        pairs = [(d, np.asarray(next(made), np.int64) if d.ids is None else d.ids) for d in batch]
        progress.add(batch, sum(ids.size for _, ids in pairs))
        yield from pairs


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += document.characters
        if characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
