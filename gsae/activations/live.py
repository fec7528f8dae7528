"""Superblocks straight from the language model, while the sweep trains on them: the rows of a store, without the store.

A generation is one superblock at all sites. One thread makes them, in the order in which they are asked for. Batches
asks for the next one as soon as it begins to consume one, so that a generation is consumed whole while the following
one is made: two are in memory, and a resumed run makes at most these two again. Both sides wait for each other: the
sweep when a generation is not there yet (`Batches.stall_seconds`), the language model when both places are taken
(`Live.idle_seconds`).
"""

import contextlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from tqdm import tqdm

from gsae import artifacts
from gsae.activations.forward import Forward, Rows
from gsae.activations.statistics import NotFinite, Sums, combined, finite_sums, sampled_superblocks
from gsae.activations.store import sealed, unsealed
from gsae.activations.superblocks import Statistics
from gsae.errors import RunError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site
from gsae.text.tokens import TokenStore

GENERATIONS = 2  # kept: the one in use, and the one being made or waiting


class Generation(NamedTuple):
    """One superblock, by site."""

    rows: Rows  # [R, D]
    sums: dict[str, Sums]

    @classmethod
    def of(cls, rows: Rows, forward: Forward, k: int) -> "Generation":
        """Superblock k; RunError when a row is not finite, naming the document."""
        try:
            return cls(rows, finite_sums(rows))
        except NotFinite as error:
            raise forward.blamed(error, k) from error


