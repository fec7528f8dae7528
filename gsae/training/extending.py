"""More updates for points that are trained: the whole state in which their training ended, not the weights alone."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.errors import RunError
from gsae.places import Place
from gsae.training.checkpoints import Checkpoints
from gsae.training.groups import Group
from gsae.training.step import GroupState, abstract_state, state_shardings

Ends = dict[str, tuple[GroupState, int]]  # by point: a group's last state, S not split, and which member it is


def last_states(
    directory: Place, settings: str, groups: Sequence[Group], widths: Mapping[str, int], mesh: Mesh, step: int
) -> Ends:
    """The states in which the points of an earlier training ended.

    Args:
        directory: of its checkpoints.
        settings: their fingerprint.
        groups: all that were trained together.
        widths: D, by site.
        mesh: the present one.
        step: updates made.

    Raises:
        RunError: where the last checkpoint is gone or damaged.
    """
    targets = {group.name: _unsplit(abstract_state(group, widths[group.site], mesh)) for group in groups}
    with Checkpoints(directory, every=0, settings=settings) as checkpoints:
        found = checkpoints.restore_newest(targets)
    if found is None or found[0] != step:
        there = "none" if found is None else f"step {found[0]}"
        raise RunError(f"{directory}: has no checkpoint of step {step} ({there} is there); without it no point goes on")
    return {point.name: (found[1][group.name], index) for group in groups for index, point in enumerate(group.points)}


def extended_state(group: Group, ends: Ends, activation_width: int, mesh: Mesh) -> GroupState:
    """The state of a group whose members go on from where each of them ended, alone or among others."""
    sources = [ends[point.name] for point in group.members]

    def gather(*states: GroupState) -> GroupState:
        members = [_member(state, index) for state, (_, index) in zip(states, sources, strict=True)]
        state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *members)
        return dataclasses.replace(state, active=state.active & (jnp.arange(group.size) < len(group.points)))

    with jax.set_mesh(mesh):
        return jax.jit(gather, out_shardings=state_shardings(group, mesh))(*(state for state, _ in sources))


def _member(state: GroupState, index: int) -> GroupState:
    return jax.tree.map(lambda leaf: leaf[index : index + 1], state)


def _unsplit(state: GroupState) -> GroupState:
    """The same shapes with the axis S whole on every device, so that members can be taken out one by one."""

    def target(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(None, *leaf.sharding.spec[1:])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(leaf.sharding.mesh, spec))

    return jax.tree.map(target, state)
