"""The one interface between whatever makes activations and whatever trains on them.

Rows come in superblocks of a fixed number of rows: each is read whole, and its rows are already in random order. The
store on disk, synthetic data and a language model running live all look like this.
"""

from collections.abc import Mapping
from typing import Protocol, TypedDict

import numpy as np

GRADIENT = ".gradient"  # a site's name with this after it is the name of its gradients


class Statistics(TypedDict):
    """What input normalisation needs to know about one site, over all rows or the first of them."""

    mean: np.ndarray  # [D] float64
    mean_squared_norm: float  # mean over rows of the squared L2 norm


class Superblocks(Protocol):
    """Rows of activations at one or more sites; row r is the same token at every site."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are: `num_superblocks * superblock_rows`."""
        ...

    @property
    def superblock_rows(self) -> int:
        """R, the number of rows of every superblock."""
        ...

    @property
    def num_superblocks(self) -> int:
        """How many superblocks there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest (64 hex digits) of everything that decides the rows."""
        ...

    def width(self, site: str) -> int:
        """D, how many numbers a row of the site has."""
        ...

    def statistics(self, site: str) -> Statistics:
        """Mean and mean squared norm over rows of the site: all, or a sample that does not depend on who makes them."""
        ...

    def read(self, site: str, k: int) -> np.ndarray:
        """Superblock k of a site, [R, D] in the storage dtype; or of its gradients, where they were made.

        May be called from any thread.
        """
        ...

    def provenance(self, k: int) -> Mapping[str, np.ndarray]:
        """Where the rows of superblock k come from: `token_id`, `sequence_id`, `position`, each [R] int32."""
        ...
