"""The encoding of a text in portions, each published with the place in the text after it: what is done stays done.

A portion is some consecutive blocks of the stream of documents (`stream.py`), with the side of each document; where
one ends depends on the text alone. Portion k is encoded by process k modulo their number, so several processes share
the work without a word, and a killed one goes on after its last portion. `side_of` then gives the documents in order.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gsae.errors import RunError, SettingError
from gsae.text.documents import Document, fingerprint
from gsae.text.packing import EncodeBatch, encoded
from gsae.text.portion_files import published, read_portion, write_portion
from gsae.text.progress import Progress
from gsae.text.sources import Source
from gsae.text.splits import held_out_documents, is_held_out
from gsae.text.stream import Block, blocks

PORTION_CHARACTERS = 1 << 24  # of the documents of a portion; the last block may go beyond

IsHeldOut = Callable[[int, Document], bool]  # by the number of a document in the stream, and the document


@dataclass(frozen=True)
class Plan:
    """How a source is read and divided; every one of these changes the result.

    Attributes:
        held_out_fraction: share of the text that is held out.
        compare_up_to: a text of at most so many bytes is divided with all near-duplicates on one side; a longer one
            document by document (`splits.py`).
        shuffle_buffer: documents that are shuffled together; 0 for the order of the source.
        seed: of the shuffling.
        max_documents: no more documents are read; 0 for all.
    """

    held_out_fraction: float
    compare_up_to: int
    shuffle_buffer: int = 0
    seed: int = 0
    max_documents: int = 0


def encode_portions(
    directory: Path,
    source: Source,
    encode_batch: EncodeBatch,
    plan: Plan,
    *,
    made_from: Mapping[str, Any],
    process: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> int:
    """Publishes this process's portions in `directory`, those that are there already excepted.

    Args:
        directory: shared by all processes.
        source: the documents.
        encode_batch: texts -> their token ids.
        plan: how they are read and divided.
        made_from: plain values that decide the tokens; portions of others are refused.
        process: index of this process, and how many there are.
        progress: draws a progress bar.

    Returns:
        How many portions there are in all, those of other processes included.

    Raises:
        SettingError: when there is no text, or nothing to hold out.
        RunError: when what is there was made from something else.
    """
    made_from = {**made_from, "source": source.identity}
    done = published(directory, made_from)
    end = _resumable(done, process)
    start = done[end - 1]["end"] if end else None
    if start and done[end - 1]["divided"] == "by document":
        reading = source.read(start["source"])
        rest = _stream(reading, start, plan)
        division = _Division("by document", _by_document(plan), end)
        with Progress(documents=_most(reading.total, plan), done=start["documents"], show=progress) as bar:
            return _encode(directory, rest, division, done, encode_batch, made_from, process, bar)
    reading = source.read()
    stream = _stream(reading, None, plan)
    head, complete = _head(stream, plan.compare_up_to)
    if not head:
        raise SettingError(*source.blamed, "holds no text; at least one document that is not blank is needed")
    if complete:
        documents = [document for block in head for document in block.documents]
        held = held_out_documents(documents, plan.held_out_fraction)
        division = _Division("all compared", lambda number, document: number in held, 0)
        bar = Progress(characters=sum(block.characters for block in head), show=progress)
    else:
        division = _Division("by document", _by_document(plan), 0)
        bar = Progress(documents=_most(reading.total, plan), show=progress)
    with bar:
        return _encode(directory, _chain(head, stream), division, done, encode_batch, made_from, process, bar)


@dataclass(frozen=True)
class _Division:
    """How documents are divided, and the number of the first portion that is looked at."""

    name: str
    is_held_out: IsHeldOut
    first: int


def _encode(
    directory: Path,
    stream: Iterator[Block],
    division: _Division,
    done: Mapping[int, Mapping[str, Any]],
    encode_batch: EncodeBatch,
    made_from: Mapping[str, Any],
    process: tuple[int, int],
    progress: Progress,
) -> int:
    k = division.first
    for number, documents, end in _portions(stream, done[k - 1]["end"]["documents"] if k else 0):
        if k in done:
            if done[k]["documents_sha256"] != fingerprint(documents):
                raise RunError(f"{directory}: was begun with another text; delete it and start again")
            progress.add(documents, 0)
        elif k % process[1] == process[0]:
            held_out = [division.is_held_out(number + i, document) for i, document in enumerate(documents)]
            record = {"made_from": made_from, "divided": division.name, "end": end}
            write_portion(directory, k, encoded(documents, encode_batch, progress), held_out, record)
        else:
            progress.add(documents, 0)
        k += 1
    return k


def side_of(directory: Path, count: int, held_out: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Name and token ids of the documents of one side, in order, one portion in memory at a time.

    Raises:
        RunError: when one of the `count` portions is missing or damaged.
    """
    for k in range(count):
        yield from read_portion(directory, k, held_out)


def _stream(reading: Any, start: Mapping[str, Any] | None, plan: Plan) -> Iterator[Block]:
    return blocks(
        reading,
        start=start,
        shuffle_buffer=plan.shuffle_buffer,
        seed=plan.seed,
        max_documents=plan.max_documents,
    )


def _by_document(plan: Plan) -> IsHeldOut:
    return lambda number, document: is_held_out(document, plan.held_out_fraction)


def _most(total: int | None, plan: Plan) -> int | None:
    """How many documents there are at most, where that is known."""
    known = [number for number in (total, plan.max_documents or None) if number is not None]
    return min(known) if known else None


def _head(stream: Iterator[Block], compare_up_to: int) -> tuple[list[Block], bool]:
    """The first blocks, until they hold more than so many bytes; and whether they are all there are."""
    head, size = [], 0
    for block in stream:
        head.append(block)
        size += sum(document.size for document in block.documents)
        if size > compare_up_to:
            return head, False
    return head, True


def _chain(head: list[Block], rest: Iterator[Block]) -> Iterator[Block]:
    """The blocks of the head, let go one by one, and the rest."""
    head.reverse()
    while head:
        yield head.pop()
    yield from rest


def _portions(stream: Iterator[Block], number: int) -> Iterator[tuple[int, list[Document], Mapping[str, Any]]]:
    """Number of its first document, the documents of each portion, and where the stream goes on after it."""
    documents: list[Document] = []
    characters, end = 0, None
    for block in stream:
        documents += block.documents
        characters, end = characters + block.characters, block.end
        if characters >= PORTION_CHARACTERS:
            yield number, documents, end
            number += len(documents)
            documents, characters, end = [], 0, None
    if end is not None:
        yield number, documents, end


def _resumable(done: Mapping[int, Any], process: tuple[int, int]) -> int:
    """After which of the published portions this process may go on without missing one of its own."""
    index, processes = process
    missing = index
    while missing in done:
        missing += processes
    return max((k + 1 for k in done if k < missing), default=0)
