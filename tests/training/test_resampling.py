"""Resampling on one device: who is dead, what is drawn, what changes. Meshes: test_step_sharded.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.errors import SettingError
from gsae.mesh import make_mesh
from gsae.training.groups import Point, group_points
from gsae.training.resampling import event_steps, make_resampling, resampling_programs
from gsae.training.schedules import Schedules
from gsae.training.step import NEVER, StepSettings, initial_state, state_shardings

B, D, F, R, WINDOW = 32, 12, 24, 8, 5
SETTINGS = StepSettings(
    batch_size=B, schedules=Schedules(total_steps=1000), input_scale=0.5, dead_window_tokens=WINDOW * B
)
ARCHITECTURE = "gated"
POINTS = tuple(
    Point(ARCHITECTURE, "mlp_out.1", F, 0.1, 1e-3, seed, ARCHITECTURES[ARCHITECTURE].Options()) for seed in range(2)
)
resampling = functools.cache(make_resampling)


def rows(index):
    return np.random.default_rng(index).normal(1.0, 1.0, size=(B, D)).astype(np.float32)


def state_with(dead):
    """A state in the middle of a run, whose members' dead features are given."""
    (group,) = group_points(POINTS)
    state = jax.device_get(initial_state(group, D, make_mesh()))
    since = np.zeros((2, F), np.int32)
    for member, features in enumerate(dead):
        since[member, features] = WINDOW
    random = np.random.default_rng(0)
    moments = {k: random.uniform(0.1, 1, v.shape).astype(np.float32) for k, v in state.second_moments.items()}
    autoencoder = state.autoencoder.replace(
        b_dec=random.normal(1, 0.1, (2, D)).astype(np.float32),
        **{name: random.normal(0, 1, (2, F)).astype(np.float32) for name in ("b_gate", "b_mag", "r_mag")},
    )
    return dataclasses.replace(state, autoencoder=autoencoder, second_moments=moments, steps_since_fired=since)


def resample(state, batches=3, step=40):
    (group,), mesh = group_points(POINTS), make_mesh()
    placed = jax.device_put(state, state_shardings(group, mesh))
    program = resampling(group, SETTINGS, mesh, max_revived=R)
    return jax.device_get(program(placed, [jnp.asarray(rows(i)) for i in range(batches)], step))


def test_where_nothing_is_dead_nothing_changes():
    before = state_with([[], [3, 7]])
    after, counts = resample(before)
    assert counts["dead"].tolist() == counts["revived"].tolist() == [0, 2]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after, before)
    assert after.last_resample.tolist() == [NEVER, 40]


def test_revived_features_point_at_inputs_and_the_others_stay():
    dead = [2, 3, 17]
    before = state_with([dead, []])
    after, _ = resample(before)
    old, new = before.autoencoder, after.autoencoder
    living = np.setdiff1d(np.arange(F), dead)
    centred = np.concatenate([rows(i) for i in range(3)]) * 0.5 - old.b_dec[0]
    directions = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = new.W_dec[0, dead] @ directions.T
    np.testing.assert_allclose(cosines.max(axis=1), 1, atol=1e-5)
    assert len(set(cosines.argmax(axis=1))) == 3  # drawn without replacement
    scale = 0.2 * np.mean(np.linalg.norm(old.W_enc[0][:, living], axis=0))
    np.testing.assert_allclose(new.W_enc[0][:, dead], scale * new.W_dec[0, dead].T, atol=1e-6)
    for name in ("b_gate", "b_mag", "r_mag"):
        np.testing.assert_array_equal(getattr(new, name)[0, dead], 0)
    for name, axis in type(old).feature_axes.items():
        if getattr(old, name) is not None and axis is not None:
            kept = [np.take(getattr(tree, name)[0], living, axis) for tree in (old, new)]
            np.testing.assert_array_equal(*kept)
            moments = np.take(before.second_moments[name][0], living, axis)
            reset = np.take(after.second_moments[name][0], dead, axis)
            np.testing.assert_array_equal(reset, np.sort(moments, axis=None)[(moments.size - 1) // 2])
    np.testing.assert_array_equal(new.b_dec, old.b_dec)
    np.testing.assert_array_equal(after.steps_since_fired, 0)


def test_overflow_waits_in_order_of_rank():
    dead = list(range(1, 23, 2))  # 11 dead, 8 candidates
    before = state_with([dead, []])
    after, counts = resample(before)
    assert (counts["dead"][0], counts["revived"][0]) == (11, R)
    changed = np.any(after.autoencoder.W_dec[0] != before.autoencoder.W_dec[0], axis=1)
    assert np.flatnonzero(changed).tolist() == dead[:R]
    assert after.steps_since_fired[0, dead[R:]].tolist() == [WINDOW] * 3
    waiting, _ = resample(after, step=60)
    assert np.all(waiting.steps_since_fired == 0)


def test_all_dead_still_gives_finite_unit_vectors():
    after, counts = resample(state_with([list(range(F)), []]))
    assert (counts["dead"][0], counts["revived"][0]) == (F, R)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after.autoencoder))
    np.testing.assert_allclose(np.linalg.norm(after.autoencoder.W_dec, axis=-1), 1, atol=1e-6)
    assert np.all(after.second_moments["W_dec"] > 0)


