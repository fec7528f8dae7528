"""Whether this is one of several processes, which, and where the first one is: from settings or from the launcher.

A launcher says so in JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (`launch/local.py` does), or by
what jax itself recognises: Slurm, Open MPI, GKE, Kubernetes jobs, Cloud TPU. Of the variables jax reads only the first.
"""

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping, Sequence

from gsae.errors import RunError, SettingError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
FROM_LAUNCHER = (0, -1)  # count and index: as the launcher says
SECTION = "config.processes"
_RANKS = (INDEX, "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")


@dataclasses.dataclass(frozen=True)
class Launch:
    """One of several processes.

    Attributes:
        coordinator: host:port of the first process.
        count: how many there are.
        index: which one this is, from 0.
        local_devices: the only ones of this machine that are this process's; None for all.
    """

    coordinator: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None


def find(coordinator: str, count: int, index: int, start_timeout: float) -> Launch | None:
    """Who this process is among several; None if it is the only one.

    Args:
        coordinator: "auto": as the launcher says; "none": one process, whatever it says; or host:port.
        count, index: of processes, and this one's; `FROM_LAUNCHER` where the launcher knows.
        start_timeout: seconds that jax may wait for the name of the first process to be known (Cloud TPU, Kubernetes).

    Raises:
        SettingError: for settings that cannot be, or say too little.
        RunError: when a launcher says something that cannot be.
    """
    if coordinator == "none":
        return None
    given = (count or None, None if index < 0 else index)
    if coordinator != "auto":
        if not re.fullmatch(r"(\[[^\]]+\]|[^\s:]+):\d{1,5}", coordinator):
            allowed = "must be auto, none, or the first process's host:port"
            raise SettingError(f"{SECTION}.coordinator", coordinator, allowed)
        return _checked(coordinator, *_from_environment(*given, needed=True))
    if os.environ.get(ADDRESS):
        found = _from_environment(*given, needed=False)
        if None not in found:
            return _checked(os.environ[ADDRESS], *found)
    return _recognised(given, start_timeout)


def first_by_name() -> bool:
    """Whether the launcher's environment calls this the first process, or says nothing: before anything is joined."""
    return next((os.environ[name] for name in _RANKS if os.environ.get(name)), "0") == "0"


def _from_environment(count: int | None, index: int | None, needed: bool) -> tuple[int | None, int | None]:
    numbers = {"count": (count, COUNT), "index": (index, INDEX)}
    found = []
    for name, (value, variable) in numbers.items():
        text = os.environ.get(variable, "")
        if value is None and text:
            if not text.isdecimal():
                raise RunError(f"{variable} = {text!r}: must be a whole number")
            value = int(text)
        if value is None and needed:
            allowed = f"with {SECTION}.coordinator = host:port, it or {variable} must say it"
            raise SettingError(f"{SECTION}.{name}", dict(zip(numbers, FROM_LAUNCHER, strict=True))[name], allowed)
        found.append(value)
    return found[0], found[1]


def _recognised(given: tuple[int | None, int | None], start_timeout: float) -> Launch | None:
    """What jax finds out by itself. It asks a metadata server only on a machine that has TPU chips."""
    from jax._src.clusters import ClusterEnv

    if not _may_be_a_cluster(os.environ):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pod without the package `kubernetes`, which may be alone
            address = os.environ.get(ADDRESS)
            found = ClusterEnv.auto_detect_unset_distributed_params(address, *given, None, None, int(start_timeout))
    except Exception as error:  # each kind of cluster raises what it likes
        reason = " ".join(str(error).split())
        raise RunError(
            f"the launcher was recognised, but not what it says: {reason} ({SECTION}.coordinator)"
        ) from error
    address, count, index, local_devices = found
    if address is None:
        return None
    if count is None or index is None:
        missing = COUNT if count is None else INDEX
        raise RunError(f"{ADDRESS} = {address!r} is set, but neither {missing} nor {SECTION} says the rest")
    return _checked(address, count, index, local_devices)


def _may_be_a_cluster(environment: Mapping[str, str]) -> bool:
    """False in a pod that is no member of an indexed job: jax would ask the cluster's API about it, and may not."""
    pod = "KUBERNETES_SERVICE_HOST" in environment and "TPU_WORKER_HOSTNAMES" not in environment
    return not pod or "JOB_COMPLETION_INDEX" in environment


def _checked(
    address: str, count: int | None, index: int | None, local_devices: Sequence[int] | None = None
) -> Launch | None:
    assert count is not None and index is not None
    if not 0 <= index < count:
        raise SettingError(f"{SECTION}.index", index, f"must be from 0 to {count - 1}, the processes are {count}")
    return Launch(address, count, index, local_devices) if count > 1 else None
