"""Step and resampling of every architecture on meshes of eight devices equal one device; what moves between devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import FRESH, SETTINGS, B, D, F, point, rows

from gsae.autoencoders.registry import ARCHITECTURES
from gsae.collectives import compiled, totals
from gsae.mesh import DATA, FEATURE, SWEEP, make_mesh
from gsae.training.collectives import step_collectives
from gsae.training.groups import group_points
from gsae.training.resampling import resampling_programs
from gsae.training.step import abstract_state, batch_sharding, initial_state, make_step, state_shardings

MESHES = [(2, 2, 2), (1, 2, 4)]
# Each architecture is on one of these as well, in turn: a program for every pair would take too long to compile.
FURTHER = [(1, 8, 1), (8, 1, 1), (1, 1, 8), (4, 2, 1)]
OWN = {name: FURTHER[i % len(FURTHER)] for i, name in enumerate(ARCHITECTURES)}
PAIRS = [(name, shape) for name in ARCHITECTURES for shape in (*MESHES, OWN[name])]
# Of docs/collectives.md: P decodes, E encodes, V vectors [F], s and t single numbers over `data` and over `feature`.
COUNTS = {"gated": (2, 1, 5, 7, 8), "standard": (1, 1, 3, 6, 6)}
WINDOW = SETTINGS.dead_window_steps
R = 4  # features revived at most in one event


def group_of(name, sweep=1):
    coefficients = (0.05, 0.2) if ARCHITECTURES[name].warms_up else (2, 6)  # else numbers of features
    seeds = range(max(2, sweep // 2))  # four members, or one for each shard of the sweep
    (group,) = group_points(
        [point(name, seed=seed, sparsity_coefficient=c) for seed in seeds for c in coefficients], sweep
    )
    return group


@functools.cache
def in_the_middle(name):
    """A state on the host with every number different from zero, and with features that did not fire for long."""
    state = jax.device_get(initial_state(group_of(name), D, make_mesh()))
    random = np.random.default_rng(0)
    noise = {
        field: (getattr(state.autoencoder, field) + random.normal(0, 0.1, getattr(state.autoencoder, field).shape))
        for field in state.autoencoder.feature_axes
    }
    for field, axis in state.autoencoder.feature_axes.items():
        if field in state.autoencoder.unit_norm_fields():
            noise[field] /= np.linalg.norm(noise[field], axis=2 - axis, keepdims=True)
    since = random.integers(0, WINDOW, (4, F))
    for member, dead in enumerate(([0, 5, 6, 11, 12, 23], [3], range(1, 15), [])):
        since[member, list(dead)] = WINDOW
    moments = {k: random.uniform(0.1, 1, v.shape).astype(np.float32) for k, v in state.second_moments.items()}
    return dataclasses.replace(
        state,
        autoencoder=state.autoencoder.replace(**{k: v.astype(np.float32) for k, v in noise.items()}),
        second_moments=moments,
        steps_since_fired=since.astype(np.int32),
    )


def on_mesh(name, state, shape):
    """The four members on a mesh; once more where the sweep has more shards."""
    mesh, group = make_mesh(*shape), group_of(name, shape[0])
    state = jax.tree.map(lambda leaf: np.concatenate([leaf] * (group.size // 4)), state)
    return mesh, jax.device_put(state, state_shardings(group, mesh))


def first_four(tree):
    return jax.tree.map(lambda leaf: leaf[:4], jax.device_get(tree))


# Programs are compiled once, to be run and to be looked into. How they are split is decided before LLVM sees anything:
# its optimisations, a third of the time, are left out here; whole runs on meshes (test_loop.py) have them.
QUICKLY = {"xla_backend_optimization_level": 0}


@functools.cache
def compiled_step(name, shape):
    mesh, group = make_mesh(*shape), group_of(name, shape[0])
    batch = jax.ShapeDtypeStruct((B, D), jnp.float32, sharding=batch_sharding(mesh))
    lowered = make_step(group, SETTINGS, mesh).lower(abstract_state(group, D, mesh), batch, jnp.int32(0))
    return lowered.compile(compiler_options=QUICKLY)


@functools.cache
def compiled_resampling(name, shape):
    mesh, group = make_mesh(*shape), group_of(name, shape[0])
    state, number = abstract_state(group, D, mesh), jnp.int32(0)
    batch = jax.ShapeDtypeStruct((B, D), jnp.float32, sharding=batch_sharding(mesh))
    parts = resampling_programs(group, SETTINGS, mesh, max_revived=R)
    candidates = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), parts.start(D)
    )
    score = parts.score.lower(candidates, state, batch, number, number).compile(compiler_options=QUICKLY)
    return parts.start, score, parts.revive.lower(state, candidates, number).compile(compiler_options=QUICKLY)


@functools.cache
def after_a_step(name, shape, t):
    mesh, placed = on_mesh(name, in_the_middle(name), shape)
    batch = jax.device_put(rows(t), batch_sharding(mesh))
    return first_four(compiled_step(name, shape)(placed, batch, jnp.int32(t)))


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_a_step_from_a_common_state_equals_one_device(name, shape):
    fresh = jax.device_get(initial_state(group_of(name), D, make_mesh()))
    sharded = first_four(initial_state(group_of(name, shape[0]), D, make_mesh(*shape)))
    jax.tree.map(np.testing.assert_array_equal, fresh, sharded)
    for t in (5, 6):
        one, one_metrics = after_a_step(name, (1, 1, 1), t)
        many, many_metrics = after_a_step(name, shape, t)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), one, many)
        np.testing.assert_array_equal(one.steps_since_fired, many.steps_since_fired)
        for metric, value in one_metrics.items():
            np.testing.assert_allclose(many_metrics[metric], value, rtol=1e-5, atol=1e-5, err_msg=metric)


@functools.cache
def after_resampling(name, shape):
    mesh, state = on_mesh(name, in_the_middle(name), shape)
    start, score, revive = compiled_resampling(name, shape)
    candidates = start(D)
    for i in range(2):
        batch = jax.device_put(rows(i), batch_sharding(mesh))
        candidates = score(candidates, state, batch, jnp.int32(7), jnp.int32(i))
    return first_four(revive(state, candidates, jnp.int32(7)))


RESAMPLED = [(name, shape) for name in FRESH for shape in MESHES]  # others keep the vectors that they began with


@pytest.mark.parametrize(("name", "shape"), RESAMPLED)
def test_resampling_selects_and_revives_as_on_one_device(name, shape):
    (one, one_counts), (many, many_counts) = (after_resampling(name, s) for s in ((1, 1, 1), shape))
    assert many_counts["dead"].tolist() == one_counts["dead"].tolist() == [6, 1, 14, 0]
    assert many_counts["revived"].tolist() == one_counts["revived"].tolist() == [4, 1, 4, 0]
    np.testing.assert_array_equal(many.steps_since_fired, one.steps_since_fired)
    np.testing.assert_array_equal(many.last_resample, one.last_resample)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), one, many)
    before = in_the_middle(name)
    taken = (before.steps_since_fired == WINDOW) & (one.steps_since_fired == 0)
    assert taken.sum(1).tolist() == [4, 1, 4, 0]
    moved = np.abs(many.autoencoder.W_dec - before.autoencoder.W_dec).max(-1) > 1e-3
    np.testing.assert_array_equal(moved, taken)


def is_the_batch(one, shape):
    axes = tuple(name for name, size in ((SWEEP, shape[0]), (FEATURE, shape[2])) if size > 1)
    return (one.kind, one.axes, one.shapes) == ("all-gather", axes, ((B // shape[1], D),))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_but_the_batch_crosses_the_sweep_and_no_dictionary_is_gathered(name, shape):
    _, score, revive = compiled_resampling(name, shape)
    for which, program in {"step": compiled_step(name, shape), "score": score, "revive": revive}.items():
        found = compiled(program.as_text(), make_mesh(*shape).shape)
        batches = [one.times for one in found if is_the_batch(one, shape)]
        assert batches == ([] if which == "revive" else [1]), (which, found)
        rest = [one for one in found if not is_the_batch(one, shape)]
        assert rest and not [one for one in rest if SWEEP in one.axes], (which, rest)
        kinds = {one.kind for one in rest}
        assert kinds <= ({"all-reduce", "all-gather"} if which == "revive" else {"all-reduce"}), (which, rest)
        for one in rest:
            for dims in one.shapes if one.kind == "all-gather" else ():  # candidates, and counts of the shards
                long = [n for n in dims if n > 1]
                assert long in ([], [shape[1], R], [shape[1], R, D], [shape[2]]), (which, one)


def formula(name, group, shape):
    """Bytes of a step by kind and axes, as docs/collectives.md says."""
    P, E, V, s, t = COUNTS[name]
    sweep, data, feature = shape
    members, rows, features = group.size // sweep, B // data, F // feature
    found = {}
    if sweep * feature > 1:
        across = tuple(axis for axis, size in ((SWEEP, sweep), (FEATURE, feature)) if size > 1)
        found["all-gather", across] = 4 * rows * D
    if data > 1:
        found["all-reduce", (DATA,)] = 4 * members * (2 * D * features + V * features + 2 * D + s)
    if feature > 1:
        found["all-reduce", (FEATURE,)] = 4 * members * (P * rows * D + E * D + t)
    return found


@pytest.mark.parametrize(("name", "shape"), [pair for pair in PAIRS if pair[0] in COUNTS])
def test_bytes_of_a_step_are_those_of_the_formula(name, shape):
    mesh, group = make_mesh(*shape), group_of(name, shape[0])
    expected = formula(name, group, shape)
    assert totals(step_collectives(group, D, SETTINGS, mesh.shape)) == expected
    if shape[0] > 1 and shape[1] > 1:  # the batch's own mean and variance are taken out of the loop over members
        expected["all-reduce", (DATA,)] -= 4 * (group.size // shape[0] - 1) * (D + 1)
    assert totals(compiled(compiled_step(name, shape).as_text(), mesh.shape)) == expected


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_every_architecture_moves_what_its_types_say(name, shape):
    """Array by array. Of means [D] of the batch, and of single numbers, the compiler may find some to be the same."""
    mesh, group = make_mesh(*shape), group_of(name, shape[0])

    def arrays(collectives):
        found = {}
        for one in collectives:
            for dims in one.shapes:
                key = one.kind, one.axes, tuple(n for n in dims if n > 1)
                found[key] = found.get(key, 0) + one.times
        return {key: times for key, times in found.items() if key[2]}

    expected = arrays(step_collectives(group, D, SETTINGS, mesh.shape))
    found = arrays(compiled(compiled_step(name, shape).as_text(), mesh.shape))
    means = ("all-reduce", (DATA,), (D,))
    assert found.pop(means, 0) <= expected.pop(means, 0)
    assert found == expected
