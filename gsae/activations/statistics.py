"""Sums over rows that can be kept per superblock and added up in any number of runs to the same last bit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gsae.activations.superblocks import Statistics
from gsae.errors import RunError

ROWS_AT_ONCE = 512  # summed in float32; so few that rounding stays near one part in a million


@dataclass(frozen=True)
class Sums:
    """Sums over some rows of one site."""

    rows: int
    total: np.ndarray  # [D] float64, sum of the rows
    squared_norm: float  # sum of the rows' squared L2 norms


def sums(rows_RD: np.ndarray) -> Sums:
    """Sums of the rows [R, D] as they are stored: float32 within blocks of rows, float64 across them."""
    total, squared_norm = np.zeros(rows_RD.shape[1]), 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # whoever asks looks at the result
        for start in range(0, len(rows_RD), ROWS_AT_ONCE):
            block = rows_RD[start : start + ROWS_AT_ONCE].astype(np.float32)
            total += block.sum(axis=0)
            squared_norm += float(np.square(block).sum(axis=1).sum(dtype=np.float64))
    return Sums(len(rows_RD), total, squared_norm)


def combined(parts: Iterable[Sums]) -> Statistics:
    """Mean and mean squared norm over all the rows of all the parts, added in the order given."""
    parts = list(parts)
    rows = sum(part.rows for part in parts)
    mean = np.sum([part.total for part in parts], axis=0) / rows
    return {"mean": mean, "mean_squared_norm": sum(part.squared_norm for part in parts) / rows}


def sampled_superblocks(statistics_rows: int, superblock_rows: int, num_superblocks: int) -> int:
    """How many superblocks, counted from the first, the statistics are taken over.

    Args:
        statistics_rows: so many rows at least, in whole superblocks; 0 for all.
        superblock_rows: R.
        num_superblocks: how many there are.
    """
    return min(num_superblocks, -(-statistics_rows // superblock_rows)) if statistics_rows else num_superblocks


class NotFinite(RunError):
    """A row of a site has an infinite or undefined number, or one so large that its squared norm is infinite."""

    def __init__(self, site: str, rows_RD: np.ndarray):
        with np.errstate(over="ignore"):
            squared_norms = np.square(rows_RD.astype(np.float32)).sum(axis=1)
        largest = np.nan_to_num(squared_norms, nan=np.inf, posinf=np.inf)
        self.site, self.row = site, int(np.argmax(largest))
        super().__init__(f"{site}: row {self.row} of a superblock is not finite")


def finite_sums(rows: Mapping[str, np.ndarray]) -> dict[str, Sums]:
    """Sums by site of the rows [R, D] of a superblock.

    Raises:
        NotFinite: naming the site and the row.
    """
    parts = {site: sums(rows_RD) for site, rows_RD in rows.items()}
    for site, part in parts.items():
        if not np.isfinite(part.squared_norm):
            raise NotFinite(site, rows[site])
    return parts
