"""Superblocks to the batch of step t, on the mesh. The position is one integer; no state is kept anywhere else."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from gsae.activations.order import EPOCH_ROWS, EPOCH_SUPERBLOCKS, permutation
from gsae.activations.superblocks import GRADIENT, Superblocks
from gsae.errors import SettingError

Batch = dict[str, dict[str, jax.Array]]
READERS = 8  # threads, at most, that read superblocks
ORDER = ""  # stands among the arrays' names for the order of the rows


class Batches:
    """The batch of step t as a pure function of (seed, t).

    Each epoch visits the superblocks in an order permuted by (seed, epoch). Inside superblock k the rows come as they
    are stored, in random order, in the first epoch, and permuted by (seed, epoch, k) in later ones. Every row comes
    once an epoch.

    Attributes:
        steps_per_epoch: batches in one pass over all rows.
        stall_seconds: how long consumers of `stream` have waited for batches so far.
    """

    def __init__(
        self,
        superblocks: Superblocks,
        sites: Sequence[str],
        batch_size: int,
        seed: int,
        *,
        sharding: Sharding | None = None,
        prefetch: int = 2,
        gradients: bool = False,
        meet: Callable[[int, int | None], object] | None = None,
    ):
        """Reads nothing yet.

        Args:
            superblocks: where the rows are.
            sites: which of its sites every batch has; row r is the same token in all.
            batch_size: B rows; divides the rows of a superblock.
            seed: decides the order.
            sharding: of the batches [B, D]; None puts them on the first device.
            prefetch: how many batches `stream` keeps ready on the devices, at least 1.
            gradients: whether batches hold the gradients at the sites as well.
            meet: called by the consumer of a stream, hence in all processes at the same step, before a superblock is
                read: with its number, and that of the next one, if any. Then nothing is read ahead.

        Raises:
            SettingError: when B does not divide the superblock, or the devices do not divide B; for an unknown site.
        """
        rows = superblocks.superblock_rows
        if batch_size < 1 or rows % batch_size:
            allowed = f"must divide the rows of a superblock (config.activations.superblock_rows = {rows})"
            raise SettingError("config.training.batch_size", batch_size, allowed)
        for site in sites:
            if site not in superblocks.sites:
                raise SettingError("config.sweep", site, f"the activations have {', '.join(superblocks.sites)}")
            if gradients and not getattr(superblocks, "gradients", False):  # most kinds of superblocks have none
                allowed = "the activations were made without; make them with config.activations.gradients = True"
                raise SettingError("config.activations.gradients", False, allowed)
        self.sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
        try:
            for site in sites:
                self.sharding.shard_shape((batch_size, superblocks.width(site)))
        except ValueError as error:
            allowed = f"must be a multiple of the {len(self.sharding.device_set)} devices of the mesh"
            raise SettingError("config.training.batch_size", batch_size, allowed) from error
        self.superblocks, self.sites, self.batch_size = superblocks, tuple(sites), batch_size
        # What stands in a batch under a name, by site and name: arrays of the superblocks.
        kinds = {"x": "", "gradient": GRADIENT} if gradients else {"x": ""}
        self.arrays = {site: {kind: site + suffix for kind, suffix in kinds.items()} for site in self.sites}
        self.array_names = tuple(name for named in self.arrays.values() for name in named.values())
        self.meet = meet
        self.seed, self._prefetch, self._readers = seed, max(1, prefetch), min(len(self.array_names) + 1, READERS)
        self.steps_per_superblock = rows // batch_size
        self.steps_per_epoch = superblocks.num_superblocks * self.steps_per_superblock
        self.stall_seconds = 0.0

    def at(self, t: int) -> Batch:
        """The batch of step t: by site, `{"x": [B, D]}` in the store's dtype, and `"gradient"` if wanted.

        Reads a whole superblock.
        """
        with ThreadPoolExecutor(self._readers) as readers:
            self._meet(t, t + 1)
            return _Window(self, readers, t + 1).batch(t)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start to stop - 1, made ahead in other threads.

        Holds two superblocks of each site, the one in use and the next, and `prefetch` batches. What goes wrong in a
        thread is raised here, at the step that needs it.
        """
        readers, maker = ThreadPoolExecutor(self._readers), ThreadPoolExecutor(1)
        window = _Window(self, readers, stop)
        ready: deque[Future[Batch]] = deque()
        following = iter(range(start, stop))

        def begin(count: int) -> None:
            for t in itertools.islice(following, count):
                if self.meet is not None and (t == start or t % self.steps_per_superblock == 0):
                    wait(ready)  # whoever makes them reads the superblock before until then
                    self._meet(t, stop)
                ready.append(maker.submit(window.batch, t))

        try:
            began = time.perf_counter()
            begin(self._prefetch)
            while ready:
                batch = ready.popleft().result()
                begin(1)
                self.stall_seconds += time.perf_counter() - began
                yield batch
                began = time.perf_counter()
        finally:  # also when the consumer stops early
            for pool in (maker, readers):
                pool.shutdown(cancel_futures=True)

    def superblock_at(self, visit: int) -> int:
        """Which superblock is read as number `visit` of all that are read, epochs one after the other."""
        epoch, place = divmod(visit, self.superblocks.num_superblocks)
        return int(permutation(self.superblocks.num_superblocks, self.seed, EPOCH_SUPERBLOCKS, epoch)[place])

    def _meet(self, t: int, stop: int) -> None:
        if self.meet is not None:
            visit, last = t // self.steps_per_superblock, (stop - 1) // self.steps_per_superblock
            self.meet(self.superblock_at(visit), self.superblock_at(visit + 1) if visit < last else None)


