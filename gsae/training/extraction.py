"""One member out of a group's state: its autoencoder on the mesh, or in the memory of the first process's host.

Nothing larger than one array of one member is made on the way, split over `feature` as in the state; to a host that
does not hold all its parts they come one after the other. So no device ever holds a whole dictionary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from gsae import mesh as axes
from gsae.training.members import place_members


def member_on_mesh(stacked: Any, index: int, mesh: Mesh) -> Any:
    """The autoencoder of one member: features split over `feature`, a copy on each shard of `sweep` and `data`.

    Args:
        stacked: a group's autoencoders, every array [S, ...] in `step.state_shardings`.
        index: which one.
        mesh: where they are.
    """
    return stacked.replace(
        **{name: _member(getattr(stacked, name), np.int32(index), mesh) for name in stacked.feature_axes}
    )


def member_on_host(stacked: Any, index: int, mesh: Mesh) -> Any:
    """The same as NumPy arrays, in process 0; None in the others, which have to call this too. Arguments as above."""
    arrays = {
        name: _on_host(_member(getattr(stacked, name), np.int32(index), mesh), axis, mesh)
        for name, axis in stacked.feature_axes.items()
    }
    return stacked.replace(**arrays) if jax.process_index() == 0 else None


def _on_host(array: jax.Array, axis: int | None, mesh: Mesh) -> np.ndarray | None:
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array) if jax.process_index() == 0 else None  # JAX copies part by part
    assert axis is not None, "what is split is split over features"
    parts = []
    for part in range(mesh.shape[axes.FEATURE]):
        own = _part(array, np.int32(part), axis, mesh)
        if jax.process_index() == 0:
            parts.append(np.asarray(own))
    return np.concatenate(parts, axis) if parts else None


@axes.in_turn
@functools.partial(jax.jit, static_argnames="mesh")
def _member(array: jax.Array, index: jax.Array, mesh: Mesh) -> jax.Array:
    """[S, ...] over `sweep` -> [...], the member `index`. Each shard of the sweep reads one of its own members."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        shards, spec = mesh.shape[axes.SWEEP], jax.typeof(array).sharding.spec[1:]
        local = array.shape[0] // shards
        shape = (shards, local, *array.shape[1:])
        split = jnp.reshape(array, shape, out_sharding=PartitionSpec(axes.SWEEP, None, *spec))
        candidates = jax.lax.dynamic_index_in_dim(split, index % local, axis=1, keepdims=False)
        return _pick(candidates, 0, place_members(np.arange(shards)) == index // local)


@axes.in_turn
@functools.partial(jax.jit, static_argnames=("axis", "mesh"))
def _part(array: jax.Array, index: jax.Array, axis: int, mesh: Mesh) -> jax.Array:
    """One of the parts into which `feature` splits an axis, a copy on every device."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        parts = mesh.shape[axes.FEATURE]
        shape = (*array.shape[:axis], parts, array.shape[axis] // parts, *array.shape[axis + 1 :])
        spec = [axes.FEATURE if i == axis else None for i in range(len(shape))]
        split = jnp.reshape(array, shape, out_sharding=PartitionSpec(*spec))
        chosen = jax.sharding.reshard(jnp.arange(parts), PartitionSpec(axes.FEATURE)) == index
        return _pick(split, axis, chosen)


def _pick(array: jax.Array, axis: int, chosen: jax.Array) -> jax.Array:
    """The one entry along an axis that is chosen, which is split: a sum with zeros, where indexing would gather all."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    return jnp.sum(jnp.where(jnp.expand_dims(chosen, others), array, 0), axis=axis)
