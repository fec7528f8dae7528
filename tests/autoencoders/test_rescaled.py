import jax
import jax.numpy as jnp
import numpy as np

from gsae.autoencoders.base import Options
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard

B, D, F = 40, 12, 20


def textbook(r_mag, b_mag, sae, x):
    pi = (x - sae.b_dec) @ sae.W_enc
    f = (pi + sae.b_enc > 0) * jax.nn.relu(pi * jnp.exp(r_mag) + b_mag)
    return jnp.mean(jnp.sum((x - f @ sae.W_dec - sae.b_dec) ** 2, axis=-1))


def test_loss_and_gradients_equal_the_textbooks(float64, randomised, context):
    sae = randomised(RescaledStandard, D, F)
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5

    def loss(r_mag, b_mag):
        return sae.replace(r_mag=r_mag, b_mag=b_mag).loss({"x": x_BD}, context(0.3))[0]

    arguments = sae.r_mag, sae.b_mag
    np.testing.assert_allclose(loss(*arguments), textbook(*arguments, sae, x_BD), rtol=1e-12)
    expected = jax.grad(textbook, (0, 1))(*arguments, sae, x_BD)
    for found, gradient in zip(jax.grad(loss, (0, 1))(*arguments), expected, strict=True):
        np.testing.assert_allclose(found, gradient, atol=1e-11)
        assert np.abs(gradient).max() > 1e-3


def test_it_begins_as_the_trained_one_left_off(float64, randomised):
    trained = randomised(Standard, D, F)
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5
    sae = RescaledStandard.starting_from(trained, Options())
    np.testing.assert_allclose(sae.encode(x_BD), trained.encode(x_BD), atol=1e-12)
    assert sae.trained_fields() == ("r_mag", "b_mag")
