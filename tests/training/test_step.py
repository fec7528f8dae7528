"""The step on one device: what it computes, what it freezes, what it allocates. Meshes: test_step_sharded.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.context import Context
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.errors import SettingError
from gsae.mesh import make_mesh
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import (
    METRICS,
    NEVER,
    TRAINING,
    StepSettings,
    batch_sharding,
    initial_state,
    make_step,
    state_shardings,
)

B, D, F = 32, 12, 24
SCHEDULES = Schedules(total_steps=1000, warmup_steps=3, sparsity_warmup_steps=4)
FRESH = sorted(
    name for name, kind in ARCHITECTURES.items() if not kind.STARTS_FROM
)  # the others have no W_dec to train
SETTINGS = StepSettings(batch_size=B, schedules=SCHEDULES, input_scale=0.5, dead_window_tokens=2 * B)


def point(architecture="gated", sparsity_coefficient=0.1, learning_rate=1e-3, seed=0, width=F):
    options = ARCHITECTURES[architecture].Options()
    return Point(architecture, "mlp_out.1", width, sparsity_coefficient, learning_rate, seed, options)


def rows(step, dtype=np.float32):
    return np.random.default_rng(step).normal(1.0, 1.0, size=(B, D)).astype(dtype)


program = functools.cache(make_step)  # compiled once for all tests of a group


def train(points, steps, state=None, first=0):
    mesh = make_mesh()
    (group,) = group_points(points)
    state = initial_state(group, D, mesh) if state is None else jax.device_put(state, state_shardings(group, mesh))
    step = program(group, SETTINGS, mesh)
    metrics = []
    for t in range(first, first + steps):
        state, values = step(state, jax.device_put(rows(t), batch_sharding(mesh)), jnp.int32(t))
        metrics.append(jax.device_get(values))
    return jax.device_get(state), metrics


def members(state, index):
    return jax.tree.map(lambda leaf: leaf[index], state)


def assert_trees(compare, left, right):
    jax.tree.map(lambda a, b: compare(np.asarray(a), np.asarray(b)), left, right)


@functools.partial(jax.value_and_grad, has_aux=True)
def gradient(parameters, member, x_BD, context):
    return member.replace(**parameters).loss({"x": x_BD}, context)


@pytest.mark.parametrize("architecture", FRESH)
def test_two_steps_equal_the_formulas(architecture):
    """The whole update, written again in plain numpy around the architecture's own gradient."""
    warms_up = ARCHITECTURES[architecture].warms_up
    given = point(architecture, sparsity_coefficient=0.1 if warms_up else 6)
    state, metrics = train([given], 2)
    member = members(jax.device_get(initial_state(group_points([given])[0], D, make_mesh())), 0).autoencoder
    v = {name: np.zeros_like(getattr(member, name)) for name in member.trained_fields()}
    for t in range(2):
        x_BD = jnp.asarray(rows(t) * np.float32(0.5))
        coefficient = given.sparsity_coefficient * ((t + 1) / 4 if warms_up else 1)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SETTINGS.seed), TRAINING), given.seed)
        context = Context(
            sparsity_coefficient=jnp.float32(coefficient),
            key=jax.random.fold_in(key, t),
            progress=jnp.float32(t / 1000),
        )
        p = {name: getattr(member, name) for name in v}
        (loss, stats), g = gradient(p, member, x_BD, context)
        g = {name: np.asarray(value, np.float64) for name, value in g.items()}
        np.testing.assert_allclose(metrics[t]["loss"][0], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics[t]["fvu"][0], stats["squared_error"] / stats["variance"], rtol=1e-5)
        np.testing.assert_allclose(metrics[t]["gamma"][0], stats["x_hat_squared"] / stats["x_dot_x_hat"], rtol=1e-5)
        norm = np.sqrt(sum(np.sum(value**2) for value in g.values()))
        np.testing.assert_allclose(metrics[t]["gradient_norm"][0], norm, rtol=1e-5)
        for name in member.unit_norm_fields():
            g[name] -= np.sum(g[name] * p[name], 1, keepdims=True) * p[name]
        for name in p:
            v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
            p[name] = p[name] - 1e-3 * (t + 1) / 3 * g[name] / (np.sqrt(v[name] / (1 - 0.999 ** (t + 1))) + 1e-8)
        for name in member.unit_norm_fields():
            p[name] = p[name] / np.linalg.norm(p[name], axis=1, keepdims=True)
        member = member.replace(**{name: jnp.asarray(value, jnp.float32) for name, value in p.items()})
        member = member.after_update(stats)
    for name in v:
        np.testing.assert_allclose(getattr(state.autoencoder, name)[0], getattr(member, name), atol=2e-6)
        np.testing.assert_allclose(state.second_moments[name][0], v[name], rtol=1e-3, atol=1e-9)


