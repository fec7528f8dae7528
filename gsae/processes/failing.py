"""What ended another process, read from what jax printed; and Python's say when jax's C++ code aborts this one.

Where a peer is gone, jax ends the process by `abort()`, with a dump of its stack and no way to be asked first: a
callback that its client would take cannot be one in Python (jaxlib 0.10 and 0.12 throw `std::bad_cast`). The
signal's handler is the one place left, and has to be C's: Python's own handlers run after it, which is too late.
"""

import ctypes
import re
import signal
from collections.abc import Callable

JAX_ENDS_IT = "the JAX distributed service detected fatal errors"
_ARRIVED = re.compile(r"Wait_for_all_tasks_to_register.*?# of tasks that reached the barrier: (\d+)/(\d+)", re.DOTALL)
_MISSING = re.compile(r"Some timed out task names:\n((?:[^\n]*\d+\n)+)")
_SILENT = re.compile(r"stopped sending heartbeats\):\n((?:[^\n]*\d+\n)+)")
_kept: list[object] = []  # a handler must outlive its installation


def on_abort(say: Callable[[], None]) -> None:
    """Has `say` called when C++ code aborts this process; it must end the process itself."""
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler = prototype(lambda number: say())
    _kept.append(handler)
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


def arrived(printed: str) -> tuple[int, list[int]] | None:
    """How many processes had come when the wait for all was over, and which had not; None where that is not said."""
    found = list(_ARRIVED.finditer(printed))
    if not found:
        return None
    names = _MISSING.search(printed, found[-1].end())
    return int(found[-1][1]), _numbers(names[1]) if names else []


def silent(printed: str) -> list[int]:
    """The processes that were missed while the run was on its way."""
    found = list(_SILENT.finditer(printed))
    return _numbers(found[-1][1]) if found else []


def is_lost_peer(error: BaseException) -> bool:
    """Whether an exception is that of a collective, or of the coordination service, that a peer left."""
    text = f"{type(error).__name__} {error}"
    signs = ("Gloo", "gloo", "NCCL", "coordination_service", "CoordinationService", "Connection closed by peer")
    return any(sign in text for sign in signs)


def _numbers(lines: str) -> list[int]:
    return [int(line.rpartition(":")[2]) for line in lines.split("\n") if line]
