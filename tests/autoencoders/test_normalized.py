"""The normalised autoencoder against its equations in float64; its noise; what it refuses."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.normalized import Normalized, NormalizedOptions
from gsae.autoencoders.registry import make_options
from gsae.errors import SettingError
from gsae.throughput import count_flops

B, D, F = 40, 12, 20
ALPHA, NORM = 0.3, 1.7


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def made(randomised, **options):
    return randomised(Normalized, D, F, NormalizedOptions(**options)).replace(mean_norm=jnp.float64(NORM))


def literal(parameters, x, noise, power, b_dec):
    """The loss as the study writes it."""
    c = jnp.tanh(jnp.maximum(x @ parameters["W_enc"] + parameters["b_enc"] + noise, 0))
    x_hat = c @ parameters["W_dec"] + parameters.get("b_dec", b_dec)
    beta = ALPHA * NORM**power
    return jnp.mean(jnp.sum((x - x_hat) ** 2, axis=1) + beta * jnp.sum(c, axis=1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("noise", "power"), [(0.3, 2), (1.0, 1), (0.0, 0)])
def test_loss_and_gradients_equal_the_equations(noise, power, bias, x_BD, randomised, context):
    sae = made(randomised, noise=noise, norm_power=power, decoder_bias=bias)
    training = context(ALPHA)
    drawn_BF = noise * jax.random.normal(training.key, (B, F), jnp.float64)
    parameters = {name: getattr(sae, name) for name in sae.trained_fields()}
    assert ("b_dec" in parameters) == bias
    ours = jax.value_and_grad(lambda p: sae.replace(**p).loss({"x": x_BD}, training)[0])(parameters)
    theirs = jax.value_and_grad(lambda p: literal(p, x_BD, drawn_BF, power, sae.b_dec))(parameters)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), ours, theirs)
    assert all(np.abs(gradient).max() > 1e-3 for gradient in ours[1].values())


def test_noise_is_in_training_only_and_follows_from_the_key(x_BD, randomised, context):
    sae = made(randomised, noise=0.5)
    quiet_BF, training = sae.encode(x_BD), context(ALPHA)
    z_BF = np.asarray(x_BD) @ np.asarray(sae.W_enc) + np.asarray(sae.b_enc)
    np.testing.assert_allclose(quiet_BF, np.tanh(np.maximum(z_BF, 0)), atol=1e-14)
    judging = dataclasses.replace(training, train=False)
    np.testing.assert_array_equal(sae.encode(x_BD, judging), quiet_BF)
    np.testing.assert_array_equal(made(randomised, noise=0.0).encode(x_BD, training), quiet_BF)
    noisy_BF = sae.encode(x_BD, training)
    np.testing.assert_array_equal(noisy_BF, sae.encode(x_BD, training))
    other_BF = sae.encode(x_BD, dataclasses.replace(training, key=jax.random.key(1)))
    assert np.mean(np.asarray(noisy_BF) != quiet_BF) > 0.5 and np.mean(np.asarray(noisy_BF) != other_BF) > 0.5
    both = (np.asarray(noisy_BF) > 0) & (np.asarray(quiet_BF) > 0)
    found = (np.arctanh(noisy_BF) - np.arctanh(quiet_BF))[both & (np.asarray(noisy_BF) < 0.999) & (quiet_BF < 0.999)]
    assert 0.3 < np.std(found) < 0.6
    stats = sae.loss({"x": x_BD}, training)[1]
    np.testing.assert_array_equal(stats["fired"], (z_BF > 0).sum(0))


def test_it_is_calibrated_on_the_mean_norm_and_begins_alike_in_any_units(float64):
    fresh = Normalized.initialise(jax.random.key(0), 64, 256, NormalizedOptions())
    x_ND = jax.random.normal(jax.random.key(1), (500, 64), jnp.float64) * jnp.arange(1, 501)[:, None]
    ours, larger = fresh.calibrate(x_ND), fresh.calibrate(10 * x_ND)
    np.testing.assert_allclose(ours.mean_norm, np.linalg.norm(x_ND, axis=1).mean(), rtol=1e-6)  # not of the square
    np.testing.assert_allclose(larger.encode(10 * x_ND), ours.encode(x_ND), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        larger.decode(larger.encode(10 * x_ND)), 10 * ours.decode(ours.encode(x_ND)), rtol=1e-4, atol=0.01
    )
    assert fresh.calibration_rows() > 0 and ours.W_dec.dtype == fresh.W_dec.dtype

    x_ND = jax.random.normal(jax.random.key(2), (500, 64))
    begun = fresh.calibrate(x_ND)
    assert 0.9 < np.std(begun.preactivations(x_ND)) < 1.1
    along = np.sum(np.asarray(begun.decode(begun.encode(x_ND))) * np.asarray(x_ND)) / np.sum(np.asarray(x_ND) ** 2)
    assert 0.7 < along < 1.3


def test_activations_stay_below_one_and_saturate(randomised):
    sae = randomised(Normalized, D, F, dtype=jnp.float32)
    f_BF = sae.encode(100 * jax.random.normal(jax.random.key(0), (B, D)))
    assert f_BF.min() >= 0 and f_BF.max() <= 1  # float32 has no number between tanh(10) and 1


def test_a_step_has_five_products(context):
    fresh = Normalized.initialise(jax.random.key(0), 64, 512, NormalizedOptions())
    x_BD, training = jnp.ones((128, 64)), context(ALPHA, "float32")
    parameters = {name: getattr(fresh, name) for name in fresh.trained_fields()}

    def gradients(parameters):
        return jax.grad(lambda p: fresh.replace(**p).loss({"x": x_BD}, training)[0])(parameters)

    assert count_flops(jax.jit(gradients).trace(parameters).jaxpr) == 5 * 2 * 128 * 64 * 512


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [("noise", -0.1, "a number from 0"), ("noise", math.inf, "a number from 0"), ("noise", True, "a number from 0"),
     ("norm_power", 3, "0, 1 or 2"), ("norm_power", True, "0, 1 or 2"), ("decoder_bias", 1, "True or False")],
)  # fmt: skip
def test_wrong_options_are_refused_by_name(setting, value, allowed):
    with pytest.raises(SettingError, match=rf"{setting} = {value!r}: must be {allowed}"):
        make_options("normalized", {setting: value})


def test_what_is_another_kind_says_so():
    assert NormalizedOptions().variant() == "" and NormalizedOptions(noise=1.0).variant() == ""
    assert NormalizedOptions(noise=0, norm_power=0, decoder_bias=True).variant() == "no noise, norm^0, decoder bias"
