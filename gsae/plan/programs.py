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
from gsae.plan.compiler import Program
from gsae.plan.model import AbstractModel, tokens
from gsae.throughput import count_flops
from gsae.training.groups import Group
from gsae.training.step import StepSettings, abstract_state, batch_sharding, make_step

HIGHEST = (
    6.0  # times the products that a float32 product at full precision takes: what the evaluation's metrics ask for
)


def lower_step(group: Group, width: int, settings: StepSettings, mesh: Mesh, rows_dtype: str) -> Program:
    """The real step of a group on a mesh that may not be there."""
    x_BD = jax.ShapeDtypeStruct((settings.batch_size, width), jnp.dtype(rows_dtype), sharding=batch_sharding(mesh))
    step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        program = make_step(group, settings, mesh)
        return Program.of(program, abstract_state(group, width, mesh), x_BD, step, mesh=mesh)


def lower_harvest(
    model: AbstractModel, placement: Placement, sites: Sequence[Site], shape: tuple[int, int], dtype: str, grad: bool
) -> Program:
    """The forward that makes rows, for sequences [B, T]; with gradients where they are asked for."""
    program = model.capture(sites, dtype, grad)
    arguments = tokens(shape, placement.batch)
    with jax.set_mesh(placement.mesh):  # attention asks it for what its blocks are to suit
        return Program.of(program, placement.parameters, *arguments, mesh=placement.mesh)


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


def lower_evaluation(
    model: AbstractModel, placement: Placement, members: Sequence[Judged], mesh: Mesh, shape: tuple[int, int]
) -> Iterator[tuple[str, Program]]:
    """The four programs of the evaluation at the first site, for sequences [B, T] over the mesh's devices."""
    places = Places.of(mesh, placement)
    member = members[0]
    how = {"graph": model.graph, "site": member.site}
    ids, keep = tokens(shape, places.sequences)

    def placed(shape: Sequence[int], dtype: Any, where: Any) -> Any:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=where)

    def passing(program: Any, *arguments: Any, **static: Any) -> Program:
        with jax.set_mesh(placement.mesh):
            return Program.of(program, placement.parameters, *arguments, mesh=placement.mesh, **static)

    shapes = jax.eval_shape(functools.partial(prefix, **how), model.parameters, *tokens(shape)[:1])
    before = jax.tree.map(lambda leaf: placed(leaf.shape, leaf.dtype, places.sequences), shapes)
    x_BTW = placed(before.original_BTW.shape, jnp.float32, places.sequences)
    yield "prefix", passing(prefix, ids, **how)
    yield "suffix", passing(spliced_stream, before, x_BTW, keep, **how)
    streams = (before.entering_BTD,) * (min(member.count, AT_ONCE) + 2)
    yield "score", passing(score, streams, ids, graph=model.graph)
    yield "reconstruct", _lower_reconstruct(member.autoencoder, x_BTW.shape, places)


def _lower_reconstruct(given: Any, shape: Sequence[int], places: Places) -> Program:
    """An autoencoder's part, on activations [B, T, W]."""
    specs = given.partition_specs()

    def placed(leaf: Any, spec: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(places.mesh, spec))

    autoencoder = given.replace(
        **{name: placed(getattr(given, name), getattr(specs, name)) for name in given.feature_axes}
    )
    x_BTW = jax.ShapeDtypeStruct(tuple(shape), jnp.float32, sharding=places.activations)
    keep_BT = jax.ShapeDtypeStruct(tuple(shape[:2]), np.bool_, sharding=places.activations)
    shift_W = placed(jax.ShapeDtypeStruct(tuple(shape[2:]), jnp.float32), PartitionSpec())
    with jax.set_mesh(places.mesh):
        return Program.of(reconstruct, autoencoder, x_BTW, keep_BT, shift_W, mesh=places.mesh)
