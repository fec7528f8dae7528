"""What targets of L0 are divided by, so that they are met on held-out text: measured once while a sweep trains."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from gsae.job import Job
from gsae.judge import judged, tokens_before_those_apart
from gsae.mesh import fetch
from gsae.states import members
from gsae.training.extraction import member_on_mesh
from gsae.training.groups import Group
from gsae.training.loop import Before, States
from gsae.training.targets import held_out_ratio

MEASURED_AT = 0.8  # of the steps up to the end of the control: late, and yet with time left to follow


def corrections(job: Job, groups: Sequence[Group], adjust_until: int) -> Mapping[int, Before] | None:
    """By step, what `training.loop.train` does before that update; None where nothing is to be corrected.

    Args:
        job: the run.
        groups: of one round.
        adjust_until: the step up to which coefficients of that round follow L0.
    """
    own = [group for group in groups if group.has_targets]
    if not own or not job.config.training.target_l0.held_out_tokens:
        return None
    return {int(MEASURED_AT * adjust_until): functools.partial(_correct, job, own)}


def _correct(job: Job, groups: Sequence[Group], states: States, say: Callable[[str], None]) -> None:
    """Puts the ratio of L0 on held-out tokens and on training rows into the states; all processes call it together.

    Both with the present weights: while the learning rate is large, L0 goes up and down by more than they differ.
    """
    own = {point.name: (point, take, status) for point, take, status in members(job, groups, states, member_on_mesh)}
    rows = job.tokens("train") if job.has_language_model else job.activations
    look = functools.partial(judged, job, own, bootstrap_samples=0, progress=False)
    apart = job.config.training.target_l0.held_out_tokens
    held_out, training = (
        {result.name: result.metrics["l0"] for result in results}
        for results in (
            look(tokens=0, skip_tokens=tokens_before_those_apart(job)),
            look(where=rows, tokens=apart, skip_tokens=0),
        )
    )
    for group in groups:
        state = states[group.name]
        old_S = state.held_out_ratio
        ratio_S = np.asarray(
            [
                held_out_ratio(held_out[point.name], training[point.name], float(last))
                for point, last in zip(group.members, fetch(old_S), strict=True)
            ],
            np.float32,
        )
        placed_S = jax.make_array_from_callback(old_S.shape, old_S.sharding, ratio_S.__getitem__)
        states[group.name] = dataclasses.replace(state, held_out_ratio=placed_S)
        for point, ratio in zip(group.points, ratio_S, strict=False):
            say(f"{point.name}: {ratio:.3f} times the L0 of training rows on held-out tokens")
