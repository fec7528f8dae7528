"""Which rows from elsewhere are held out, and which superblock each of the others goes to: arithmetic on a seed.

Rows that stand next to each other belong together (the tokens of a document), so they are split and shuffled in runs:
whole sequences where the files tell them, as many neighbouring rows otherwise. The runs are permuted; the first of them
are held out; the rest, in that order, fill the superblocks, whose rows are permuted once more. Like `order.RowOrder`,
every superblock is known without the one before it.
"""

from dataclasses import dataclass

import numpy as np

from gsae.activations.order import RUNS, permutation
from gsae.errors import SettingError

RUN_ROWS = 256  # at most, where there are no sequences: a read of some 100 kB, and few documents are cut
FEWEST_RUNS = 128  # shorter runs where there are few rows, so that something can be held out of them


@dataclass(frozen=True)
class Segment:
    """Rows start to stop - 1 of a source, and the places [n] that they take in a superblock."""

    start: int
    stop: int
    places: np.ndarray


def run_length(rows: int, sequence_length: int) -> int:
    """How many rows make a run: whole sequences of `sequence_length` rows, if it is not 0."""
    run = min(RUN_ROWS, max(1, rows // FEWEST_RUNS))
    return sequence_length * max(1, run // sequence_length) if sequence_length else run


def split_runs(rows: int, run: int, held_out_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the runs, permuted by the seed: (held out, training). Neither is empty.

    Raises:
        SettingError: when there is only one run, or none.
    """
    order = permutation(-(-rows // run), seed, RUNS)
    if len(order) < 2:
        allowed = f"cannot be held out of {rows} rows that belong together; at least two sequences are needed"
        raise SettingError("config.activations.held_out_fraction", held_out_fraction, allowed)
    counted = np.cumsum(_lengths(order, rows, run))
    held_out = int(np.searchsorted(counted, held_out_fraction * rows)) + 1
    held_out = min(held_out, len(order) - 1)
    return order[:held_out], order[held_out:]


def _lengths(runs: np.ndarray, rows: int, run: int) -> np.ndarray:
    return np.minimum((runs + 1) * run, rows) - runs * run  # the last run may be shorter


class RunOrder:
    """The rows of every superblock that some runs give.

    Attributes:
        rows_found: rows in these runs, at most `max_rows`.
        superblock_rows: R.
        num_superblocks: whole superblocks in them; the rest of the rows is left out.
    """

    def __init__(
        self, runs: np.ndarray, run: int, rows: int, superblock_rows: int, seed: int, purpose: int, max_rows: int = 0
    ):
        """Counts.

        Args:
            runs: numbers of the runs, in the order in which they are used.
            run: rows of a run.
            rows: rows of the source, which the last run may reach beyond.
            superblock_rows: R, at least 1.
            seed: decides the order inside superblocks.
            purpose: of that order (`order.py`): other runs of the same seed must have another.
            max_rows: at most so many rows; 0 for all.
        """
        self._runs, self._run, self._rows, self._seed, self._purpose = runs, run, rows, seed, purpose
        self._starts = np.concatenate([[0], np.cumsum(_lengths(runs, rows, run))])
        self.rows_found = min(int(self._starts[-1]), max_rows or rows)
        self.superblock_rows = superblock_rows
        self.num_superblocks = self.rows_found // superblock_rows

    def superblock(self, k: int) -> list[Segment]:
        """Where the rows of superblock k come from, and where they are put."""
        first, stop = k * self.superblock_rows, (k + 1) * self.superblock_rows
        places = permutation(self.superblock_rows, self._seed, self._purpose, k)
        within = range(
            int(np.searchsorted(self._starts, first, "right")) - 1, int(np.searchsorted(self._starts, stop, "left"))
        )
        segments = []
        for i in within:
            a, b = max(first, int(self._starts[i])), min(stop, int(self._starts[i + 1]))
            shift = int(self._runs[i]) * self._run - int(self._starts[i])
            segments.append(Segment(a + shift, b + shift, places[a - first : b - first]))
        return sorted(segments, key=lambda segment: segment.start)  # disks like to be read forwards
