"""Gated and standard as JumpReLU, and decoder norms folded: the same function, in float64 to the last digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_autoencoders import CASES, RESCALED, UNTIED, D, F, inputs, random_autoencoder, random_of

from gsae.autoencoders.feature_choice import FeatureChoice
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.autoencoders.mutual_choice import MutualChoice
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import (
    arrays64,
    as_gated,
    as_jumprelu,
    build,
    has_unit_norm_decoder,
    with_unit_norm_decoder,
)


def in_float64(sae):
    """f and x_hat of many inputs by the paper's formulas, in numpy."""
    p, x = arrays64(sae), np.asarray(inputs(20_000), np.float64)
    if isinstance(sae, Gated):
        pi = (x - p["b_dec"]) @ p["W_enc"]
        f = (pi + p["b_gate"] > 0) * np.maximum(pi * np.exp(p.get("r_mag", 0.0)) + p["b_mag"], 0)
    elif isinstance(sae, JumpReLU):
        z = x @ p["W_enc"] + p["b_enc"]
        f = z * (z > p["threshold"])
    else:
        f = np.maximum((x - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    return f, f @ p["W_dec"] + p["b_dec"]


@pytest.mark.parametrize("case", ["gated", "gated without r_mag", "gated ri_l1", "standard"])
@pytest.mark.parametrize("seed", range(4))
def test_as_jumprelu_fires_the_same_set(case, seed):
    sae = random_autoencoder(*CASES[case], seed=seed)
    converted = as_jumprelu(sae)
    assert isinstance(converted, JumpReLU) and converted.metadata == sae.metadata
    assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(converted))
    f, x_hat = in_float64(sae)
    x = inputs(20_000)
    f_32, scale = np.asarray(converted.encode(x)), np.abs(f).max()
    assert 0.05 < (f > 0).mean() < 0.95
    # Arrays are rounded once, so a latent within rounding of its threshold may flip: of 400,000, hardly any.
    flipped = (f_32 > 0) != (f > 0)
    assert flipped.sum() <= 4
    assert np.abs(np.where(flipped, 0, f_32 - f)).max() < 3e-6 * scale
    still = ~flipped.any(1)
    assert np.abs(np.asarray(converted.decode(f_32)) - x_hat)[still].max() < 3e-6 * np.abs(x_hat).max()
    assert np.abs(np.asarray(sae.encode(x)) - f)[still].max() < 3e-6 * scale  # as near as the original's own float32


def test_as_jumprelu_is_exact_in_float64(float64_build):
    """Without the rounding of the arrays: no flip at all among 400,000 latents, and 1e-12."""
    for case in ("gated", "standard"):
        sae = random_autoencoder(*CASES[case], seed=3)
        (f, x_hat), (f_jump, x_hat_jump) = in_float64(sae), in_float64(as_jumprelu(sae))
        np.testing.assert_array_equal(f > 0, f_jump > 0)
        np.testing.assert_allclose(f_jump, f, atol=1e-12)
        np.testing.assert_allclose(x_hat_jump, x_hat, atol=1e-12)
    assert np.any(np.asarray(as_jumprelu(sae).threshold) == 0)


@pytest.fixture
def float64_build(monkeypatch):
    """Arrays that are not rounded to float32 when they are put together."""
    with jax.enable_x64(True):
        monkeypatch.setattr(
            "gsae.interop.conversion.build",
            lambda cls, options, arrays: cls(**{n: jnp.asarray(a) for n, a in arrays.items()}, options=options),
        )
        yield


def test_both_kinds_of_gated_thresholds_occur():
    sae = random_autoencoder(*CASES["gated"])
    theta = np.asarray(as_jumprelu(sae).threshold)
    assert np.any(theta == 0) and np.any(theta > 0)  # where the ReLU decides, and where the gate does


def test_magnitudes_learnt_anew_are_a_gated_autoencoders():
    rescaled, x = random_autoencoder(*RESCALED), inputs()
    f = rescaled.encode(x)
    silent = (f == 0) & ((x - rescaled.b_dec) @ rescaled.W_enc + rescaled.b_enc > 0)
    assert silent.any() and 0.1 < (f > 0).mean() < 0.9, "gate and magnitudes have to differ"
    gated = as_gated(rescaled)
    np.testing.assert_array_equal(gated.encode(x), f)
    np.testing.assert_array_equal(gated.decode(f), rescaled.decode(f))
    assert as_gated(gated) is gated and gated.metadata == rescaled.metadata and not gated.options.ri_l1
    jumprelu = as_jumprelu(rescaled).encode(x)
    np.testing.assert_allclose(jumprelu, f, atol=1e-5)
    np.testing.assert_array_equal(jumprelu > 0, f > 0)
    with pytest.raises(SettingError, match=r"as = 'gated': no conversion of a Standard"):
        as_gated(random_autoencoder(*CASES["standard"]))


def test_untied_gated_is_refused():
    with pytest.raises(SettingError, match="untied"):
        as_jumprelu(random_autoencoder(*UNTIED))


@pytest.mark.parametrize("case", [*CASES, "untied"])
def test_unit_norm_decoder_keeps_the_reconstructions(case):
    sae = random_autoencoder(*(CASES | {"untied": UNTIED})[case])
    sae = sae.replace(W_dec=sae.W_dec * (0.5 + jnp.arange(F)[:, None] / F))
    folded, x = with_unit_norm_decoder(sae.with_metadata({"a": 1})), inputs()
    assert not has_unit_norm_decoder(sae.W_dec) and has_unit_norm_decoder(folded.W_dec)
    norms = np.linalg.norm(sae.W_dec, axis=1)
    np.testing.assert_allclose(folded.encode(x), sae.encode(x) * norms, atol=2e-5)
    np.testing.assert_allclose(folded.decode(folded.encode(x)), sae.decode(sae.encode(x)), atol=2e-5)
    assert folded.metadata == {"a": 1} and folded.options == sae.options


def test_what_does_not_belong_together_is_refused():
    arrays = arrays64(random_autoencoder(*CASES["gated"]))
    for change, message in (
        ({"W_dec": arrays["W_dec"].T}, rf"W_dec has shape \({D}, {F}\).*must have \({F}, {D}\)"),
        ({"b_mag": arrays["b_dec"]}, "b_mag has shape"),
        ({"b_mag": np.full(F, np.nan)}, "not finite"),
        ({"W_enc": arrays["b_mag"]}, "the encoder has shape"),
    ):
        with pytest.raises(RunError, match=message):
            build(Gated, GatedOptions(), arrays | change)


def test_a_decoder_vector_without_direction_is_refused():
    sae = random_autoencoder(*CASES["gated"])
    with pytest.raises(SettingError, match="1 decoder vectors are zero"):
        with_unit_norm_decoder(sae.replace(W_dec=sae.W_dec.at[3].set(0)))


@pytest.mark.parametrize(("kind", "threshold"), [(MutualChoice, 0.4), (FeatureChoice, np.linspace(0, 1, F))])
def test_thresholds_of_those_that_choose_are_jumprelus(kind, threshold):
    sae = random_of(kind, kind.Options()).replace(threshold=np.float32(threshold))
    f_BF, all_BF = (as_jumprelu(one).encode(inputs()) for one in (sae, sae.replace(threshold=0 * sae.threshold)))
    np.testing.assert_allclose(f_BF, sae.encode(inputs()), atol=1e-5)
    assert 0.05 < np.mean(f_BF > 0) < np.mean(all_BF > 0)
