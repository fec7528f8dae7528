"""JumpReLU with a target, and the tanh recipe: losses and gradients written out in float64, the initial bias, units."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.jumprelu import JumpReLU
from gsae.autoencoders.jumprelu_tanh import JumpReLUTanh, JumpReLUTanhOptions
from gsae.autoencoders.jumprelu_target import JumpReLUTarget, JumpReLUTargetOptions
from gsae.autoencoders.registry import make_options
from gsae.errors import SettingError

D, F, B = 9, 20, 64


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def value_and_gradients(sae, x_BD, context):
    parameters = {name: getattr(sae, name) for name in sae.trained_fields()}
    loss, g = jax.value_and_grad(lambda p: sae.replace(**p).loss({"x": x_BD}, context)[0])(parameters)
    return float(loss), {name: np.asarray(value) for name, value in g.items()}


def by_hand(sae, x, scale_of_g, extra_z=0.0, extra_theta=0.0, to_z=False):
    """x_hat's gradients in numpy, after `extra` cotangents of f (a function), z and theta."""
    W_enc, W_dec, b_enc, b_dec, theta = (np.asarray(a) for a in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec, sae.theta))
    z = x @ W_enc + b_enc
    f = np.where(z > theta, np.maximum(z, 0), 0)
    e = x - f @ W_dec - b_dec
    g_hat = -2 * e / B
    g_f = g_hat @ W_dec.T + scale_of_g
    inside = np.abs(z - theta) < sae.bandwidth / 2
    g_z = np.where((z > theta) & (z > 0), g_f, 0) + extra_z
    through = np.where(inside, theta / sae.bandwidth * g_f, 0)
    if to_z:
        g_z = g_z + through
    g_theta = extra_theta - through.sum(0)
    found = {"W_enc": x.T @ g_z, "b_enc": g_z.sum(0), "W_dec": f.T @ g_hat, "b_dec": g_hat.sum(0)}
    return np.mean(np.sum(e**2, 1)), found | {"log_threshold": g_theta * theta}


def test_target_penalty_and_its_gradients(x_BD, randomised, context):
    options = JumpReLUTargetOptions(initial_threshold=0.3, bandwidth=0.5, penalty=0.7, penalty_warmup=0.5)
    sae, x = randomised(JumpReLUTarget, D, F, options), np.asarray(x_BD)
    for progress, rise in ((0.2, 0.4), (0.8, 1.0)):
        loss, found = value_and_gradients(sae, x_BD, dataclasses.replace(context(4.0), progress=progress))
        z = x @ np.asarray(sae.W_enc) + np.asarray(sae.b_enc)
        theta, l0 = np.asarray(sae.theta), (z > np.asarray(sae.theta)).sum() / B
        inside = np.abs(z - theta) < 0.25  # half of it below theta
        slope = 0.7 * rise * 2 * (l0 / 4 - 1) / 4
        error, expected = by_hand(sae, x, 0.0, extra_theta=-slope * inside.sum(0) / B / 0.5)
        np.testing.assert_allclose(loss, error + 0.7 * rise * (l0 / 4 - 1) ** 2, rtol=1e-12)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_tanh_penalty_and_its_gradients(x_BD, randomised, context):
    options = JumpReLUTanhOptions(initial_threshold=1.0, bandwidth=1.5, preactivation_coefficient=0.02)
    sae, x, unit = randomised(JumpReLUTanh, D, F, options), np.asarray(x_BD), math.sqrt(D)
    assert sae.bandwidth == 1.5 / unit and np.isclose(np.exp(sae.initial_value("log_threshold")), 1 / unit)
    loss, found = value_and_gradients(sae, x_BD, dataclasses.replace(context(3.0), progress=0.25))
    W_enc, W_dec, b_enc, theta = (np.asarray(a) for a in (sae.W_enc, sae.W_dec, sae.b_enc, sae.theta))
    z = x @ W_enc + b_enc
    f = np.where(z > theta, np.maximum(z, 0), 0)
    norms = np.linalg.norm(W_dec, axis=1)
    lambda_s, lambda_p = 3.0 * 0.25 / D, 0.02 / D  # a quarter of the run
    tanh = np.tanh(4 * unit * f * norms)
    below = np.maximum(theta - z, 0)
    slope = lambda_s * 4 * unit * (1 - tanh**2) / B
    lower = lambda_p * unit * (below > 0) * norms / B
    error, expected = by_hand(sae, x, slope * norms, -lower, lower.sum(0), to_z=True)
    of_norms = (slope * f).sum(0) + lambda_p * unit * below.sum(0) / B
    expected["W_dec"] += (of_norms / norms)[:, None] * W_dec
    penalties = lambda_s * tanh.sum() / B + lambda_p * unit * (below * norms).sum() / B
    np.testing.assert_allclose(loss, error + penalties, rtol=1e-12)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_initial_bias_lets_every_feature_fire_equally_often():
    x_ND = jax.random.normal(jax.random.key(1), (1000, D)) / 3 + jnp.arange(D) / 9
    for wanted, share in ((3.0, 0.15), (100.0, 0.25)):
        fresh = JumpReLUTanh.initialise(jax.random.key(0), D, F, JumpReLUTanhOptions(initial_l0=wanted))
        fires_NF = np.asarray(fresh.calibrate(x_ND).encode(x_ND)) > 0
        np.testing.assert_allclose(fires_NF.mean(axis=0), share, atol=0.002)
    np.testing.assert_allclose(fresh.W_enc, fresh.W_dec.T * (D / F), rtol=1e-6)
    assert 0.9 / 3 < np.abs(fresh.W_dec).max() <= 1 / 3
    assert JumpReLU.initialise(jax.random.key(0), D, F, JumpReLU.Options()).calibration_rows() == 0


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("jumprelu_target", "penalty", 0.0),
        ("jumprelu_target", "penalty_warmup", 1.5),
        ("jumprelu_tanh", "tanh_scale", 0.0),
        ("jumprelu_tanh", "initial_l0", -1.0),
        ("jumprelu_tanh", "preactivation_coefficient", -1e-6),
        ("p_anneal", "anneal_start", 1.0),
        ("p_anneal", "p_end", -0.1),
        ("p_anneal", "anneal_updates", 1),
        ("p_anneal", "anneal_queue", 0),
        ("p_anneal", "anneal_epsilon", 0.0),
        ("topk", "multi_coefficient", -1.0),
        ("matryoshka", "blocks", 0),
        ("matryoshka", "groups", (0.5, 0.4)),
        ("matryoshka", "groups", ()),
    ],
)
def test_settings_out_of_bounds_are_refused(name, setting, value):
    with pytest.raises(SettingError, match=f"config.sae.{setting} = .*must be"):
        make_options(name, {setting: value})
