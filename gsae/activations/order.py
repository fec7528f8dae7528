"""Which rows go where: the global plan of a harvest, as arithmetic on (seed, k).

The sequences of a token store are permuted by the seed; the positions of theirs that count (the mask), one sequence
after the other in that order, form the row stream; superblock k holds rows k * R to (k + 1) * R - 1 of the stream,
permuted by (seed, k). Whoever knows the seed knows every superblock without having made the one before it: writers
need no coordination, and rows made live are the rows that a store would hold.
"""

from dataclasses import dataclass

import numpy as np

from gsae.errors import SettingError
from gsae.text.tokens import TokenStore

# What a permutation is for: equal seeds for different purposes must not give related orders.
SEQUENCES, ROWS, EPOCH_SUPERBLOCKS, EPOCH_ROWS, SYNTHETIC, RUNS, HELD_OUT_ROWS = range(7)
SEQUENCES_AT_ONCE = 4096  # how many sequences' masks are in memory while rows are counted


def permutation(n: int, seed: int, purpose: int, *index: int) -> np.ndarray:
    """A permutation [n] int64 that is a pure function of its arguments.

    Sorted raw bits, not `Generator.permutation`: numpy promises only of the former never to change (NEP 19).
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(purpose, *index))).random_raw(n)
    return np.argsort(bits, kind="stable")


@dataclass(frozen=True)
class SuperblockRows:
    """The rows of one superblock in stream order; R rows, each array [R]."""

    sequence: np.ndarray  # index into the permuted sequences, not decreasing
    position: np.ndarray  # position within the sequence
    destination: np.ndarray  # the row of the superblock where it is put


class RowOrder:
    """The rows of every superblock that a token store gives.

    Attributes:
        sequences: [n] ids of the sequences in permuted order, as many as are needed.
        rows_found: rows of the stream, capped at `max_rows`.
        num_superblocks: whole superblocks in it; the rest of the rows is left out.
        superblock_rows: R.
    """

    def __init__(self, token_store: TokenStore, superblock_rows: int, seed: int, max_rows: int | None = None):
        """Counts the rows.

        Args:
            token_store: where the sequences and their masks are.
            superblock_rows: R.
            seed: decides the order of the sequences and the order inside superblocks.
            max_rows: at most so many rows; None for all.

        Raises:
            SettingError: when a number is not positive or there are fewer rows than one superblock.
        """
        if superblock_rows < 1:
            raise SettingError(
                "config.activations.superblock_rows", superblock_rows, "must be a positive number of rows"
            )
        if max_rows is not None and max_rows < superblock_rows:
            allowed = f"must be at least config.activations.superblock_rows ({superblock_rows})"
            raise SettingError("config.activations.rows", max_rows, allowed)
        self._token_store, self.superblock_rows, self.seed = token_store, superblock_rows, seed
        order = permutation(token_store.num_sequences, seed, SEQUENCES)
        counts, found = [np.zeros(1, np.int64)], 0
        for start in range(0, len(order), SEQUENCES_AT_ONCE):
            counts.append(token_store.mask(order[start : start + SEQUENCES_AT_ONCE]).sum(axis=1, dtype=np.int64))
            found += int(counts[-1].sum())
            if max_rows is not None and found >= max_rows:
                break
        self._starts = np.cumsum(np.concatenate(counts))  # [n + 1] first row of each sequence in the stream
        self.rows_found = found if max_rows is None else min(found, max_rows)
        self.num_superblocks = self.rows_found // superblock_rows
        if not self.num_superblocks:
            allowed = f"must be at most the {self.rows_found} rows that the text gives"
            raise SettingError("config.activations.superblock_rows", superblock_rows, allowed)
        needed = int(np.searchsorted(self._starts, self.num_superblocks * superblock_rows, "left"))
        self.sequences = order[:needed]

    def superblock(self, k: int) -> SuperblockRows:
        """The rows of superblock k."""
        first_row, end_row = k * self.superblock_rows, (k + 1) * self.superblock_rows
        start = int(np.searchsorted(self._starts, first_row, "right")) - 1
        stop = int(np.searchsorted(self._starts, end_row, "left"))
        sequence, position = np.nonzero(self._token_store.mask(self.sequences[start:stop]))
        inside = slice(first_row - int(self._starts[start]), end_row - int(self._starts[start]))
        destination = permutation(self.superblock_rows, self.seed, ROWS, k)
        return SuperblockRows(sequence[inside] + start, position[inside], destination)

    def provenance(self, k: int) -> dict[str, np.ndarray]:
        """`token_id`, `sequence_id`, `position` of every row of superblock k, each [R] int32."""
        rows = self.superblock(k)
        sequence_id = self.sequences[rows.sequence]
        token_id = self._token_store.tokens[sequence_id, rows.position]
        columns = {"token_id": token_id, "sequence_id": sequence_id, "position": rows.position}
        placed = {name: np.empty(self.superblock_rows, np.int32) for name in columns}
        for name, column in columns.items():
            placed[name][rows.destination] = column
        return placed
