"""The one device mesh and the names of its axes. A leaf: any room may import it."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsae.errors import SettingError

SWEEP = "sweep"  # members of a sweep; nothing but the batch crosses it
DATA = "data"  # tokens of a batch
FEATURE = "feature"  # features of an autoencoder
AXES = (SWEEP, DATA, FEATURE)

_turn = threading.RLock()


def in_turn(program: Callable[..., Any]) -> Callable[..., Any]:
    """The program, started by one thread at a time.

    Programs with collectives that two threads start on the same devices need it: each device runs what it is given in
    the order in which it comes, and two devices with two orders would wait for each other.
    """

    @functools.wraps(program)
    def started(*args: Any, **kwargs: Any) -> Any:
        with _turn:
            return program(*args, **kwargs)

    return started


def make_mesh(sweep: int = 1, data: int = 1, feature: int = 1, reserved: int = 0) -> Mesh:
    """An explicit mesh of `sweep * data * feature` devices; at most one size may be -1 (all the devices that are left).

    The last `reserved` devices are left to others.

    Raises:
        SettingError: when a size is not positive, or the mesh needs more devices than there are.
    """
    sizes = {SWEEP: sweep, DATA: data, FEATURE: feature}
    devices = jax.device_count() - reserved
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise SettingError("config.mesh", tuple(sizes.values()), "at most one of sweep, data, feature may be -1")
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise SettingError(f"config.mesh.{name}", size, "must be a positive number of devices, or -1")
    if free:
        fixed = 1
        for size in sizes.values():
            fixed *= max(size, 1)
        if devices < fixed or devices % fixed:
            allowed = f"{devices} devices do not divide by the other axes ({fixed})"
            raise SettingError(f"config.mesh.{free[0]}", -1, allowed)
        sizes[free[0]] = devices // fixed
    needed = sizes[SWEEP] * sizes[DATA] * sizes[FEATURE]
    if needed > devices:
        besides = f" beside config.activations.devices = {reserved}" if reserved else ""
        raise SettingError(
            "config.mesh", tuple(sizes.values()), f"needs {needed} devices, this machine has {devices}{besides}"
        )
    used = jax.devices()[:needed]
    idle = set(range(jax.process_count())) - {device.process_index for device in used}
    if idle:
        allowed = f"leaves process {min(idle)} without a device; the {jax.process_count()} processes have {devices}"
        raise SettingError("config.mesh", tuple(sizes.values()), allowed)
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Explicit,) * 3, devices=used)


def alone() -> Mesh:
    """The explicit mesh of one device of this process, for shapes that are traced and never computed."""
    return jax.make_mesh((1, 1, 1), AXES, axis_types=(AxisType.Explicit,) * 3, devices=jax.local_devices()[:1])


def fetch(tree: Any) -> Any:
    """The values of small arrays, whole, in the memory of every process; with several, all call it alike."""
    leaves = jax.tree.leaves(tree)
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
        return jax.device_get(tree)
    mesh = next(leaf.sharding.mesh for leaf in leaves if not leaf.is_fully_addressable)
    gather = in_turn(jax.jit(_everything, out_shardings=NamedSharding(mesh, PartitionSpec())))
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), gather(tree))


def _everything(tree: Any) -> Any:
    return tree


def automatic(mesh: Mesh) -> Mesh:
    """The same devices and axes for programs that explicit axes refuse: the compiler carries the shardings through."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def one_member(mesh: Mesh) -> Mesh:
    """The same devices for work on one member at a time: those of the axis `sweep` take a part of the tokens too."""
    sweep, data, feature = mesh.devices.shape
    return Mesh(mesh.devices.reshape(1, sweep * data, feature), AXES, axis_types=(AxisType.Explicit,) * 3)


def split_over(devices: Sequence[jax.Device], parts: int) -> Mesh:
    """A mesh with automatic axes on which every `parts` devices share one copy of a language model.

    Raises:
        SettingError: when the devices do not divide by `parts`.
    """
    if len(devices) % parts:
        allowed = f"must divide the {len(devices)} devices that the language model runs on in each process"
        raise SettingError("config.language_model.parts", parts, allowed)
    grid = np.asarray(devices).reshape(-1, parts)
    return Mesh(grid, (DATA, FEATURE), axis_types=(AxisType.Auto,) * 2)
