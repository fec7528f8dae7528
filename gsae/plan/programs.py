"""The programs of a run on abstract arguments: the training's step, the harvest's forward, the evaluation's four."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.evaluation.members import AT_ONCE
from gsae.evaluation.metrics import reconstruct
from gsae.evaluation.places import Places
from gsae.evaluation.splice import prefix, score, spliced_stream
from gsae.language_models.placement import Placement
from gsae.language_models.sites import Site
from gsae.plan.compiler import Compiled, compile_program
from gsae.plan.model import AbstractModel, tokens
from gsae.throughput import count_flops
from gsae.training.groups import Group
from gsae.training.step import StepSettings, abstract_state, batch_sharding, make_step

HIGHEST = (
    6.0  # times the products that a float32 product at full precision takes: what the evaluation's metrics ask for
)


def compile_step(group: Group, width: int, settings: StepSettings, mesh: Mesh, rows_dtype: str) -> Compiled:
    """The real step of a group on a mesh that may not be there."""
    x_BD = jax.ShapeDtypeStruct((settings.batch_size, width), jnp.dtype(rows_dtype), sharding=batch_sharding(mesh))
    step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        program = make_step(group, settings, mesh)
        return compile_program(program, abstract_state(group, width, mesh), x_BD, step, mesh_shape=dict(mesh.shape))


def compile_harvest(
    model: AbstractModel, placement: Placement, sites: Sequence[Site], shape: tuple[int, int], dtype: str, grad: bool
) -> Compiled:
    """The forward that makes rows, for sequences [B, T]; with gradients where they are asked for."""
    program = model.capture(sites, dtype, grad)
    arguments = tokens(shape, placement.batch)
    return compile_program(program, placement.parameters, *arguments, mesh_shape=dict(placement.batch.mesh.shape))


@dataclasses.dataclass(frozen=True)
class Judged:
    """The members of a group as the evaluation sees them."""

    site: Site
    autoencoder: Any  # abstract, one member's
    count: int


def judged(groups: Sequence[Group], widths: Mapping[str, int], mesh: Mesh) -> list[Judged]:
    """One abstract member of each group, and how many there are."""
    found = []
    for group in groups:
        alone = Group(group.points[:1])
        state = jax.eval_shape(functools.partial(abstract_state_of, alone, widths[group.site], mesh))
        found.append(Judged(Site.parse(group.site), state, len(group.points)))
    return found


def abstract_state_of(group: Group, width: int, mesh: Mesh) -> Any:
    """One member's autoencoder; called for its shapes."""
    stacked = abstract_state(group, width, mesh).autoencoder
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), stacked)


def evaluation_flops(model: AbstractModel, members: Sequence[Judged], length: int) -> float:
    """FLOPs of the whole evaluation of one sequence of T tokens: all members, with the passes that they share."""
    total = 0.0
    ids, keep = tokens((1, length))
    for site in dict.fromkeys(member.site for member in members):
        here = [member for member in members if member.site == site]
        how = {"graph": model.graph, "site": site}
        first = prefix.trace(model.parameters, ids, **how)
        before = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), first.out_info)
        x_BTW = jax.ShapeDtypeStruct(before.original_BTW.shape, jnp.float32)
        suffix = spliced_stream.trace(model.parameters, before, x_BTW, keep, **how)
        stream = jax.ShapeDtypeStruct(suffix.out_info.shape, suffix.out_info.dtype)
        one = count_flops(score.trace(model.parameters, (stream,), ids, graph=model.graph).jaxpr)
        arms = count_flops(score.trace(model.parameters, (stream, stream), ids, graph=model.graph).jaxpr) - one
        points = sum(member.count for member in here)
        runs = -(-points // AT_ONCE)
        total += runs * (count_flops(first.jaxpr) + one - arms)
        total += (points + 2 * runs) * (count_flops(suffix.jaxpr) + arms)
        shift = jax.ShapeDtypeStruct(x_BTW.shape[-1:], jnp.float32)
        for member in here:
            made = reconstruct.trace(member.autoencoder, x_BTW, keep, shift)
            total += HIGHEST * member.count * count_flops(made.jaxpr)
    return total


def compile_evaluation(
    model: AbstractModel, placement: Placement, members: Sequence[Judged], mesh: Mesh, shape: tuple[int, int]
) -> Iterator[tuple[str, Compiled]]:
    """The four programs of the evaluation at the first site, for sequences [B, T] over the mesh's devices."""
    places = Places.of(mesh, placement)
    member = members[0]
    how = {"graph": model.graph, "site": member.site}
    compiling = functools.partial(compile_program, mesh_shape=dict(places.sequences.mesh.shape))
    ids, keep = tokens(shape, places.sequences)

    def placed(shape: Sequence[int], dtype: Any, where: Any) -> Any:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)

    with jax.set_mesh(placement.mesh):
        yield "prefix", compiling(prefix, placement.parameters, ids, **how)
        shapes = jax.eval_shape(functools.partial(prefix, **how), model.parameters, *tokens(shape)[:1])
        before = jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype, places.sequences), shapes)
        x_BTW = placed(before.original_BTW.shape, jnp.float32, places.sequences)
        yield "suffix", compiling(spliced_stream, placement.parameters, before, x_BTW, keep, **how)
        streams = (before.entering_BTD,) * (min(member.count, AT_ONCE) + 2)
        yield "score", compiling(score, placement.parameters, streams, ids, graph=model.graph)
    given = member.autoencoder
    specs = given.partition_specs()
    autoencoder = given.replace(
        **{
            name: placed(
                getattr(given, name).shape, getattr(given, name).dtype, NamedSharding(places.mesh, getattr(specs, name))
            )
            for name in given.feature_axes
        }
    )
    with jax.set_mesh(places.mesh):
        x_BTW = placed(x_BTW.shape, jnp.float32, places.activations)
        keep = placed(shape, np.bool_, places.activations)
        shift = placed(x_BTW.shape[-1:], jnp.float32, NamedSharding(places.mesh, PartitionSpec()))
        compiling = functools.partial(compile_program, mesh_shape=dict(places.mesh.shape))
        yield "reconstruct", compiling(reconstruct, autoencoder, x_BTW, keep, shift)
