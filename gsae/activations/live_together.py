"""Rows made live by several processes: each makes a share of every generation, and all get all of it.

Shares are made in each process's own thread and on its own devices, without a word to the others. They are exchanged by
collectives, which all processes have to start in one order: so it is the thread of the training that starts them
(`meet`), at the same step everywhere, and it goes on at once. Which generations are kept follows from the calls of
`meet` alone, hence is the same everywhere too.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsae.activations.exchange import Exchange
from gsae.activations.forward import Rows
from gsae.activations.live import GENERATIONS, Generation, Live


class LiveTogether(Live):
    """`Live` for a run of several processes; all of them use theirs alike. `Batches` is given its `meet`."""

    def __init__(self, *args: Any, **kwargs: Any):
        """As `Live`."""
        super().__init__(*args, **kwargs)
        self._exchange, self._process = Exchange(), jax.process_index()
        self._shares: dict[int, Future[Rows]] = {}
        self._assembler = ThreadPoolExecutor(1, "generations")
        self._progress = self._progress and self._process == 0

    def meet(self, k: int, following: int | None = None) -> None:
        """Has generation k made whole in every process: to be called by all of them in the same order.

        Waits until this process's share of it is made.

        Args:
            k: which one; nothing happens where it is one of the newest `GENERATIONS` that were met.
            following: the one that will be met next, if any: its share is made meanwhile.
        """
        if k in self._generations:
            self._generations.move_to_end(k)
        else:
            share = self._shares.pop(k, None) or self._producer.submit(self._make_share, k)
            rows = share.result()
            wheres = self._forward.shares(k, self._exchange.processes)
            most = max(map(len, wheres))
            started = {name: self._exchange.start(own, most) for name, own in rows.items()}
            self._generations[k] = self._assembler.submit(self._assemble, k, started, wheres)
            while len(self._generations) > GENERATIONS:
                self._generations.popitem(last=False)
        if following is not None and following not in self._generations and following not in self._shares:
            self._shares[following] = self._producer.submit(self._make_share, following)

    def _make_share(self, k: int) -> Rows:
        with self._busy():
            return self._forward.share(k, self._process, self._exchange.processes, self._go_on)

    def _assemble(self, k: int, started: dict[str, list[jax.Array]], wheres: list[np.ndarray]) -> Generation:
        rows = {
            name: self._exchange.whole(pieces, wheres, np.dtype(self._forward.dtype))
            for name, pieces in started.items()
        }
        return Generation.of(rows, self._forward, k)

    def _generation(self, k: int) -> Future[Generation]:
        return self._generations[k]  # it was met

    def _made(self, k: int, following: int | None) -> Generation:
        self.meet(k, following)
        return self._generation(k).result()

    def _kept_statistics(self) -> dict:
        kept = super()._kept_statistics()
        everywhere = multihost_utils.process_allgather(np.asarray(bool(kept)))
        return kept if np.all(everywhere) else {}  # or one would not take part in making them again

    def _keep_statistics(self, found: dict) -> None:
        if self._process == 0:
            super()._keep_statistics(found)

    def describe(self) -> str:
        """What this process has made, and how long it waited, in one line."""
        return f"{super().describe()}; each of {self._exchange.processes} processes made a share of every generation"

    def close(self) -> None:
        """Ends the threads, in the middle of a generation if need be; nothing can be read any more."""
        super().close()
        self._assembler.shutdown(cancel_futures=True)
