"""The documents of a source as a stream of blocks, shuffled or not, which can be left and taken up at any block."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsae.text.documents import Document
from gsae.text.sources import Reading

BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 4096, 1 << 20  # of a block that is not shuffled, at most


@dataclass(frozen=True)
class Block:
    """Consecutive documents; `end` says, in plain values, where the stream goes on after them."""

    documents: list[Document]
    end: Mapping[str, Any]

    @property
    def characters(self) -> int:
        """About how much work it is."""
        return sum(document.characters for document in self.documents)


def blocks(
    reading: Reading,
    *,
    start: Mapping[str, Any] | None,
    shuffle_buffer: int,
    seed: int,
    max_documents: int,
) -> Iterator[Block]:
    """The documents that are left of a reading.

    Shuffling takes `shuffle_buffer` documents at a time and permutes them by (seed, number of the block): a pure
    function of the source and the position, unlike a buffer that is refilled as it empties.

    Args:
        reading: opened at `start["source"]`.
        start: where the stream goes on: a block's `end`; None for its beginning.
        shuffle_buffer: documents that are shuffled together; 0 for the order of the source.
        seed: of the shuffling.
        max_documents: no more documents are read; 0 for all.
    """
    number, read = (start["block"], start["documents"]) if start else (0, 0)
    at_once = shuffle_buffer or BLOCK_DOCUMENTS
    documents: list[Document] = []
    characters = 0

    def block() -> Block:
        chosen = _shuffled(documents, seed, number) if shuffle_buffer else list(documents)
        return Block(chosen, {"block": number + 1, "documents": read, "source": reading.position()})

    if max_documents and read >= max_documents:
        return
    for document in reading:
        documents.append(document)
        characters += document.characters
        read += 1
        full = len(documents) == at_once or (not shuffle_buffer and characters >= BLOCK_CHARACTERS)
        if full or read == max_documents:
            yield block()
            if read == max_documents:
                return
            documents, characters, number = [], 0, number + 1
    if documents:
        yield block()


def _shuffled(documents: list[Document], seed: int, number: int) -> list[Document]:
    """Permuted by sorted raw bits: numpy promises only of these never to change (NEP 19)."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(number,))).random_raw(len(documents))
    return [documents[i] for i in np.argsort(bits, kind="stable")]