def test_metrics_are_float32_per_member_with_the_schedules():
    _, metrics = train([point(), point(learning_rate=2e-3, sparsity_coefficient=0.4)], 3)
    assert sorted(metrics[0]) == sorted(METRICS)
    assert all(value.shape == (2,) and value.dtype == np.float32 for value in metrics[0].values())
    np.testing.assert_allclose(metrics[0]["learning_rate"], [1e-3 / 3, 2e-3 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics[0]["sparsity_coefficient"], [0.025, 0.1], rtol=1e-6)
    total = sum(metrics[2][name] for name in ("reconstruction", "sparsity", "auxiliary"))
    np.testing.assert_allclose(metrics[2]["loss"], total, rtol=1e-6)


def test_the_loss_is_told_how_far_the_run_is(monkeypatch):
    plain = ARCHITECTURES["standard"].loss

    def loss(self, batch, context):
        value, stats = plain(self, batch, context)
        return value, stats | {"auxiliary": jnp.float32(context.progress)}

    monkeypatch.setattr(ARCHITECTURES["standard"], "loss", loss)
    _, metrics = train([point("standard", width=2 * F)], 1, first=250)  # of 1000; a width of no other test
    np.testing.assert_allclose(metrics[0]["auxiliary"], 0.25)


def test_a_point_alone_is_the_point_in_a_sweep():
    points = [point(seed=3), point(seed=4, learning_rate=3e-3), point(seed=3, sparsity_coefficient=0.5)]
    together, _ = train(points, 5)
    for i, own in enumerate(points):
        alone, _ = train([own], 5)
        assert_trees(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), members(alone, 0), members(together, i))
    start = initial_state(group_points(points)[0], D, make_mesh()).autoencoder.W_dec
    np.testing.assert_array_equal(start[0], start[2])
    assert not np.array_equal(start[0], start[1])


def test_a_member_that_is_not_finite_is_frozen_and_the_rest_go_on_bitwise():
    wild = dataclasses.replace(point(seed=1), learning_rate=1e38)
    healthy = [point(), point(sparsity_coefficient=0.3)]
    want, _ = train(healthy, 6)
    got, metrics = train([healthy[0], wild, healthy[1]], 6)
    assert_trees(np.testing.assert_array_equal, members(want, np.array([0, 1])), members(got, np.array([0, 2])))
    assert list(got.active) == [True, False, True]
    active = np.array([m["active"] for m in metrics])
    assert active[0].tolist() == [1, 1, 1] and active[-1].tolist() == [1, 0, 1]
    assert np.isnan(metrics[-1]["loss"][1])
    stopped = int(np.argmin(active[:, 1]))
    then, _ = train([healthy[0], wild, healthy[1]], stopped)
    frozen, later = members(then, 1), members(got, 1)
    assert_trees(np.testing.assert_array_equal, frozen.autoencoder, later.autoencoder)
    assert_trees(np.testing.assert_array_equal, frozen.second_moments, later.second_moments)
    np.testing.assert_array_equal(frozen.steps_since_fired, later.steps_since_fired)


def test_the_norm_ratio_is_that_of_the_batch():
    state, _ = train([point("standard")], 1)
    _, metrics = train([point("standard")], 1, state=state, first=1)
    member, x_BD = members(state, 0).autoencoder, rows(1) * SETTINGS.input_scale
    x_hat_BD = np.asarray(member.decode(member.encode(x_BD)), np.float64)
    ratio = np.sqrt(np.square(x_hat_BD).sum() / np.square(x_BD, dtype=np.float64).sum())
    np.testing.assert_allclose(metrics[0]["norm_ratio"][0], ratio, rtol=1e-5)


FREE = {"jumprelu_tanh"} | {name for name, kind in ARCHITECTURES.items() if kind.bounded}  # vectors of any length


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - FREE))
def test_decoder_vectors_have_unit_norm_after_every_step(architecture):
    state = None
    for t in range(4):
        state, _ = train([point(architecture, learning_rate=0.1)], 1, state=state, first=t)
        norms = np.linalg.norm(np.asarray(state.autoencoder.W_dec, np.float64), axis=-1)
        np.testing.assert_allclose(norms, 1, atol=3e-7)


