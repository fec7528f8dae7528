"""Superblocks made from a known dictionary, so that what an autoencoder finds can be compared with the truth.

A row is x = c @ dictionary + noise: c [G] is sparse and not negative, the G dictionary vectors have unit norm.
`recovery.py` compares.

Source: the toy data of Sharkey, Braun and Millidge 2022, "Taking features out of superposition with sparse
autoencoders" (random unit directions, correlated firing); the copula is our way to correlate.
"""

from collections.abc import Mapping
from functools import cached_property
from statistics import NormalDist

import numpy as np

from gsae import artifacts
from gsae.activations.order import SYNTHETIC
from gsae.activations.statistics import combined, sums
from gsae.activations.superblocks import Statistics
from gsae.errors import SettingError

# Laws of a firing feature's magnitude, each with mean 1.
MAGNITUDES = {
    "constant": lambda generator, shape: np.ones(shape),
    "uniform": lambda generator, shape: generator.uniform(0, 2, shape),
    "half_normal": lambda generator, shape: np.abs(generator.standard_normal(shape)) * np.sqrt(np.pi / 2),
    "exponential": lambda generator, shape: generator.exponential(1, shape),
}
SITE = "synthetic"


class Synthetic:
    """Synthetic `Superblocks` with one site, `synthetic`; superblock k is a pure function of the arguments and k."""

    sites = (SITE,)

    def __init__(
        self,
        width: int,
        dictionary_size: int,
        active_per_row: float,
        rows: int,
        superblock_rows: int,
        seed: int,
        *,
        magnitude: str = "half_normal",
        correlation: float = 0.0,
        correlated: int = 8,
        noise: float = 0.0,
    ):
        """Makes the dictionary; rows are made when they are read.

        Args:
            width: D, numbers of a row.
            dictionary_size: G, true features.
            active_per_row: how many of them fire in a row on average; each does with probability active_per_row / G.
            rows: as many as are wanted; rounded down to whole superblocks.
            superblock_rows: R.
            seed: decides dictionary and rows.
            magnitude: law of a firing feature's magnitude, one of `MAGNITUDES`; its mean is 1.
            correlation: from 0 to below 1. A feature fires when a normal variable exceeds a threshold; this is the
                correlation of these variables within a group of features (a Gaussian copula).
            correlated: how many neighbouring features form a group.
            noise: standard deviation of the normal noise in each number.

        Raises:
            SettingError: for a value outside these bounds.
        """
        if magnitude not in MAGNITUDES:
            raise SettingError("magnitude", magnitude, f"must be one of {', '.join(MAGNITUDES)}")
        if not 0 < active_per_row < dictionary_size:
            raise SettingError("active_per_row", active_per_row, f"must be between 0 and {dictionary_size}")
        if not 0 <= correlation < 1:
            raise SettingError("correlation", correlation, "must be at least 0 and below 1")
        if not 0 < superblock_rows <= rows:
            raise SettingError("superblock_rows", superblock_rows, f"must be from 1 to the {rows} rows")
        self.superblock_rows, self.num_superblocks = superblock_rows, rows // superblock_rows
        self.rows = self.num_superblocks * superblock_rows
        self._seed, self._magnitude, self._noise = seed, MAGNITUDES[magnitude], noise
        self._correlation, self._correlated = correlation, correlated
        self._threshold = NormalDist().inv_cdf(1 - active_per_row / dictionary_size)
        dictionary_GD = self._generator(0).standard_normal((dictionary_size, width))
        dictionary_GD /= np.linalg.norm(dictionary_GD, axis=1, keepdims=True)
        self.dictionary = dictionary_GD.astype(np.float32)  # [G, D]
        decisive = [width, dictionary_size, active_per_row, self.rows, superblock_rows, seed]
        self.fingerprint = artifacts.fingerprint([SITE, *decisive, magnitude, correlation, correlated, noise])

    def _generator(self, *index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self._seed, spawn_key=(SYNTHETIC, *index))))

    def codes(self, k: int) -> np.ndarray:
        """The true code c of every row of superblock k, [R, G] float32: 0 where a feature does not fire."""
        generator, shape = self._generator(1, k), (self.superblock_rows, len(self.dictionary))
        groups = generator.standard_normal((shape[0], -(-shape[1] // self._correlated)))
        shared = np.repeat(groups, self._correlated, axis=1)[:, : shape[1]]
        own = generator.standard_normal(shape)
        fires = np.sqrt(self._correlation) * shared + np.sqrt(1 - self._correlation) * own > self._threshold
        return (fires * self._magnitude(generator, shape)).astype(np.float32)

    def width(self, site: str) -> int:
        """D."""
        return self.dictionary.shape[1]

    def read(self, site: str, k: int) -> np.ndarray:
        """Superblock k, [R, D] float32."""
        clean = self.codes(k) @ self.dictionary
        noise = self._generator(2, k).standard_normal(clean.shape, dtype=np.float32)
        return clean + np.float32(self._noise) * noise

    @cached_property
    def _statistics(self) -> Statistics:
        return combined(sums(self.read(SITE, k)) for k in range(self.num_superblocks))

    def statistics(self, site: str) -> Statistics:
        """Mean [D] float64 and mean squared norm over all rows, which are made once for it."""
        return self._statistics

    def provenance(self, k: int) -> Mapping[str, np.ndarray]:
        """Every row is its own sequence of one token: `sequence_id` counts rows."""
        count = np.arange(k * self.superblock_rows, (k + 1) * self.superblock_rows, dtype=np.int32)
        return {"token_id": np.zeros_like(count), "sequence_id": count, "position": np.zeros_like(count)}
