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
        ((1.0, 100.0, 10.0), 1.0),  # the first came apart: the line through the others
        ((0.0, 0.0, 0.0), 0.1),  # nothing is known: the middle
        ((0.0, 10.0, 0.0), 0.1),
        ((10.0, 9.99, 9.98), 0.01),  # as flat as this cannot be: it would end at the next decimal power but ten
    ],
)
def test_points_that_say_nothing_are_passed_over(l0, expected):
    assert targets.place((0.01, 0.1, 1.0), l0, 10.0) == pytest.approx(expected, rel=0.02)


def test_a_point_that_came_apart_within_the_line_is_passed_over():
    placed = targets.place((1e-3, 1e-2, 0.1, 1.0), (100.0, 0.5, 20.0, 1.0), 10.0)
    assert placed == pytest.approx(0.1 * 2 ** (1 / math.log10(20)))


@pytest.mark.parametrize("wanted", [1e-9, 1e9])
def test_the_line_ends_a_factor_of_ten_beyond_the_points(wanted):
    assert targets.place((0.01, 0.1, 1.0), (30.0, 10.0, 3.0), wanted) == pytest.approx(10.0 if wanted < 1 else 1e-3)
    assert targets.place((0.01, 0.1, 1.0), (0.0, 10.0, 0.0), wanted) == pytest.approx(10.0 if wanted < 1 else 1e-3)


CONTROL = targets.Control(begin=200, damped_from=400, end=8000)


def closed_loop(answer, control=CONTROL, *, noise=0.0, learns=lambda step: 1.0, speed=lambda step: 1.0):
    """L0 and coefficients [steps] of a sparsifier whose L0 goes to `answer(coefficient, step)`, by 1 / 400 a step.

    `learns`, `speed`: with what share of that, and what the control is told of it: resampling, not the schedule.
    """
    aim, noises = 40.0, np.exp(noise * np.random.default_rng(0).normal(size=8100)).astype(np.float32)

    def one(carry, inputs):
        l0, mean, coefficient = carry
        step, measured_as = inputs
        l0 *= (answer(coefficient, step) / l0) ** (learns(step) / 400)
        now = control.mean_l0(mean, l0 * measured_as)
        coefficient = control.adjusted(coefficient, mean, now, aim, step, begun, speed(step))
        return (l0, now, coefficient), (l0, coefficient)

    begun = jnp.float32(0.02)
    start = (answer(begun, 0) * jnp.float32(1), jnp.float32(targets.UNKNOWN), begun)
    _, found = jax.lax.scan(one, start, (jnp.arange(8100), noises))
    return map(np.asarray, found)


def power(c, step):
    return 8 * c**-0.7


def test_a_coefficient_is_back_in_time_from_an_l0_that_was_out_of_reach(monkeypatch):
    """As with a large learning rate, at which no coefficient, however small, gives more than so many features."""

    def answer(c, step):
        return jnp.where(step < 6000, jnp.minimum(power(c, step), 18.0), power(c, step))

    l0, coefficient = closed_loop(answer)
    assert coefficient[5999] == pytest.approx(0.002) and l0[-1] == pytest.approx(40.0, rel=0.1)
    monkeypatch.setattr(targets, "BEYOND", 1e9)
    l0, coefficient = closed_loop(answer)
    assert coefficient[5999] < 1e-6 and l0[-1] > 80


def test_the_coefficient_follows_the_measured_l0_between_two_steps_only():
    """From far below, with the noise of small batches, and with little swing."""
    l0, coefficient = closed_loop(power, noise=0.05)
    assert coefficient[199] == np.float32(0.02) and coefficient[7999] == coefficient[-1] != coefficient[7998]
    assert coefficient[-1] == pytest.approx((8 / 40) ** (1 / 0.7), rel=0.05)
    assert l0[4000:] == pytest.approx(40.0, rel=0.02) and l0.min() > 0.93 * 40


def test_l0_that_rises_while_the_learning_rate_falls_is_held():
    """In the last quarter the same coefficient comes to give a fifth more, as learning ends."""

    def left(step):
        return jnp.clip((8000 - step) / 2000, 0.0, 1.0)

    def answer(c, step):
        return power(c, step) * 1.2 ** (1 - left(step))

    l0, _ = closed_loop(answer, learns=left)
    assert l0[-1] == pytest.approx(40.0, rel=0.015)
    let_go, _ = closed_loop(answer, targets.Control(200, 400, 6000), learns=left)
    assert let_go[-1] > 1.08 * 40


