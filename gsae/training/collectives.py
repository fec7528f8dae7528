"""What a training step moves between devices, before anything is compiled; `docs/collectives.md` has the formula."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.collectives import Collective, traced
from gsae.training.groups import Group
from gsae.training.step import GroupState, StepSettings, abstract_state, update_member


def step_collectives(
    group: Group,
    activation_width: int,
    settings: StepSettings,
    mesh_shape: Mapping[str, int],
    rows_dtype: str = "float32",
) -> list[Collective]:
    """The collectives of one step of a group; no devices are needed, so the mesh may be any.

    Args:
        group: padded for the mesh's axis `sweep`.
        activation_width: D.
        settings: of the step.
        mesh_shape: sizes by the names of `gsae.mesh`.
        rows_dtype: of the batch as it comes from the store.

    Returns:
        The one gathering of the batch, then what a device does for each of its members; `times` counts these. (Where
        nothing branches around a member, with several shards of the sweep, the compiler takes the variance of the batch
        out of the loop over members: D + 1 numbers are then summed once.)
    """
    sizes = tuple(mesh_shape[name] for name in axes.AXES)
    members = group.size // sizes[0]
    own = [
        dataclasses.replace(one, times=one.times * members)
        for one in _of_member(group, activation_width, settings, sizes)
    ]
    return _of_batch(settings.batch_size, activation_width, sizes, jnp.dtype(rows_dtype).itemsize) + own


def _of_batch(batch_size: int, activation_width: int, sizes: tuple[int, ...], itemsize: int) -> list[Collective]:
    """The batch arrives split over all devices; each gathers the part of its shard of `data`, as it was stored."""
    shape = (batch_size // sizes[axes.AXES.index(axes.DATA)], activation_width)
    others = tuple(name for name, size in zip(axes.AXES, sizes, strict=True) if name != axes.DATA and size > 1)
    return [Collective("all-gather", others, (shape,), itemsize * math.prod(shape))] if others else []


def _of_member(group: Group, activation_width: int, settings: StepSettings, sizes: tuple[int, ...]) -> list[Collective]:
    """The update of one member, traced on one shard of the sweep of an imagined mesh."""
    mesh = AbstractMesh((1, *sizes[1:]), axes.AXES, axis_types=(AxisType.Explicit,) * 3)

    def typed(shape: tuple[int, ...], dtype: Any, *spec: str | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    alone = Group(group.points[:1])
    stacked = abstract_state(alone, activation_width, mesh)
    member = jax.tree.map(lambda leaf: typed(leaf.shape[1:], leaf.dtype, *leaf.sharding.spec[1:]), stacked)
    own = {
        "learning_rate": typed((), jnp.float32),
        "seed": typed((), jnp.uint32),
    }
    x_BD = typed((settings.batch_size, activation_width), jnp.float32, axes.DATA, None)

    def update(member: GroupState, own: dict[str, jax.Array], x_BD: jax.Array, step: jax.Array) -> Any:
        with jax.sharding.use_abstract_mesh(mesh):
            return update_member(member, own, x_BD, step, settings, branches=sizes[0] == 1)

    return traced(jax.jit(update).trace(member, own, x_BD, typed((), jnp.int32)).jaxpr)
