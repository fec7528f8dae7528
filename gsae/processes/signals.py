"""SIGTERM and SIGINT to one of several processes: outside the training they end all of them at once, inside together.

While it trains, jax brings all processes to a common step, after which they save (`agreed`). At any other time there is
no common step; what is done so far is on the disk. A thread reads the signals, because the main thread may be waiting.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


def listen(stopped: Callable[[str], Any]) -> None:
    """Has `stopped` called, in a thread, with the name of a signal that came while nobody else handles it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in STOPPING:
        signal.signal(number, _noted)

    def wait() -> None:
        while True:
            number = os.read(read, 1)[0]
            if number in STOPPING and signal.getsignal(number) is _noted:
                stopped(signal.Signals(number).name)

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _noted(number: int, frame: FrameType | None) -> None:
    """Python's handler: the thread has been told already."""


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """While it lasts, SIGTERM to one process makes `reached_preemption_sync_point` true in all, at the same step.

    jax's own listener takes SIGTERM for the whole life of a process, and tells nobody outside a loop of steps: so it
    is started here (`Together` starts jax without it). A program that started jax by itself has it already.
    """
    import jax
    from jax._src import distributed

    state, before = distributed.global_state, signal.getsignal(signal.SIGTERM)
    if state.client is None or state.preemption_sync_manager is not None:
        yield
        return
    jax.config.update("jax_enable_preemption_service", True)
    state.initialize_preemption_sync_manager()
    try:
        yield
    finally:
        if state.preemption_sync_manager is not None:
            state.preemption_sync_manager.shutdown()
        state.preemption_sync_manager = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
