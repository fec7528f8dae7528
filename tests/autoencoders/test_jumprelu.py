import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions, jump, step
from gsae.errors import SettingError

B, D, F = 40, 12, 20
LAMBDA, BANDWIDTH = 0.3, 0.4


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def paper(params, x, *, log, scale=1.0):
    """Loss and gradients in numpy, written out from the paper's equations 9 to 12, one latent and example at a time."""
    theta = np.exp(params["log_threshold"]) if log else params["threshold"]
    z = x @ params["W_enc"] + params["b_enc"]
    fires = z > theta
    f = z * fires
    residual = f @ params["W_dec"] + params["b_dec"] - x
    loss = scale * (residual**2).sum(1).mean() + LAMBDA * fires.sum(1).mean()
    df = 2 * scale / B * residual @ params["W_dec"].T
    dz = df * fires
    dtheta = np.zeros(F)
    for n in range(B):
        for i in range(F):
            kernel = 1.0 if -0.5 < (z[n, i] - theta[i]) / BANDWIDTH < 0.5 else 0.0
            dtheta[i] -= df[n, i] * theta[i] / BANDWIDTH * kernel + LAMBDA / B / BANDWIDTH * kernel
    gradients = {
        "W_enc": x.T @ dz,
        "W_dec": 2 * scale / B * f.T @ residual,
        "b_enc": dz.sum(0),
        "b_dec": 2 * scale / B * residual.sum(0),
        "log_threshold" if log else "threshold": dtheta * theta if log else dtheta,
    }
    return loss, gradients


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("scale", ["sum", "width"])
def test_loss_and_gradients_equal_the_papers(log, scale, randomised, x_BD, context):
    options = JumpReLUOptions(log_threshold=log, initial_threshold=0.5, bandwidth=BANDWIDTH, reconstruction_scale=scale)
    sae = randomised(JumpReLU, D, F, options).after_update({})
    params = {name: np.asarray(getattr(sae, name)) for name in sae.feature_axes}
    loss, gradients = jax.value_and_grad(lambda sae: sae.loss({"x": x_BD}, context(LAMBDA))[0])(sae)
    expected, written_out = paper(params, np.asarray(x_BD), log=log, scale=1 / D if scale == "width" else 1.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    assert written_out.keys() == set(sae.trained_fields())
    for name, gradient in written_out.items():
        np.testing.assert_allclose(getattr(gradients, name), gradient, rtol=1e-10, atol=1e-12, err_msg=name)
        assert np.abs(gradient).max() > 1e-3, name


def test_the_threshold_has_a_gradient_on_both_sides_and_nothing_beyond_the_window(float64):
    theta_F = jnp.array([1.0])
    for z, inside in ((0.81, True), (1.19, True), (0.79, False), (1.21, False)):
        z_BF = jnp.full((1, 1), z)
        assert jax.grad(lambda t: step(z_BF, t, 0.4).sum())(theta_F) == pytest.approx([-2.5 if inside else 0])  # noqa: B023
        assert jax.grad(lambda t: jump(z_BF, t, 0.4).sum())(theta_F) == pytest.approx([-2.5 if inside else 0])  # noqa: B023
        assert jax.grad(lambda z: step(z, theta_F, 0.4).sum())(z_BF) == 0
        assert jax.grad(lambda z: jump(z, theta_F, 0.4).sum())(z_BF) == float(z > 1)


def test_strictly_above_the_threshold():
    z_F = jnp.array([0.0, 0.5, jnp.nextafter(jnp.float32(0.5), 1.0), -1.0])
    np.testing.assert_array_equal(jump(z_F, jnp.full(4, 0.5), 1.0) > 0, [False, False, True, False])
    np.testing.assert_array_equal(jump(z_F, jnp.zeros(4), 1.0) > 0, [False, True, True, False])


def test_a_threshold_pushed_below_zero_is_put_back_and_keeps_its_gradient(x_BD, randomised, context):
    options = JumpReLUOptions(log_threshold=False, bandwidth=BANDWIDTH)
    sae = randomised(JumpReLU, D, F, options).replace(threshold=jnp.full(F, -0.1)).after_update({})
    np.testing.assert_array_equal(sae.threshold, 0)
    gradient = jax.grad(lambda sae: sae.loss({"x": x_BD}, context(LAMBDA))[0])(sae).threshold
    assert np.all(gradient <= 0) and np.mean(gradient < 0) > 0.8  # the penalty pushes up all that an input is near to


@pytest.mark.parametrize("log", [True, False])
def test_a_step_against_the_penalty_lowers_l0(log, x_BD, randomised, context):
    """The estimator's direction is right: raising theta along it, everything else fixed, fewer features fire."""
    options = JumpReLUOptions(log_threshold=log, initial_threshold=0.5, bandwidth=BANDWIDTH)
    sae = randomised(JumpReLU, D, F, options).after_update({})
    name = "log_threshold" if log else "threshold"

    def fewer(rate):
        gradient = jax.grad(lambda sae: sae.loss({"x": x_BD}, context(30.0))[0])(sae)
        moved = sae.replace(**{name: getattr(sae, name) - rate * getattr(gradient, name)})
        return float((moved.encode(x_BD) > 0).sum())

    assert fewer(0.01) < fewer(0.0)


def test_wrong_options_name_the_setting():
    for options in ({"bandwidth": 0.0}, {"initial_threshold": -1}, {"log_threshold": 1}, {"bandwidth": True}):
        with pytest.raises(SettingError, match=f"config.sae.{next(iter(options))}"):
            JumpReLUOptions(**options)
