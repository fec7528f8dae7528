"""Coefficients for a wanted L0: where a pilot places them, and how they follow what is measured."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sweep

from gsae.training import targets
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, initial_state, make_step


def test_a_power_law_is_met_between_the_points_and_beyond_them():
    coefficients = (1e-3, 1e-2, 0.1, 1.0)
    l0 = [3 * c**-0.6 for c in coefficients]
    for wanted in (500.0, 100.0, 20.0, 4.0, 1.0):
        assert targets.place(coefficients, l0, wanted) == pytest.approx((3 / wanted) ** (1 / 0.6), rel=1e-9)


@pytest.mark.parametrize(
    ("l0", "expected"),
    [
        ((100.0, 10.0, 0.0), 0.1),  # the last is dead: the line through the others
        ((math.nan, 10.0, 1.0), 0.1),
        ((50.0, 10.0, 12.0), 0.1),  # it rises again: noise of a point that hardly learns
        ((0.0, 0.0, 0.0), 0.1),  # nothing is known: the middle
        ((0.0, 10.0, 0.0), 0.1),
        ((10.0, 9.99, 9.98), 0.01),  # as flat as this cannot be: it would end at the next decimal power but ten
    ],
)
def test_points_that_say_nothing_are_passed_over(l0, expected):
    assert targets.place((0.01, 0.1, 1.0), l0, 10.0) == pytest.approx(expected, rel=0.02)


def test_the_coefficient_follows_the_measured_l0_between_two_steps_only():
    """The closed loop on a sparsifier that answers as L0 = 8 c^-0.7, slowly, from far below."""
    coefficient, mean, l0 = jnp.float32(0.02), jnp.float32(targets.UNKNOWN), 8 * 0.02**-0.7
    adjusted = jax.jit(targets.adjusted, static_argnums=(4, 5))
    history = []
    for step in range(3000):
        l0 += 0.01 * (8 * float(coefficient) ** -0.7 - l0)
        mean = targets.mean_l0(mean, jnp.float32(l0))
        coefficient = adjusted(coefficient, mean, jnp.float32(40.0), step, 200, 2700)
        history.append(float(coefficient))
    assert history[199] == pytest.approx(0.02) and history[2699] == history[-1] != history[2698]
    assert l0 == pytest.approx(40.0, rel=0.03)


def trained(sizes, updates):
    """Last states of two members with targets 2 and 6, begun at 0.2, and of one with a coefficient of its own."""
    option = tiny_sweep.architecture("standard").Options()
    wanted = [Point("standard", tiny_sweep.SITE, 48, 0.0, 1e-2, 0, option, 600, target) for target in (2.0, 6.0)]
    given = [Point("standard", tiny_sweep.SITE, 48, 0.3, 1e-2, 0, option, 600)]
    mesh = tiny_sweep.axes.make_mesh(*sizes)
    groups = group_points([*wanted, *given], sizes[0])
    schedules = Schedules(total_steps=600, warmup_steps=5, sparsity_warmup_steps=10, adjust_until=580)
    settings = StepSettings(batch_size=64, schedules=schedules)
    rows = tiny_sweep.Synthetic(16, 24, 3.0, 2048, 512, seed=3).read(tiny_sweep.SITE, 0)
    states = [initial_state(group, 16, mesh) for group in groups]
    begun = jax.device_put(np.full(groups[0].size, 0.2, np.float32), states[0].sparsity_coefficient.sharding)
    states[0] = states[0].replace(sparsity_coefficient=begun)
    steps = [make_step(group, settings, mesh) for group in groups]
    with jax.set_mesh(mesh):
        for t in range(updates):
            for i, step in enumerate(steps):
                states[i], _ = step(states[i], rows[t % 8 * 64 :][:64], jnp.int32(t))
    return states


def test_members_find_their_own_coefficients_and_others_keep_theirs():
    found, given = trained((1, 1, 1), 600)
    np.testing.assert_allclose(found.mean_l0, (2.0, 6.0), rtol=0.1)
    assert found.sparsity_coefficient[0] > 1.5 * found.sparsity_coefficient[1]
    assert np.all(given.sparsity_coefficient == np.float32(0.3))


def test_sharded_members_find_what_unsharded_ones_do():
    one, many = (trained(sizes, 20)[0] for sizes in ((1, 1, 1), (2, 2, 2)))
    assert not np.any(np.asarray(one.sparsity_coefficient) == np.float32(0.2))
    for name in ("sparsity_coefficient", "mean_l0"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-3, err_msg=name)


def test_a_point_with_a_target_is_of_a_program_and_name_of_its_own():
    option = tiny_sweep.architecture("standard").Options()
    given, found = (Point("standard", "a.1", 48, c, 1e-2, 0, option, 9, t) for c, t in ((0.3, 0.0), (0.0, 20.0)))
    assert found.name == "standard-a.1-48-t20-lr0.01-s0" and len(group_points([given, found])) == 2
