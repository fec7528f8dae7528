import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.base import Options
from gsae.autoencoders.standard import Standard

B, D, F = 40, 12, 20
LAMBDA = 0.3


def textbook_loss(params, x, ri_l1, width):
    f = jax.nn.relu((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"])
    x_hat = f @ params["W_dec"] + params["b_dec"]
    weights = jnp.linalg.norm(params["W_dec"], axis=1) if ri_l1 else 1.0
    scale = {"sum": 1, "width": D, "width_and_norm": D * jnp.mean(jnp.linalg.norm(x, axis=-1))}[width]
    error = jnp.sum((x - x_hat) ** 2, axis=-1) / scale
    return jnp.mean(error + LAMBDA * jnp.sum(f * weights, axis=-1))


@pytest.mark.parametrize("ri_l1", [False, True])
@pytest.mark.parametrize("scale", ["sum", "width", "width_and_norm"])
def test_loss_and_gradients_equal_the_textbooks(ri_l1, scale, float64, randomised, context):
    sae = randomised(Standard, D, F, Options(ri_l1=ri_l1, reconstruction_scale=scale))
    x_BD = jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5
    loss, gradients = jax.value_and_grad(lambda sae: sae.loss({"x": x_BD}, context(LAMBDA))[0])(sae)
    params = {name: getattr(sae, name) for name in sae.feature_axes}
    expected, textbook = jax.value_and_grad(textbook_loss)(params, x_BD, ri_l1, scale)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for name, value in textbook.items():
        np.testing.assert_allclose(getattr(gradients, name), value, atol=1e-11, err_msg=name)
        assert np.abs(value).max() > 1e-3