class Live:
    """The `Superblocks` that a store of the same settings holds, made when they are read, bit for bit.

    Attributes:
        made: how many generations this process has made.
    """

    def __init__(self, forward: Forward, statistics_path: Path, *, statistics_rows: int = 0, progress: bool = True):
        """Makes nothing yet.

        Args:
            forward: makes the rows.
            statistics_path: the JSON file that keeps the statistics, a few kilobytes: all that is ever written.
            statistics_rows: how many rows, in whole superblocks from the first, `statistics` is about; 0: all.
            progress: draws a bar while they are made for the statistics.
        """
        self._forward, self._statistics_path, self._progress = forward, Path(statistics_path), progress
        self.identity = forward.identity
        self.sites = self.identity.without_gradients
        self.gradients = len(self.sites) < len(self.identity.sites)
        self.superblock_rows, self.num_superblocks = self.identity.superblock_rows, self.identity.num_superblocks
        self.rows = self.superblock_rows * self.num_superblocks
        self.fingerprint = self.identity.fingerprint
        self.made = 0
        self._sampled = sampled_superblocks(statistics_rows, self.superblock_rows, self.num_superblocks)
        self._producer = ThreadPoolExecutor(1, "language-model")
        self._lock = threading.Lock()
        self._generations: OrderedDict[int, Future[Generation]] = OrderedDict()  # least recently used first
        # Whoever still holds rows shares them: reviving features reads what the training is about to use once more.
        self._in_use: WeakValueDictionary[tuple[str, int], np.ndarray] = WeakValueDictionary()
        self._closed = threading.Event()
        self._idle_seconds = 0.0
        self._idle_since: float | None = None

    @classmethod
    def of(
        cls,
        language_model: LanguageModel,
        token_store: TokenStore,
        sites: Sequence[Site],
        statistics_path: Path,
        *,
        statistics_rows: int = 0,
        progress: bool = True,
        **rows: Any,
    ) -> "Live":
        """The rows that `harvest` of the same arguments writes; `rows` are those of `Forward.of`, which may refuse."""
        forward = Forward.of(language_model, token_store, sites, **rows)
        return cls(forward, statistics_path, statistics_rows=statistics_rows, progress=progress)

    def width(self, site: str) -> int:
        """D of the site."""
        return self.identity.sites[site]

    def read(self, site: str, k: int) -> np.ndarray:
        """Superblock k of a site, [R, D] in the dtype of the rows; waits until it is made. For all to share: not to be
        written to.

        Raises:
            RunError: when a row is not finite, naming the document.
        """
        with self._lock:
            rows_RD = self._in_use.get((site, k))
        if rows_RD is None:
            rows_RD = self._generation(k).result().rows[site]
            with self._lock:
                self._in_use[site, k] = rows_RD
        return rows_RD

    def provenance(self, k: int) -> Mapping[str, np.ndarray]:
        """`token_id`, `sequence_id`, `position` of every row of superblock k, each [R] int32; needs no forward pass."""
        return self._forward.order.provenance(k)

    def _generation(self, k: int) -> Future[Generation]:
        if not 0 <= k < self.num_superblocks:
            raise IndexError(f"superblock {k}: there are {self.num_superblocks}")
        with self._lock:
            if k not in self._generations:
                while len(self._generations) >= GENERATIONS:
                    self._generations.popitem(last=False)
                self._generations[k] = self._producer.submit(self._make, k)
            self._generations.move_to_end(k)
            return self._generations[k]

    def _make(self, k: int) -> Generation:
        with self._busy():
            return Generation.of(self._forward.superblock(k, self._go_on), self._forward, k)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """While one more generation is made, or a share of it."""
        self._set_idle(False)
        try:
            yield
        finally:
            self._set_idle(True)
        self.made += 1

    def _go_on(self, rows: int) -> None:
        if self._closed.is_set():
            raise RunError("the language model was told to stop")

    def _made(self, k: int, following: int | None) -> Generation:
        """Generation k, and the language model goes on to the following one meanwhile."""
        made = self._generation(k).result()
        if following is not None:
            self._generation(following)
        return made

    def _set_idle(self, idle: bool) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._idle_since is not None:
                self._idle_seconds += now - self._idle_since
            self._idle_since = now if idle else None

    @property
    def idle_seconds(self) -> float:
        """For how long the language model has waited so far, since its first generation, until one more was needed."""
        with self._lock:
            return self._idle_seconds + (time.perf_counter() - self._idle_since if self._idle_since else 0.0)

    def describe(self) -> str:
        """What this process has made, and how long it waited, in one line."""
        made = f"{self.made} generations of {self.superblock_rows:,} rows made"
        return f"{made}; the language model waited {self.idle_seconds:.1f} s for the sweep to need more"

    def close(self) -> None:
        """Ends the thread, in the middle of a generation if need be; nothing can be read any more."""
        self._closed.set()
        self._producer.shutdown(cancel_futures=True)

    def statistics(self, site: str) -> Statistics:
        """Mean [D] float64 and mean squared norm over the first `statistics_rows` rows of the site.

        They are what the store of the same settings says, to the last bit. Made once, in a pass over these rows, and
        kept on the disk.
        """
        return self._statistics[site]

    @cached_property
    def _statistics(self) -> dict[str, Statistics]:
        about = {"rows": self.fingerprint, "superblocks": self._sampled}
        kept = self._kept_statistics()
        if kept.get("about") != about:
            made = self._make_statistics()
            plain = {site: {**found, "mean": found["mean"].tolist()} for site, found in made.items()}
            kept = {"about": about, "sites": plain}
            self._keep_statistics(kept)
        return {
            site: {"mean": np.array(found["mean"]), "mean_squared_norm": found["mean_squared_norm"]}
            for site, found in kept["sites"].items()
        }

    def _kept_statistics(self) -> dict:
        try:
            return unsealed(self._statistics_path, json.loads(self._statistics_path.read_text()))
        except (OSError, ValueError, RunError):  # missing, or not what was written: they can always be made again
            return {}

    def _keep_statistics(self, found: dict) -> None:
        artifacts.write_json(self._statistics_path, sealed(found))

    def _make_statistics(self) -> dict[str, Statistics]:
        parts = []
        total = self._sampled * self.superblock_rows
        with tqdm(total=total, desc="statistics", unit=" rows", unit_scale=True, disable=not self._progress) as bar:
            for k in range(self._sampled):
                parts.append(self._made(k, k + 1 if k + 1 < self._sampled else None).sums)
                bar.update(self.superblock_rows)
        return {site: combined(part[site] for part in parts) for site in self.sites}
