import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gsae.training import optimizer

AXES = {"W_dec": 0, "W_up": 1}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def fields(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"W_dec": (6, 4), "W_up": (4, 6), "b_dec": (4,)}
    values = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    values["W_dec"] /= np.linalg.norm(values["W_dec"], axis=1, keepdims=True)
    values["W_up"] /= np.linalg.norm(values["W_up"], axis=0, keepdims=True)
    return values


def test_projection_leaves_only_what_is_orthogonal(float64):
    parameters, gradients = fields(0), fields(1)
    parameters["W_dec"] *= 3.0  # it need not be normalised
    component = optimizer.project_out_parallel(AXES)
    projected, _ = component.update(gradients, component.init(parameters), parameters)
    np.testing.assert_allclose(np.sum(projected["W_dec"] * parameters["W_dec"], 1), 0, atol=1e-14)
    np.testing.assert_allclose(np.sum(projected["W_up"] * parameters["W_up"], 0), 0, atol=1e-14)
    np.testing.assert_array_equal(projected["b_dec"], gradients["b_dec"])
    removed = gradients["W_dec"] - projected["W_dec"]
    cosines = np.abs(np.sum(removed * parameters["W_dec"], 1)) / np.linalg.norm(removed, axis=1) / 3
    np.testing.assert_allclose(cosines, 1, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_updates_land_on_unit_vectors(size):
    parameters = {k: jnp.asarray(v, jnp.float32) for k, v in fields(0).items()}
    updates = {k: jnp.asarray(v * size, jnp.float32) for k, v in fields(1).items()}
    component = optimizer.hold_unit_norm(AXES)
    held, _ = component.update(updates, component.init(parameters), parameters)
    moved = {k: np.asarray(parameters[k] + held[k], np.float64) for k in held}
    np.testing.assert_allclose(np.linalg.norm(moved["W_dec"], axis=1), 1, atol=3e-7)
    np.testing.assert_allclose(np.linalg.norm(moved["W_up"], axis=0), 1, atol=3e-7)
    expected = np.asarray(parameters["W_dec"] + updates["W_dec"], np.float64)
    np.testing.assert_allclose(moved["W_dec"], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(held["b_dec"], updates["b_dec"])


def constrained_adam(parameters, gradients_of, steps, learning_rate, beta2=0.999, eps=1e-8):
    """The formulas of torch.optim.Adam with betas (0, beta2), in float64, with the norm constraint around them."""
    p = {k: v.copy() for k, v in parameters.items()}
    v = {k: np.zeros_like(x) for k, x in p.items()}
    for t in range(steps):
        g = gradients_of(t)
        for name, axis in AXES.items():
            unit = p[name] / np.linalg.norm(p[name], axis=1 - axis, keepdims=True)
            g[name] = g[name] - np.sum(g[name] * unit, 1 - axis, keepdims=True) * unit
        for name in p:
            v[name] = beta2 * v[name] + (1 - beta2) * g[name] ** 2
            p[name] = p[name] - learning_rate * g[name] / (np.sqrt(v[name]) / np.sqrt(1 - beta2 ** (t + 1)) + eps)
        for name, axis in AXES.items():
            p[name] = p[name] / np.linalg.norm(p[name], axis=1 - axis, keepdims=True)
    return p, v


def updates(parameters, steps, dtype):
    @jax.jit
    def update(g, v, p, t):
        constants = {"learning_rate": 1e-2, "unit_norm_axes": dict(AXES), "beta2": 0.999, "eps": 1e-8}
        return optimizer.update_member(g, v, p, step=t, **constants)

    p = {k: jnp.asarray(x, dtype) for k, x in parameters.items()}
    v = {k: jnp.zeros_like(x) for k, x in p.items()}
    for t in range(steps):
        g = {k: jnp.asarray(x, dtype) for k, x in fields(100 + t).items()}
        p, v = update(g, v, p, jnp.int32(t))
    return p, v


def test_equals_the_published_formulas_in_float64(float64):
    want_p, want_v = constrained_adam(fields(0), lambda t: fields(100 + t), 20, 1e-2)
    got_p, got_v = updates(fields(0), 20, jnp.float64)
    for name in want_p:
        np.testing.assert_allclose(got_p[name], want_p[name], rtol=0, atol=1e-12)
        np.testing.assert_allclose(got_v[name], want_v[name], rtol=1e-12)


def test_float32_stays_close_over_twenty_steps():
    want_p, _ = constrained_adam(fields(0), lambda t: fields(100 + t), 20, 1e-2)
    got_p, _ = updates(fields(0), 20, jnp.float32)
    for name in want_p:
        np.testing.assert_allclose(got_p[name], want_p[name], rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float32, (5, 8), elements=st.floats(0, 2.0**100, width=32, allow_subnormal=False)),
    hnp.arrays(np.bool_, (8,)),
)
def test_masked_median_is_exact(values, mask):
    got = float(jax.jit(optimizer.masked_median)(values, mask))
    chosen = np.sort(values[:, mask], axis=None)
    assert got == (chosen[(chosen.size - 1) // 2] if chosen.size else 0)


def test_resets_take_the_living_median():
    moments = {k: jnp.asarray(v**2, jnp.float32) for k, v in fields(3).items()}
    reset = np.array([1, 0, 0, 0, 0, 0], bool)
    living = np.array([0, 0, 1, 1, 1, 0], bool)  # features 1 and 5 are dead too, and wait
    after = optimizer.reset_second_moments(moments, reset, living, {"W_dec": 0, "W_up": 1, "b_dec": None})
    for name, axis in (("W_dec", 0), ("W_up", 1)):
        old, new = (np.moveaxis(np.asarray(tree[name]), axis, 0) for tree in (moments, after))
        lower_median = np.sort(old[living], axis=None)[(old[living].size - 1) // 2]
        np.testing.assert_array_equal(new[reset], lower_median)
        np.testing.assert_array_equal(new[~reset], old[~reset])
    np.testing.assert_array_equal(after["b_dec"], moments["b_dec"])


def test_late_reset_does_not_jump():
    """What the median is for: a moment set to zero late makes the next update 31.6 times the learning rate."""
    living = np.full((1, 7), 1e-4)
    moments = {"W_dec": jnp.asarray(np.concatenate([np.zeros((1, 7)), living]), jnp.float32)}
    gradients = {"W_dec": jnp.full((2, 7), 1e-2, jnp.float32)}
    parameters = {"W_dec": jnp.zeros((2, 7), jnp.float32)}

    def largest_update(moments):
        moved, _ = optimizer.update_member(
            gradients,
            moments,
            parameters,
            step=jnp.int32(50_000),
            learning_rate=1.0,
            unit_norm_axes={},
            beta2=0.999,
            eps=1e-8,
        )
        return float(jnp.max(jnp.abs(moved["W_dec"])))

    assert largest_update(moments) > 31
    reset = optimizer.reset_second_moments(moments, np.array([True, False]), np.array([False, True]), {"W_dec": 0})
    assert largest_update(reset) < 1.1
