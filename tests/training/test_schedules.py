import jax
import jax.numpy as jnp
import numpy as np

from gsae.training.schedules import Schedules, return_factor


def factors(schedules, steps):
    return np.asarray(jax.jit(jax.vmap(schedules.learning_rate_factor))(jnp.asarray(steps, jnp.int32)))


def test_linear_warmup_is_never_zero_and_reaches_one():
    np.testing.assert_allclose(
        factors(Schedules(100, "linear", 4), [0, 1, 2, 3, 50]), [0.25, 0.5, 0.75, 1, 1], rtol=1e-6
    )


def test_cosine_warmup_rises_from_a_tenth():
    values = factors(Schedules(100_000, "cosine", 1000), [0, 499, 999, 5000])
    np.testing.assert_allclose(values, [0.1, 0.55, 1, 1], atol=1e-5)


def test_decays_end_at_the_final_fraction():
    for decay, middle in (("linear", 0.55), ("cosine", 0.55)):
        schedules = Schedules(1000, decay=decay, decay_start=800, final_fraction=0.1)
        np.testing.assert_allclose(factors(schedules, [0, 800, 900, 1000, 2000]), [1, 1, middle, 0.1, 0.1], rtol=1e-5)
    quarter = factors(Schedules(1000, decay="cosine"), [250])
    np.testing.assert_allclose(quarter, (1 + np.cos(np.pi / 4)) / 2, rtol=1e-5)
    np.testing.assert_array_equal(factors(Schedules(1000), [0, 999]), 1)


def test_sparsity_warmup_is_linear():
    schedules = Schedules(100, sparsity_warmup_steps=5)
    values = [float(schedules.sparsity_factor(jnp.int32(step))) for step in (0, 1, 4, 99)]
    np.testing.assert_allclose(values, [0.2, 0.4, 1, 1], rtol=1e-6)
    assert float(Schedules(100).sparsity_factor(jnp.int32(0))) == 1


def test_learning_rate_returns_after_an_event():
    since = jnp.asarray([-1, 0, 500, 1000, 2**30], jnp.int32)
    np.testing.assert_allclose(return_factor(since, 1000, 0.1), [1, 0.1, 0.55, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(return_factor(since, 0, 0.1), 1)


def test_progress_is_the_share_of_updates_made_before():
    schedules = Schedules(total_steps=8)
    assert [float(schedules.progress(jnp.int32(step))) for step in (0, 2, 7)] == [0, 0.25, 0.875]


def test_factors_are_float32_late_in_a_run():
    factor = Schedules(2**31 - 1, "linear", 10, "linear", 2**30).learning_rate_factor(jnp.int32(2**31 - 2))
    assert factor.dtype == jnp.float32
    assert 0 <= float(factor) < 1e-6