class _Window:
    """The superblock in use and the one that comes next, for one thread that makes batches in order."""

    def __init__(self, batches: Batches, readers: ThreadPoolExecutor, stop: int):
        self._batches, self._readers = batches, readers
        self._last_visit = (stop - 1) // batches.steps_per_superblock
        self._visit = -1
        self._rows: dict[str, np.ndarray] = {}
        self._order = np.empty(0, np.int64)
        self._following: dict[str, Future[np.ndarray]] = {}

    def batch(self, t: int) -> Batch:
        visit, part = divmod(t, self._batches.steps_per_superblock)
        if visit != self._visit:
            self._enter(visit)
        size = self._batches.batch_size
        chosen = self._order[part * size : (part + 1) * size]
        return {
            site: {kind: self._placed(self._rows[name], chosen) for kind, name in named.items()}
            for site, named in self._batches.arrays.items()
        }

    def _enter(self, visit: int) -> None:
        loading = self._following or self._load(visit)
        self._rows = {}  # the old superblock goes before the next but one comes
        self._rows = {name: loading[name].result() for name in self._batches.array_names}
        self._order, self._visit = loading[ORDER].result(), visit
        ahead = visit < self._last_visit and self._batches.meet is None
        self._following = self._load(visit + 1) if ahead else {}

    def _load(self, visit: int) -> dict[str, Future[np.ndarray]]:
        superblocks, seed = self._batches.superblocks, self._batches.seed
        epoch, k = visit // superblocks.num_superblocks, self._batches.superblock_at(visit)
        loading = {name: self._readers.submit(superblocks.read, name, k) for name in self._batches.array_names}
        loading[ORDER] = self._readers.submit(_row_order, superblocks.superblock_rows, seed, epoch, k)
        return loading

    def _placed(self, rows_RD: np.ndarray, chosen_B: np.ndarray) -> jax.Array:
        # Each process copies the rows of its own devices. The copy is needed: on CPU jax would keep a slice, and with
        # it the whole superblock, alive.
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # sharded arrays ask by slices
            return np.take(rows_RD, chosen_B[index[0]], axis=0)[:, index[1]]  # half the time of rows_RD[...]

        return jax.make_array_from_callback((len(chosen_B), rows_RD.shape[1]), self._batches.sharding, part)


def _row_order(rows: int, seed: int, epoch: int, k: int) -> np.ndarray:
    return permutation(rows, seed, EPOCH_ROWS, epoch, k) if epoch else np.arange(rows)
