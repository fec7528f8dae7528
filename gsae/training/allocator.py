"""Keeps the C library from giving a step's memory back to the system, only to fetch it again for the next step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h of the GNU C library


def keep_freed_memory() -> bool:
    """Makes freed memory stay with this process; to be called once, early, where training runs on the CPU.

    The GNU C library returns large blocks to the system when they are freed, and XLA frees its temporaries after every
    step. The next step then pays for fresh pages: 30,000 faults and 9 % of the time of a step at B = 2048, D = 512,
    F = 4096 on 2 cores (measured); no faults once the heap has grown. The process's memory then stays at its peak.

    Returns:
        whether there is a GNU C library, and it agreed; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
    return all(mallopt(option, value) for option, value in options.items())
