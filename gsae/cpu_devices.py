"""Several CPU devices in one process, as tests and trials of a mesh have them. A leaf."""

import os
import re

THREADS_PER_DEVICE = 4


def enough_threads() -> None:
    """Gives XLA's CPU client threads enough for programs with collectives; to be called before jax starts.

    All CPU devices of a process share one pool, by default of as many threads as there are cores or devices. Parts of
    programs that wait for each other's collectives can hold all of them, while the part that they wait for has none:
    after 40 seconds XLA ends the process (seen with 8 devices on 2 cores, in evaluation and in resampling). XLA takes
    the size from NPROC; one that is set already stays, and with a single device nothing changes.
    """
    forced = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    asked = [*forced[-1:], os.environ.get("JAX_NUM_CPU_DEVICES", "1")]
    devices = max(int(count) for count in asked if count.isdigit())
    if devices > 1:
        os.environ.setdefault("NPROC", str(THREADS_PER_DEVICE * devices))
