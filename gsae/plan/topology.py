"""The machine that a plan is for: `v5e:4x4`, `cpu:8`, `h100:8`. It need not be here."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from gsae import chips
from gsae.chips import Chip
from gsae.errors import SettingError
from gsae.mesh import AXES

SETTING = "--topology"
COMPILED = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}  # dimensions of what libtpu compiles for
LARGEST = {"v5e": 16, "v6e": 16}  # chips along a side of a pod; beyond, libtpu ends the process
POD = {"v4": 4096, "v5p": 8960, "tpu7x": 9216}  # chips, by the same pages as gsae/chips.py
COUNTED = ("h100", "h200", "a100", "tpuv3", "cpu")  # named by how many there are
ALLOWED = (
    "must be a TPU and its shape such as v5e:4x4, v5p:4x4x4 (v4, v5e, v5p, v6e, tpu7x: compiled), cpu:8 (compiled), or "
    "h100:8, h200:8, a100:8, tpuv3:8 (how many chips: by arithmetic)"
)
# One device for each chip, as jax has them on these.
MEGACORE = {"v4": {"chip_config_name": "megacore"}}
EXTRA = 'compiling for a TPU needs libtpu: pip install "gsae[tpu]" (in a checkout: pip install -e ".[tpu]")'
# For libtpu, when it is loaded: it asks no metadata server, has no workers, and other processes may have loaded it too.
QUIET = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
        name: as the user wrote it.
        chip: what it is made of.
        shape: chips along each dimension.
        count: jax devices.
        devices: to compile for; None where there is only arithmetic.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    count: int
    devices: Sequence[Any] | None = None

    @property
    def chips(self) -> int:
        """What is paid for."""
        return math.prod(self.shape)

    @property
    def has_effort(self) -> bool:
        """Whether its compiler can be told to search less for fast code."""
        return self.devices is not None and self.chip is not chips.CPU

    def mesh(self, sizes: Sequence[int]) -> Mesh:
        """The explicit mesh that training uses, on devices that may not be there."""
        if self.devices is None:
            raise ValueError(f"{self.name}: there is no compiler for it")
        if self.chip is chips.CPU:
            grid = np.asarray(self.devices).reshape(sizes)
        else:
            from jax.experimental import mesh_utils

            grid = mesh_utils.create_device_mesh(tuple(sizes), self.devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=(AxisType.Explicit,) * 3)

    @property
    def one_host(self) -> list[Any]:
        """The devices of the first host: the language model makes rows on each host by itself."""
        devices = self.devices or []
        return [device for device in devices if device.process_index == devices[0].process_index]


def find(name: str) -> Topology:
    """The machine of a name, with devices to compile for where there is a compiler.

    Raises:
        SettingError: for a name that means nothing, or a TPU that libtpu is missing for.
    """
    kind, shape = parse(name)
    chip = chips.named(kind)
    assert chip is not None, kind
    if kind == "cpu":
        found = jax.devices("cpu")
        if len(found) < shape[0]:
            raise SettingError(SETTING, name, f"this process has only {len(found)} CPU devices")
        return Topology(name, chip, shape, shape[0], found[: shape[0]])
    count = math.prod(shape) * chip.devices_per_chip
    if kind in COUNTED:
        return Topology(name, chip, shape, count)
    if importlib.util.find_spec("libtpu") is None:
        raise SettingError(SETTING, name, EXTRA)
    return Topology(name, chip, shape, count, _tpu(name, kind, shape))


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Kind and shape; raises SettingError for anything else."""
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", name)
    kind = match[1] if match else ""
    shape = tuple(int(size) for size in match[2].split("x")) if match else ()
    dimensions = COMPILED.get(kind, 1 if kind in COUNTED else 0)
    if not match or len(shape) != dimensions or min(shape) < 1:
        raise SettingError(SETTING, name, ALLOWED)
    if max(shape) > LARGEST.get(kind, max(shape)):
        side = LARGEST[kind]
        raise SettingError(SETTING, name, f"a pod of {kind} has at most {side}x{side} chips")
    if math.prod(shape) > POD.get(kind, math.prod(shape)):
        raise SettingError(SETTING, name, f"a pod of {kind} has at most {POD[kind]} chips")
    return kind, shape


def _tpu(name: str, kind: str, shape: tuple[int, ...]) -> Sequence[Any]:
    from jax.experimental import topologies

    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = dict(MEGACORE.get(kind, {}))
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(name, platform="tpu", **options).devices
    except Exception as error:  # whatever libtpu says about a shape that no pod has
        reason = str(error).strip().splitlines()[0]
        raise SettingError(SETTING, name, f"libtpu has no such topology ({reason})") from error