def test_features_that_were_revived_are_waited_for():
    """L0 goes up, and the member learns at a tenth of its speed for a while: that is not the coefficient's doing."""

    def answer(c, step):
        return power(c, step) * jnp.where((step >= 4000) & (step < 4400), 1e6, 1.0)

    def speed(step):
        return jnp.where((step >= 4000) & (step < 4400), 0.1, 1.0)

    l0, coefficient = closed_loop(answer, learns=speed, speed=speed)
    assert l0.argmax() > 3990 and l0.max() > 2 * 40 and coefficient[4000:].max() < 2.5 * coefficient[3999]
    assert l0[4000:].min() > 0.7 * 40 and l0[-1] == pytest.approx(40.0, rel=0.02)


def test_longer_runs_are_controlled_more_slowly_and_average_over_more_batches():
    short, long = targets.Control(0, 0, 1000), targets.Control(0, 0, 100_000)
    assert short.gain == targets.LARGEST_GAIN and long.gain == pytest.approx(1e-3)
    means = [float(control.mean_l0(jnp.float32(10.0), jnp.float32(20.0))) for control in (short, long)]
    assert means == pytest.approx([10.2, 10.04])


@pytest.mark.parametrize(
    ("held_out", "training", "expected"),
    [(11.0, 10.0, 1.1), (90.0, 10.0, 2.0), (1.0, 10.0, 0.5), (math.nan, 10.0, 1.3), (5.0, 0.0, 1.3)],
)
def test_the_ratio_stays_where_one_of_the_two_is_not_known(held_out, training, expected):
    assert targets.held_out_ratio(held_out, training, 1.3) == pytest.approx(expected)


def trained(sizes, updates, ratio=1.0):
    """Last states of two members with targets 5 and 8, begun at 0.5, and of one with a coefficient of its own.

    `ratio`: of L0 on held-out tokens.
    """
    option = tiny_sweep.architecture("standard").Options()
    wanted = [Point("standard", tiny_sweep.SITE, 48, 0.0, 1e-2, 0, option, 900, target) for target in (5.0, 8.0)]
    given = [Point("standard", tiny_sweep.SITE, 48, 0.3, 1e-2, 0, option, 900)]
    mesh = tiny_sweep.axes.make_mesh(*sizes)
    groups = group_points([*wanted, *given], sizes[0])
    schedules = Schedules(total_steps=900, warmup_steps=5, sparsity_warmup_steps=10, adjust_until=880)
    settings = StepSettings(batch_size=64, schedules=schedules)
    rows = tiny_sweep.Synthetic(16, 24, 3.0, 2048, 512, seed=3).read(tiny_sweep.SITE, 0)
    states = [initial_state(group, 16, mesh) for group in groups]
    begun = jax.device_put(np.full(groups[0].size, 0.5, np.float32), states[0].sparsity_coefficient.sharding)
    ratios = jax.device_put(np.full(groups[0].size, ratio, np.float32), states[0].held_out_ratio.sharding)
    states[0] = states[0].replace(sparsity_coefficient=begun, placed=begun + 0, held_out_ratio=ratios)
    steps = [make_step(group, settings, mesh) for group in groups]
    with jax.set_mesh(mesh):
        for t in range(updates):
            for i, step in enumerate(steps[: 2 if t < 50 else 1]):  # the other one changes nothing of itself
                states[i], _ = step(states[i], rows[t % 8 * 64 :][:64], jnp.int32(t))
    return states


def test_members_find_their_own_coefficients_and_others_keep_theirs():
    found, given = trained((1, 1, 1), 900, ratio=1.25)
    np.testing.assert_allclose(found.mean_l0 * 1.25, (5.0, 8.0), rtol=0.1)
    assert given.held_out_ratio is None
    assert found.sparsity_coefficient[0] > 1.5 * found.sparsity_coefficient[1]
    assert np.all(given.sparsity_coefficient == np.float32(0.3))


def test_sharded_members_find_what_unsharded_ones_do():
    one, many = (trained(sizes, 20)[0] for sizes in ((1, 1, 1), (2, 2, 2)))
    assert not np.any(np.asarray(one.sparsity_coefficient) == np.float32(0.5))
    for name in ("sparsity_coefficient", "mean_l0"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-3, err_msg=name)


def test_a_point_with_a_target_is_of_a_program_and_name_of_its_own():
    option = tiny_sweep.architecture("standard").Options()
    given, found = (Point("standard", "a.1", 48, c, 1e-2, 0, option, 9, t) for c, t in ((0.3, 0.0), (0.0, 20.0)))
    assert found.name == "standard-a.1-48-t20-lr0.01-s0" and len(group_points([given, found])) == 2