def test_frozen_members_are_left_alone():
    before = dataclasses.replace(state_with([[1], [1]]), active=np.array([False, True]))
    after, counts = resample(before)
    assert counts["revived"].tolist() == [0, 1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), after, before)


def test_draws_prefer_inputs_with_large_loss_as_its_square():
    """One batch of which half has three times the error: the first drawn comes from it in 9 of 10 events."""
    before = state_with([[5], [5]])
    before = dataclasses.replace(
        before, autoencoder=jax.tree.map(np.zeros_like, before.autoencoder).replace(W_dec=before.autoencoder.W_dec)
    )
    (group,), mesh = group_points(POINTS), make_mesh()
    program = resampling(group, SETTINGS, mesh, max_revived=R)
    x = np.zeros((B, D), np.float32)
    x[: B // 2, 0], x[B // 2 :, 1] = np.sqrt(3), 1  # the reconstruction is zero, so the losses are 3 and 1
    large = 0
    for step in range(60):
        after, _ = program(jax.device_put(before, state_shardings(group, mesh)), [jnp.asarray(x)], step)
        large += int(np.sum(np.asarray(after.autoencoder.W_dec)[:, 5, 0] > 0.5))
    assert 95 <= large <= 117  # 120 draws at .9: 108 +- 3.3; at .75 (plain loss) it would be 90


def test_the_same_event_draws_the_same_and_another_does_not():
    before = state_with([[4], [4]])
    first, again, later = resample(before)[0], resample(before)[0], resample(before, step=41)[0]
    np.testing.assert_array_equal(first.autoencoder.W_dec, again.autoencoder.W_dec)
    assert np.any(first.autoencoder.W_dec[:, 4] != later.autoencoder.W_dec[:, 4])


def test_no_event_in_the_last_quarter():
    assert event_steps(["50%", "100 steps", "3200 tokens"], total_steps=1000, batch_size=32) == (100, 500)
    assert event_steps([], total_steps=1000, batch_size=32) == ()
    for wrong in ("76%", "0 steps", "751 steps"):
        with pytest.raises(SettingError, match=r"config\.training\.resampling\.events"):
            event_steps(["25%", wrong], total_steps=1000, batch_size=32)


def test_no_inputs_is_a_mistake():
    (group,), mesh = group_points(POINTS), make_mesh()
    with pytest.raises(ValueError, match="at least one batch"):
        resampling(group, SETTINGS, mesh, max_revived=R)(initial_state(group, D, mesh), [], 3)


def test_how_many_may_be_revived_grows_with_the_width():
    for width, most in ((512, 512), (16_384, 1024), (131_072, 4096)):
        (group,) = group_points([dataclasses.replace(POINTS[0], width=width)])
        programs = resampling_programs(group, SETTINGS, make_mesh())
        assert jax.eval_shape(lambda start=programs.start: start(D)).rows_RD.shape == (1, 1, most, D)
