"""Several processes as one run: they start together, and when one fails all end, with its exit code and one line.

Who fails first leaves a note in jax's coordination service, in which every process has a thread waiting. A process that
is killed leaves none: then the collectives of the others fail, or jax misses its heartbeats and aborts them.
"""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gsae.errors import Interrupted, RunError, SettingError
from gsae.processes import failing, signals
from gsae.processes.launcher import SECTION, Launch
from gsae.processes.terminal import LOG, Terminal
from gsae.processes.waiting import client, wait_for_all

FAILED = "gsae/failed"  # the note: exit code, process, what it says
LOOK = "its file in the same directory may say why"
SEEN = "gsae/seen/"  # which processes have read it
LINGER = 5.0  # seconds at most for which the first process, which has the note, lets others read it
GRACE = 2.0  # seconds in which whoever has failed leaves a note before its peers blame the connection


class Together:
    """This process as one of several; made before jax's backend starts.

    Args:
        launch: which one.
        start_timeout: seconds within which all must have come.
        heartbeat_timeout: seconds after which a process that is not heard of counts as dead, and the others end.
    """

    def __init__(self, launch: Launch, *, start_timeout: float, heartbeat_timeout: float):
        self.launch, self._start_timeout, self._heartbeat_timeout = launch, start_timeout, heartbeat_timeout
        self._terminal, self._log = Terminal(launch.index), Path()
        self._ending, self._joined, self._finished = threading.Lock(), False, False
        failing.on_abort(self._aborted)
        LOG.info("process %d of %d starts, the first is at %s", launch.index, launch.count, launch.coordinator)
        try:
            self._join()
        except Exception as error:
            self._end(1, f"jax could not start: {_one_line(error)}", tells=True)
        self._joined = True
        threading.Thread(target=self._watch, name="peers", daemon=True).start()
        signals.listen(self._stopped)

    def log_in(self, directory: Path) -> None:
        """Keeps what this process prints in `directory`, which all see. Returns when all have such a file."""
        self._log = directory / f"process-{self.launch.index}.log"
        self._terminal.keep_in(self._log)
        wait_for_all("logs", self._start_timeout)

    def fail(self, complaint: str, code: int) -> NoReturn:
        """Says in one line what went wrong here, unless another process was first, and ends all."""
        if self.launch.index > 0:
            self._wait_for_note()  # what is wrong everywhere is best said by the first process
        self._fail_at_once(complaint, code)

    def _fail_at_once(self, complaint: str, code: int) -> NoReturn:
        # The service may be no longer there to answer.
        _after(LINGER, lambda: self._end(code, complaint, tells=True))
        note = f"{code} {self.launch.index} {complaint}"
        try:
            client().key_value_set(FAILED, note)
        except Exception:
            first = self._note()  # or the first process is gone, and with it all notes
            self._end_by(first) if first else self._end(code, complaint, tells=True)
        self._end(code, complaint, tells=True, lingers=True)

    def fail_unexpectedly(self, error: BaseException) -> NoReturn:
        """The same for an exception that nobody foresaw; its traceback is in this process's file."""
        LOG.error("process %d failed", self.launch.index, exc_info=error)
        if failing.is_lost_peer(error):
            self._wait_for_note()
            self._fail_at_once(f"another process has gone ({_one_line(error)})", RunError.exit_code)
        self._fail_at_once(f"{_one_line(error)} (the traceback is in {self._log})", RunError.exit_code)

    def finish(self, line: str = "", code: int = 0) -> NoReturn:
        """Ends this process, at the same point as all others; only the first says the line."""
        if line and self.launch.index == 0:
            self._terminal.tell(f"gsae: {line}")
        LOG.info("process %d ends%s", self.launch.index, f": {line}" if line else "")
        import jax

        self._finished = True
        jax.distributed.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # Not by way of Python's own end: it would take threads away from under C++ code, which aborts (seen).
        os._exit(code)

    def _join(self) -> None:
        import jax
        from jax._src.lib import _jax

        # jax starts the service without this limit of its own, after which it says how many have come.
        jax.config.update("jax_enable_preemption_service", False)  # `signals.agreed` starts it
        # CPU devices have no queue: of two programs that wait for other processes, each device could begin with another
        # one, and all would wait (seen, with two devices a process). So a program ends before the next one begins.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        make, limit = _jax.get_distributed_runtime_service, max(1, int(self._start_timeout))
        _jax.get_distributed_runtime_service = functools.partial(make, cluster_register_timeout=limit)
        try:
            jax.distributed.initialize(
                self.launch.coordinator,
                self.launch.count,
                self.launch.index,
                local_device_ids=self.launch.local_devices,
                cluster_detection_method="deactivate",
                initialization_timeout=limit + int(LINGER),
                heartbeat_timeout_seconds=max(1, int(self._heartbeat_timeout)),
                shutdown_timeout_seconds=max(1, int(self._start_timeout)),
            )
        finally:
            _jax.get_distributed_runtime_service = make

    def _stopped(self, signal_name: str) -> NoReturn:
        self._fail_at_once(f"{signal_name}: stopped; the same command continues", Interrupted.exit_code)

    def _watch(self) -> None:
        """In a thread of its own: ends this process when another one has left its note."""
        while not self._finished:
            try:
                note = client().blocking_key_value_get(FAILED, 3_600_000)
            except Exception as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue
                return  # the first process has gone: jax ends this one
            code, index, _ = note.split(" ", 2)
            if int(index) != self.launch.index:
                time.sleep(GRACE if int(code) == SettingError.exit_code else 0)  # this one may be about to find it too
                self._end_by(note)
            return

    def _wait_for_note(self) -> None:
        """In a thread of its own, for `GRACE`: nobody may be there to answer."""

        def look() -> None:
            until = time.monotonic() + GRACE
            while time.monotonic() < until and not self._note():
                time.sleep(0.05)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(2 * GRACE)

    def _note(self) -> str:
        with contextlib.suppress(Exception):
            return client().key_value_try_get(FAILED)
        return ""

    def _end_by(self, note: str) -> NoReturn:
        code, index, complaint = note.split(" ", 2)
        with contextlib.suppress(Exception):
            client().key_value_set(f"{SEEN}{self.launch.index}", "")
        self._end(int(code), complaint, tells=False, process=int(index), lingers=True)

    def _aborted(self) -> None:
        """Called instead of the end that C++ code has just decided on."""
        printed = self._terminal.printed().decode(errors="replace")
        gone, complaint = self._what_jax_says(printed)
        others = [index for index in range(self.launch.count) if index not in gone]
        self._end(1, complaint, tells=self.launch.index in (others[:1] or gone) or not gone)

    def _what_jax_says(self, printed: str) -> tuple[list[int], str]:
        """Which processes are to blame, and the line about it."""
        count, seconds = self.launch.count, self._start_timeout
        came = failing.arrived(printed)
        if came and not self._joined:
            missing = ", ".join(map(str, came[1])) or "some"
            within = f"within {seconds:.0f} s ({SECTION}.start_timeout)"
            return came[1], f"{came[0]} of {count} processes came {within}; missing: {missing}"
        if not self._joined:
            where = self.launch.coordinator
            return [], f"process 0 did not answer at {where} within {seconds:.0f} s ({SECTION}.start_timeout)"
        dead = failing.silent(printed)
        if dead:
            names = ", ".join(map(str, dead))
            return dead, f"process {names} has stopped without a word; {LOOK}"
        if failing.JAX_ENDS_IT in printed:
            return [0], f"process 0, which coordinates the others, has stopped; {LOOK}"
        return [], f"XLA ended this process; {self._log} says why"

    def _end(
        self, code: int, complaint: str, *, tells: bool, process: int | None = None, lingers: bool = False
    ) -> NoReturn:
        """Ends this process at once, whatever its threads are doing."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # another thread ends this process
        _after(2 * LINGER, lambda: os._exit(code))
        own = process is None
        if tells:
            below = "\n" if self._joined else ""  # a bar that is being drawn ends no line
            self._terminal.tell(f"{below}gsae: process {self.launch.index}: {complaint}")
        LOG.info("process %d ends: %s", self.launch.index, complaint if own else f"process {process}: {complaint}")
        if self.launch.index == 0 and lingers:
            self._linger()
        os._exit(code)

    def _linger(self) -> None:
        """Until the others have read the note, which goes with this process."""
        until = time.monotonic() + LINGER
        with contextlib.suppress(Exception):
            author = int(self._note().split(" ", 2)[1])
            others = {str(index) for index in range(1, self.launch.count) if index != author}
            while time.monotonic() < until:
                if others <= {key.rpartition("/")[2] for key, _ in client().key_value_dir_get(SEEN)}:
                    return
                time.sleep(0.05)


def _after(seconds: float, action: Callable[[], Any]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
