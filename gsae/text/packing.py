"""Documents to rows of tokens, as they come: encoding in portions, and a writer that holds no more than one portion."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from gsae.text.sources import Document

TOKENS, STARTS, NAMES = "tokens.bin", "document_starts.bin", "document_names.jsonl"
CHARACTERS_AT_ONCE = TOKENS_AT_ONCE = 1 << 20


@contextmanager
def packer(directory: Path, record: Mapping[str, Any]) -> Iterator["Packer"]:
    """A `Packer` that writes the store's files into `directory`; they are complete after a clean exit."""
    with (
        open(directory / TOKENS, "wb") as tokens,
        open(directory / STARTS, "wb") as starts,
        open(directory / NAMES, "wb") as names,
    ):
        packer = Packer(tokens, starts, names, record)
        yield packer
        packer.flush()


class Packer:
    """Cuts the stream of documents into rows and appends them to the files, with the documents that begin in them.

    After the last flush `sequences` rows are written, `documents` begin in them, and `buffered` tokens are left over.
    """

    def __init__(self, tokens: BinaryIO, starts: BinaryIO, names: BinaryIO, record: Mapping[str, Any]):
        self.tokens, self.starts, self.names = tokens, starts, names
        self.dtype = np.dtype(record["dtype"])
        self.before_document = np.array([i for i in [record["separator_id"]] if i is not None], self.dtype)
        self.before_row = np.array([i for i in [record["bos_id"]] if i is not None], self.dtype)
        self.tokens_a_row = record["context_length"] - self.before_row.size
        self.sequences = self.documents = 0
        self.buffer: list[np.ndarray] = []
        self.buffered = 0
        self.waiting: deque[tuple[int, str]] = deque()

    def append(self, name: str, ids: np.ndarray) -> None:
        """Adds one document to the stream, its separator first."""
        self.waiting.append((self.sequences * self.tokens_a_row + self.buffered, name))
        self.buffer += [self.before_document, ids.astype(self.dtype)]
        self.buffered += self.before_document.size + ids.size
        if self.buffered >= max(TOKENS_AT_ONCE, self.tokens_a_row):
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are full; the rest of the stream stays in the buffer."""
        stream = np.concatenate([*self.buffer, np.empty(0, self.dtype)])
        rows = stream.size // self.tokens_a_row
        whole = stream[: rows * self.tokens_a_row].reshape(rows, self.tokens_a_row)
        self.tokens.write(np.hstack([np.tile(self.before_row, (rows, 1)), whole]).tobytes())
        self.sequences += rows
        self.buffer, self.buffered = [stream[whole.size :]], stream.size - whole.size
        while self.waiting and self.waiting[0][0] < self.sequences * self.tokens_a_row:
            start, name = self.waiting.popleft()
            self.starts.write(start.to_bytes(8, "little"))
            self.names.write(json.dumps(name).encode() + b"\n")
            self.documents += 1


def encoded(
    documents: Iterable[Document], encode_batch: Callable[[list[str]], Sequence[Sequence[int]]], progress: bool
) -> Iterator[tuple[Document, np.ndarray]]:
    """Yields every document with its token ids; shows the time left (of a sequence) and the tokens a second."""
    total = sum(len(document.text) for document in documents) if isinstance(documents, Sequence) else None
    began, tokens = time.monotonic(), 0
    with tqdm(total=total, desc="tokenise", unit=" characters", unit_scale=True, disable=not progress) as bar:
        for batch in _batches(documents):
            encoded = encode_batch([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                tokens += len(ids)
                yield document, np.asarray(ids, np.int64)
            bar.set_postfix_str(f"{tokens / max(time.monotonic() - began, 1e-9):,.0f} tokens/s", refresh=False)
            bar.update(sum(len(document.text) for document in batch))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
