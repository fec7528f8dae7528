"""SIGTERM and SIGINT as a request to stop: the loop saves at its next step and ends with a code of its own."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from gsae.processes.signals import agreed


class StopRequest:
    """Whether a signal asked the run to stop. Made by `watch_signals`."""

    def __init__(self) -> None:
        self.signal_name = ""

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step` updates. With several processes, all must call it at every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal_name = self.signal_name or "SIGTERM"
            return True
        return jax.process_count() == 1 and bool(self.signal_name)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT with several processes: jax listens to SIGTERM; a second SIGINT kills at once."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.signal_name = signal.Signals(number).name
        signal.raise_signal(signal.SIGTERM)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: notes the first signal; a second SIGINT kills at once."""
        if self.signal_name and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        if not self.signal_name:
            self.signal_name = signal.Signals(number).name
            # Past the buffers of sys.stderr: the signal may have come in the middle of a print.
            os.write(2, f"\n{self.signal_name}: saving at the next step, then stopping\n".encode())


@contextlib.contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """While it lasts, SIGTERM and SIGINT do not end the process but are noted; the old handlers come back after.

    With several processes SIGTERM is left to jax, which brings all of them to a common step, and SIGINT becomes one.
    Outside the main thread, where Python allows no handlers, nothing is watched.
    """
    request = StopRequest()
    handlers = {signal.SIGINT: request.receive, signal.SIGTERM: request.receive}
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: request.pass_on}
    watched = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if watched}
    try:
        with agreed():
            yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
