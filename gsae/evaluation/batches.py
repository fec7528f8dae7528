"""Held-out sequences, in batches of one shape.

Axes: B sequences, T positions.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gsae.errors import SettingError
from gsae.text.tokens import TokenStore


class Batch(NamedTuple):
    """Sequences of one shape. Rows that only fill up the last batch are kept nowhere and belong to no document.

    Attributes:
        tokens_BT: int32.
        keep_BT: bool, the positions that count and are spliced.
        documents_BT: the document of each token; below zero for padding.
    """

    tokens_BT: np.ndarray
    keep_BT: np.ndarray
    documents_BT: np.ndarray


def choose_sequences(token_store: TokenStore, tokens: int, seed: int, skip_tokens: int = 0) -> np.ndarray:
    """Sequences in random order until `tokens` of their tokens count (0: all): int64 [n]. Fewer are a part of more.

    The first sequences, those with `skip_tokens` tokens that count, are passed over: what a run with that many tokens
    is judged on, and a run that skips as many, have no sequence in common.

    Raises:
        SettingError: when that leaves no sequence.
    """
    order = np.random.default_rng(seed).permutation(token_store.num_sequences)
    order = order[_how_many(token_store, order, skip_tokens) if skip_tokens else 0 :]
    if not len(order):
        raise SettingError("config.evaluation.skip_tokens", skip_tokens, "passes over all of the held-out text")
    return order[: _how_many(token_store, order, tokens)] if tokens else order


def counted_tokens(token_store: TokenStore, at_once: int = 4096) -> int:
    """How many tokens of a store count."""
    starts = range(0, token_store.num_sequences, at_once)
    chunks = (np.arange(start, min(start + at_once, token_store.num_sequences)) for start in starts)
    return sum(int(token_store.mask(chunk).sum()) for chunk in chunks)


def _how_many(token_store: TokenStore, order: np.ndarray, tokens: int, at_once: int = 256) -> int:
    """How many of the sequences it takes, from the first, until so many of their tokens count; all if that is few."""
    counted = 0
    for start in range(0, len(order), at_once):
        counts = counted + np.cumsum(token_store.mask(order[start : start + at_once]).sum(1))
        if counts[-1] >= tokens:
            return start + int(np.searchsorted(counts, tokens)) + 1
        counted = counts[-1]
    return len(order)


def batches(token_store: TokenStore, sequences: np.ndarray, batch_size: int) -> Iterator[Batch]:
    """The sequences, `batch_size` at a time; the last batch is filled up with rows that count nowhere."""
    for start in range(0, len(sequences), batch_size):
        chosen = sequences[start : start + batch_size]
        missing = ((0, batch_size - len(chosen)), (0, 0))
        yield Batch(
            np.pad(token_store.tokens[chosen].astype(np.int32), missing),
            np.pad(token_store.mask(chosen), missing),
            np.pad(token_store.documents_of(chosen), missing, constant_values=-1),
        )