def test_counters_are_integers_that_survive_two_billion_tokens():
    settings = dataclasses.replace(SETTINGS, dead_window_tokens=2**40)
    assert settings.dead_window_steps == 2**40 // B
    mesh = make_mesh()
    (group,) = group_points([point()])
    state = initial_state(group, D, mesh)
    assert state.steps_since_fired.dtype == jnp.int32 and state.last_resample.tolist() == [NEVER]
    silent = dataclasses.replace(state.autoencoder, b_gate=jnp.full((1, F), -1e3))
    state = dataclasses.replace(state, autoencoder=silent, steps_since_fired=jnp.full((1, F), 2**26 + 1, jnp.int32))
    state = jax.device_put(state, state_shardings(group, mesh))
    state, metrics = program(group, SETTINGS, mesh)(state, jnp.asarray(rows(0)), jnp.int32(2**26 + 1))
    np.testing.assert_array_equal(state.steps_since_fired, 2**26 + 2)  # float32 would stay at 2^26
    assert metrics["dead_share"][0] == 1


def test_dead_share_counts_silent_features():
    state, metrics = train([point()], 1)
    since = state.steps_since_fired
    assert since.min() == 0 and metrics[0]["dead_share"][0] == np.mean(since[0] >= 2)


def test_learning_rate_falls_after_a_resampling_of_the_member():
    mesh = make_mesh()
    (group,) = group_points([point(), point(seed=1)])
    state = initial_state(group, D, mesh)
    state = dataclasses.replace(state, last_resample=jnp.asarray([NEVER, 10], jnp.int32))
    state = jax.device_put(state, state_shardings(group, mesh))
    _, metrics = program(group, SETTINGS, mesh)(state, jnp.asarray(rows(0)), jnp.int32(10))
    np.testing.assert_allclose(metrics["learning_rate"], [1e-3, 1e-4], rtol=1e-6)


def compiled(points, settings=SETTINGS, dtype=jnp.float32):
    mesh = make_mesh()
    (group,) = group_points(points)
    batch = jax.ShapeDtypeStruct((B, D), dtype, sharding=batch_sharding(mesh))
    return make_step(group, settings, mesh).lower(initial_state(group, D, mesh), batch, jnp.int32(0))


def test_the_state_is_two_copies_of_the_parameters_and_is_written_in_place():
    (group,) = group_points([point(seed=s, width=4096) for s in range(8)])
    state = jax.eval_shape(lambda: initial_state(group, D, make_mesh()))
    parameters = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.autoencoder))
    counters = 8 * 4096 * 4
    quickly = {"xla_backend_optimization_level": 0}  # memory is laid out before LLVM's optimisations
    memory = compiled(group.points).compile(quickly).memory_analysis()
    assert memory.alias_size_in_bytes >= 2 * parameters + counters
    assert memory.argument_size_in_bytes <= 1.01 * (2 * parameters + counters)
    # Temporaries are those of one member (activations, gradients and a copy of its state), not of eight.
    alone = compiled(group.points[:1]).compile(quickly).memory_analysis().temp_size_in_bytes
    assert memory.temp_size_in_bytes < alone + 1.5 * 2 * parameters / 8


def test_bfloat16_products_accumulate_in_float32():
    settings = dataclasses.replace(SETTINGS, compute_dtype="bfloat16")
    text = compiled([point()], settings, jnp.bfloat16).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    large = [line for line in products if line.count("bf16") >= 2]
    assert len(large) == 7
    assert all(
        line.rstrip().split("->")[-1].count("f32") == 1 and "xbf16>" not in line.split("->")[-1] for line in large
    )


def test_wrong_sizes_name_the_setting():
    (group,) = group_points([point()])
    with pytest.raises(SettingError, match=r"config\.training\.batch_size"):
        make_step(group, dataclasses.replace(SETTINGS, batch_size=33), make_mesh(1, 2, 1))
    with pytest.raises(SettingError, match=r"config\.mesh\.feature"):
        make_step(group_points([point(width=25)])[0], SETTINGS, make_mesh(1, 1, 2))
    with pytest.raises(SettingError, match=r"config\.mesh\.sweep"):
        make_step(group, SETTINGS, make_mesh(2, 1, 1))
