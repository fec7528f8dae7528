"""Where a language model's parameters are, and where its batches go."""

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gsae.errors import RunError
from gsae.mesh import DATA, automatic


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """Where a model's parameters are, and where its batches go.

    Attributes:
        model: which one.
        parameters: on the devices.
        mesh: of the devices, with automatic axes.
        batch: how an array [B, T, ...] is split: over B, by every axis of the mesh that splits no parameter.
        parts: into how many parts; B has to be a multiple.
        split: whether several devices share one copy of the parameters: then they talk during a pass.
    """

    model: Any
    parameters: nnx.State
    mesh: Mesh
    batch: NamedSharding
    parts: int
    split: bool


# By model and devices, as long as anybody uses it: who judges beside who makes rows needs no second copy.
_placed: "weakref.WeakValueDictionary[tuple[int, tuple[jax.Device, ...]], Placement]" = weakref.WeakValueDictionary()


def place(model: Any, devices: Sequence[jax.Device] | None = None) -> Placement:
    """Puts a model where its batches will be.

    Parameters that are split over devices stay so (tensor parallel, each device computing its heads and neurons), and
    batches are split over the other axes of their mesh. Others are copied to every device, and each takes its part of
    a batch without a word to the others.

    Args:
        model: a transformer.
        devices: those that compute, of this process; None for its first. Split parameters bring their own.

    Raises:
        RunError: when parameters are split over devices of other processes.
    """
    devices = tuple(devices or jax.local_devices()[:1])
    known = _placed.get((id(model), devices))
    if known is None or known.model is not model:
        known = _placed[id(model), devices] = _place(model, devices)
    return known


def _place(model: Any, devices: Sequence[jax.Device]) -> Placement:
    _, parameters = nnx.split(model)
    leaves = jax.tree.leaves(parameters)
    split = [leaf.sharding for leaf in leaves if not leaf.sharding.is_fully_replicated]
    if not all(sharding.is_fully_addressable for sharding in split):
        raise RunError("the language model is split over several processes; each has to hold all of it to harvest")
    own_mesh = Mesh(np.asarray(devices), (DATA,))
    mesh = automatic(split[0].mesh if split else own_mesh)  # lookups in the embedding refuse explicit axes

    def spec(leaf: jax.Array) -> PartitionSpec:
        return leaf.sharding.spec if split and isinstance(leaf.sharding, NamedSharding) else PartitionSpec()

    def put(leaf: jax.Array) -> jax.Array:
        own = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        return jax.device_put(own, NamedSharding(mesh, spec(leaf)))

    taken = {axis for leaf in leaves for entry in spec(leaf) for axis in np.atleast_1d(entry)}
    free = tuple(axis for axis in mesh.axis_names if axis not in taken)
    batch = NamedSharding(mesh, PartitionSpec(free or None))
    parts = math.prod(mesh.shape[axis] for axis in free)
    return Placement(model, jax.tree.map(put, parameters), mesh, batch, parts, bool(split))


def place_together(model: Any, devices: Sequence[jax.Device]) -> Placement:
    """Puts a model on devices of all processes, for programs that all of them start with their parts of one batch.

    Every process has the whole model: copies, or parts over its own devices as in `place`. Nothing is sent.

    Args:
        model: a transformer; the same in every process.
        devices: those that compute, of all processes, in the same order everywhere.

    Raises:
        RunError: when the parameters are split over other devices than a process has among these.
    """
    own = [device for device in devices if device.process_index == jax.process_index()]
    placed = place(model, own)
    processes = sorted({device.process_index for device in devices})
    if len(processes) == 1:
        return placed
    local = placed.mesh
    if list(local.devices.flat) != own:
        raise RunError("the language model is split over other devices than those of the mesh in this process")
    grids = [
        np.asarray([device for device in devices if device.process_index == process]).reshape(-1, *local.axis_sizes[1:])
        for process in processes
    ]
    mesh = Mesh(np.concatenate(grids), local.axis_names, axis_types=(AxisType.Auto,) * len(local.axis_names))

    def join(leaf: jax.Array) -> jax.Array:
        assert isinstance(leaf.sharding, NamedSharding)
        sharding = NamedSharding(mesh, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, [s.data for s in leaf.addressable_shards])

    parts = placed.parts // local.axis_sizes[0] * mesh.axis_sizes[0]
    parameters, batch = jax.tree.map(join, placed.parameters), NamedSharding(mesh, placed.batch.spec)
    return Placement(model, parameters, mesh, batch, parts, placed.split)
