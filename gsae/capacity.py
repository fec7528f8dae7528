"""How much memory the devices and the host have. A leaf: any room may import it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def device_memory(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that the poorest of the devices has; None where they do not say, as on any CPU."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return min((limit for limit in limits if limit), default=None)


def host_memory() -> int | None:
    """Bytes of this host, or of this process's control group, in use or not; None where it does not say."""
    return _least("MemTotal", lambda: int((CGROUP / "memory.max").read_text()))


def free_host_memory() -> int | None:
    """Bytes that are free on this host, or left to this process's control group; None where it does not say."""

    def left() -> int:
        return int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())

    return _least("MemAvailable", left)


def _least(line: str, of_group: Callable[[], int]) -> int | None:
    try:
        lines = dict(entry.split(":") for entry in MEMINFO.read_text().splitlines())
        of_host = int(lines[line].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    try:
        return min(of_host, of_group())
    except (OSError, ValueError):  # no control group, or one without a limit
        return of_host
