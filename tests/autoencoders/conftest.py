import jax
import jax.numpy as jnp
import pytest

from gsae.autoencoders.context import Context


@pytest.fixture
def float64():
    """64-bit arrays for one test; the switch is put back after it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def randomised():
    """Random nonzero parameters, so that no gradient is right by accident."""

    def randomise(cls, activation_width, features, options=None, seed=0, dtype=jnp.float64):
        key, *keys = jax.random.split(jax.random.key(seed), 20)
        fresh = cls.initialise(key, activation_width, features, cls.Options() if options is None else options)
        values = {name: getattr(fresh, name).astype(dtype) for name in fresh.feature_axes}
        arrays = [name for name, value in values.items() if value.ndim]  # single numbers, such as k, mean something
        for name, k in zip(arrays, keys, strict=False):
            values[name] += 0.3 * jax.random.normal(k, values[name].shape, dtype)
        return fresh.replace(**values)

    return randomise


@pytest.fixture
def context():
    """A training context; `context(0.3)` in float64, `context(0.3, "float32")` elsewhere."""

    def make(sparsity_coefficient, compute_dtype="float64"):
        return Context(
            sparsity_coefficient=jnp.asarray(sparsity_coefficient, jnp.promote_types(compute_dtype, jnp.float32)),
            key=jax.random.key(0),
            compute_dtype=compute_dtype,
        )

    return make
