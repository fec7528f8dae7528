import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.errors import SettingError

B, D, F = 40, 12, 20
LAMBDA = 0.3


@pytest.fixture
def x_BD(float64):
    return jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 0.5


def textbook_terms(params, x, *, untied=False, frozen=True, ri_l1=False):
    """The pseudo-code of the paper's appendix, line by line: three terms, each the mean over the batch."""
    x_centred = x - params["b_dec"]
    gate_pre = x_centred @ params["W_enc"] + params["b_gate"]
    active = (gate_pre > 0).astype(x.dtype)
    W_mag = params["W_mag"] if untied else params["W_enc"] * jnp.exp(params.get("r_mag", 0.0))
    magnitudes = jax.nn.relu(x_centred @ W_mag + params["b_mag"])
    x_hat = (active * magnitudes) @ params["W_dec"] + params["b_dec"]
    gate_relu = jax.nn.relu(gate_pre)
    hold = stop_gradient if frozen else (lambda v: v)
    via_gate = gate_relu @ hold(params["W_dec"]) + hold(params["b_dec"])
    weights = jnp.linalg.norm(params["W_dec"], axis=1) if ri_l1 else 1.0
    return {
        "reconstruction": jnp.mean(jnp.sum((x - x_hat) ** 2, axis=-1)),
        "sparsity": LAMBDA * jnp.mean(jnp.sum(gate_relu * weights, axis=-1)),
        "auxiliary": jnp.mean(jnp.sum((x - via_gate) ** 2, axis=-1)),
    }


def parameters(sae):
    return {name: getattr(sae, name) for name in sae.feature_axes}


def gradients(sae, x_BD, context, term=None):
    """Gradients of the loss, or of one of its terms, by name."""

    def value(sae):
        loss, stats = sae.loss({"x": x_BD}, context)
        return stats[term] if term else loss

    return parameters(jax.grad(value)(sae))


def assert_close(actual, expected, tolerance=1e-10):
    assert actual.keys() == expected.keys()
    for name in expected:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(actual[name], expected[name], atol=tolerance * max(scale, 1), rtol=0, err_msg=name)


OPTIONS = {
    "paper": ({}, {}),
    "no r_mag": ({"r_mag": False}, {}),
    "untied": ({"tied": False}, {"untied": True}),
    "unfrozen": ({"frozen_decoder": False}, {"frozen": False}),
    "ri_l1": ({"ri_l1": True}, {"ri_l1": True}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_loss_and_all_gradients_equal_the_papers_pseudo_code(case, randomised, x_BD, context):
    options, variant = OPTIONS[case]
    sae = randomised(Gated, D, F, GatedOptions(**options))
    _, stats = sae.loss({"x": x_BD}, context(LAMBDA))
    for term, expected in textbook_terms(parameters(sae), x_BD, **variant).items():
        np.testing.assert_allclose(stats[term], expected, rtol=1e-12)
        textbook = jax.grad(lambda p, term=term: textbook_terms(p, x_BD, **variant)[term])(parameters(sae))
        assert_close(gradients(sae, x_BD, context(LAMBDA), term), textbook)
    textbook = jax.grad(lambda p: sum(textbook_terms(p, x_BD, **variant).values()))(parameters(sae))
    assert_close(gradients(sae, x_BD, context(LAMBDA)), textbook)
    assert all(np.abs(gradient).max() > 1e-3 for gradient in textbook.values())


def test_which_term_moves_what(randomised, x_BD, context):
    """Section 3.2: who gets a gradient from whom, exactly."""
    sae = randomised(Gated, D, F)
    nonzero = {
        term: {name for name, g in gradients(sae, x_BD, context(LAMBDA), term).items() if np.any(np.asarray(g) != 0)}
        for term in ("reconstruction", "sparsity", "auxiliary")
    }
    assert nonzero["reconstruction"] == {"W_enc", "W_dec", "b_mag", "r_mag", "b_dec"}  # not the gate's bias
    assert nonzero["sparsity"] == {"W_enc", "b_gate", "b_dec"}
    assert nonzero["auxiliary"] == {"W_enc", "b_gate", "b_dec"}  # not W_dec: it decodes with a frozen copy


def test_auxiliary_gradient_of_b_dec_comes_through_the_centring_only(randomised, x_BD, context):
    sae = randomised(Gated, D, F)
    x_hat_gate = jax.nn.relu(sae.preactivations(x_BD)[0]) @ sae.W_dec + sae.b_dec
    through_pi_BD = -2 * (x_BD - x_hat_gate) / B @ sae.W_dec.T * (sae.preactivations(x_BD)[0] > 0) @ sae.W_enc.T
    actual = gradients(sae, x_BD, context(LAMBDA), "auxiliary")["b_dec"]
    np.testing.assert_allclose(actual, -through_pi_BD.sum(0), rtol=1e-10)


def test_is_a_jump_relu(randomised, x_BD):
    """Appendix E: f = JumpReLU_theta(pi_mag) with theta = b_mag - exp(r_mag) b_gate."""
    sae = randomised(Gated, D, F)
    pi_mag = (x_BD - sae.b_dec) @ (sae.W_enc * jnp.exp(sae.r_mag)) + sae.b_mag
    theta = sae.b_mag - jnp.exp(sae.r_mag) * sae.b_gate
    np.testing.assert_allclose(sae.encode(x_BD), jnp.where(pi_mag > jnp.maximum(theta, 0), pi_mag, 0), atol=1e-12)


def test_reconstruction_scale_divides_both_squared_errors(randomised, x_BD, context):
    by_sum = randomised(Gated, D, F).loss({"x": x_BD}, context(LAMBDA))[1]
    options = GatedOptions(reconstruction_scale="width")
    by_width = randomised(Gated, D, F, options).loss({"x": x_BD}, context(LAMBDA))[1]
    for term, ratio in {"reconstruction": D, "auxiliary": D, "sparsity": 1, "squared_error": 1}.items():
        np.testing.assert_allclose(by_sum[term] / by_width[term], ratio, rtol=1e-12, err_msg=term)


def test_target_other_than_input(randomised, x_BD, context):
    sae = randomised(Gated, D, F)
    y_BD = x_BD[::-1] * 2
    _, stats = sae.loss({"x": x_BD, "target": y_BD}, context(LAMBDA))
    error = np.sum((y_BD - sae.decode(sae.encode(x_BD))) ** 2, axis=1).mean()
    np.testing.assert_allclose([stats["reconstruction"], stats["squared_error"]], error, rtol=1e-12)


def test_arrays_follow_the_options():
    def names(**options):
        return Gated.initialise(jax.random.key(0), D, F, GatedOptions(**options)).trained_fields()

    common = ("W_enc", "W_dec", "b_gate", "b_mag", "b_dec")
    assert names() == (*common, "r_mag")
    assert names(r_mag=False) == common
    assert names(tied=False) == names(tied=False, r_mag=False) == (*common, "W_mag")


def test_wrong_options_name_the_setting():
    for options in ({"tied": "yes"}, {"r_mag": 1}, {"reconstruction_scale": "mean"}):
        with pytest.raises(SettingError, match=f"config.sae.{next(iter(options))}"):
            GatedOptions(**options)
