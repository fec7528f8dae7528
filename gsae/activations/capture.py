"""The language model's pass as one program: tokens in, the activations of all sites out, and their gradients.

Layers after the last one that is asked for are not computed, unless gradients are wanted. Axes as in the transformer.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.activations.gradients import site_gradients
from gsae.errors import RunError
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site, last_layer
from gsae.mesh import DATA, automatic

DTYPES = {"bfloat16": jnp.dtype(jnp.bfloat16), "float32": jnp.dtype(jnp.float32)}


@functools.lru_cache(maxsize=4)  # a model that harvests twice compiles once
def program(graph: nnx.GraphDef, sites: tuple[Site, ...], dtype: jnp.dtype, gradients: bool) -> jax.stages.Wrapped:
    """The jitted pass: parameters, tokens [B, T] int32, scored [B, T] bool -> the sites [B, T, W], then gradients.

    The shardings of the results are those of the tokens. What `scored` means: `gradients.site_gradients`.
    """

    @jax.jit
    def capture(parameters: nnx.State, tokens_BT: jax.Array, scored_BT: jax.Array) -> tuple[jax.Array, ...]:
        model = nnx.merge(graph, parameters)
        if gradients:
            captured, found = site_gradients(model, tokens_BT, scored_BT, sites)
            return tuple(part[site].astype(dtype) for part in (captured, found) for site in sites)
        _, captured = model.blocks(model.embed(tokens_BT), 0, last_layer(sites) + 1, capture=sites)
        return tuple(captured[site].astype(dtype) for site in sites)

    return capture


def traced(
    language_model: LanguageModel, sites: Sequence[Site], shape: tuple[int, int], dtype: str, gradients: bool = False
) -> Any:
    """The pass over token ids of a shape [B, T] as a traced program, of which nothing is computed."""
    graph, parameters = nnx.split(language_model.model)
    batch = (jax.ShapeDtypeStruct(shape, kind) for kind in (np.int32, np.bool_))
    return program(graph, tuple(sites), DTYPES[dtype], gradients).trace(parameters, *batch)


class Placement(NamedTuple):
    """Where a model's parameters are, and where its batches go.

    Attributes:
        parameters: on the devices.
        batch: how an array [B, T, ...] is split: over B, by every axis of the mesh that splits no parameter.
        parts: into how many parts; B has to be a multiple.
        split: whether several devices share one copy of the parameters: then they talk during a pass.
    """

    parameters: nnx.State
    batch: NamedSharding
    parts: int
    split: bool


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
    _, parameters = nnx.split(model)
    leaves = jax.tree.leaves(parameters)
    split = [leaf.sharding for leaf in leaves if not leaf.sharding.is_fully_replicated]
    if not all(sharding.is_fully_addressable for sharding in split):
        raise RunError("the language model is split over several processes; each has to hold all of it to harvest")
    own_mesh = Mesh(np.asarray(devices or jax.local_devices()[:1]), (DATA,))
    mesh = automatic(split[0].mesh if split else own_mesh)  # lookups in the embedding refuse explicit axes

    def spec(leaf: jax.Array) -> PartitionSpec:
        return leaf.sharding.spec if split and isinstance(leaf.sharding, NamedSharding) else PartitionSpec()

    def put(leaf: jax.Array) -> jax.Array:
        own = leaf if leaf.is_fully_addressable else leaf.addressable_data(0)
        return jax.device_put(own, NamedSharding(mesh, spec(leaf)))

    taken = {axis for leaf in leaves for entry in spec(leaf) for axis in np.atleast_1d(entry)}
    free = tuple(axis for axis in mesh.axis_names if axis not in taken)
    batch = NamedSharding(mesh, PartitionSpec(free or None))
    return Placement(jax.tree.map(put, parameters), batch, math.prod(mesh.shape[axis] for axis in free), bool(split))
