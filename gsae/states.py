"""The states of a run's points: how they begin, go on, and what autoencoder each one is."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gsae import recipe, rounds
from gsae.autoencoders.registry import architecture
from gsae.job import Job
from gsae.mesh import fetch
from gsae.training import extending, starting
from gsae.training.calibration import with_decoder_bias
from gsae.training.cost import cost_of_update
from gsae.training.groups import Group, Point
from gsae.training.step import GroupState
from gsae.training.step import initial_state as fresh_state


def members(
    job: Job, groups: Sequence[Group], states: Mapping[str, GroupState], take: Callable[[Any, int, Mesh], Any]
) -> Iterator[tuple[Point, Callable[[], Any], str]]:
    """Every point with its autoencoder, as it works on raw activations, and its status.

    Args:
        groups: those that are trained.
        states: by group.
        take: out of a group: `member_on_mesh` or `member_on_host` of `training.extraction`.

    Yields:
        The autoencoder is a function, so that one is taken at a time; all processes call it together.
    """
    for group in groups:
        state = states[group.name]
        active = fetch(state.active)
        for index, point in enumerate(group.points):
            made = functools.partial(_autoencoder, job, take, state.autoencoder, index, point.site)
            yield point, made, "ok" if active[index] else "non-finite"


def _autoencoder(job: Job, take: Callable[[Any, int, Mesh], Any], stacked: Any, index: int, site: str) -> Any:
    taken = take(stacked, index, job.mesh)
    return None if taken is None else taken.rescaled(job.input_scale(site))


def initial_state(job: Job, group: Group, coefficients: Mapping[str, float] | None = None) -> GroupState:
    """The state of a group before step 0, its decoder bias where the settings want it.

    Args:
        group: what is trained.
        coefficients: of the points with a target, by name: what they begin with.
    """
    state = fresh_state(group, job.activations.width(group.site), job.mesh)
    if group.has_targets:
        value_S = np.asarray([(coefficients or {})[point.name] for point in group.members], np.float32)
        old_S = state.sparsity_coefficient
        begun_S, placed_S = (  # an array each: a step gives away the memory of its state
            jax.make_array_from_callback(old_S.shape, old_S.sharding, lambda index: value_S[index]) for _ in range(2)
        )
        state = dataclasses.replace(state, sparsity_coefficient=begun_S, placed=placed_S)
    if architecture(group.architecture).STARTS_FROM:
        return starting.start_trained(group, state, job.config.sae.start_from, job.input_scale(group.site))
    if job.config.sae.decoder_bias == "zeros":
        return state
    mean_D = job.activations.statistics(group.site)["mean"] * job.input_scale(group.site)
    return with_decoder_bias(state, mean_D)


def go_on(job: Job, record: Sequence[rounds.Round], r: rounds.Round) -> Callable[[Group], GroupState]:
    """What gives the groups of a round the states in which their points ended an earlier one.

    Args:
        record: all rounds of this workdir.
        r: one that begins where others ended.
    """
    widths = {site: job.activations.width(site) for site in job.activations.sites}
    ends: extending.Ends = {}
    for source, names in rounds.ends(record, r).items():
        path = job.round_path(job.checkpoints_path, source)
        groups = job.groups_of(source)
        found = extending.last_states(path, source.fingerprint, groups, widths, job.mesh, r.begin)
        ends |= {name: found[name] for name in names}
    return lambda group: extending.extended_state(group, ends, widths[group.site], job.mesh)


def cost(job: Job, group: Group) -> dict[str, float]:
    """What an update of one point of the group costs."""
    settings = recipe.step_settings(job.config, job.input_scale(group.site))
    return cost_of_update(group, settings, job.activations.width(group.site), job.mesh)
