"""Each scaling's loss has the same gradient, up to one number, at the coefficient that the table gives."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.base import Options
from gsae.autoencoders.context import Context
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.standard import Standard
from gsae.errors import SettingError
from gsae.interop.lambdas import SCALINGS, Activations, convert, table

B, D, F, LAMBDA = 200, 12, 20, 0.3  # LAMBDA: for sums and raw inputs
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lambdas.md"


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def raw_inputs():
    return 3.7 * jax.random.normal(jax.random.key(7), (B, D), jnp.float64) + 2.0


def raw_autoencoder(kind, options):
    """Random, of raw inputs, with unit decoder vectors."""
    key, *keys = jax.random.split(jax.random.key(1), 10)
    leaves, tree = jax.tree.flatten(kind.initialise(key, D, F, options))
    leaves = [leaf + 0.3 * jax.random.normal(k, leaf.shape, jnp.float64) for k, leaf in zip(keys, leaves, strict=False)]
    sae = jax.tree.unflatten(tree, leaves).after_update({})
    return sae.replace(W_dec=sae.W_dec / jnp.linalg.norm(sae.W_dec, axis=1, keepdims=True))


def gradients(sae, x_BD, coefficient, error_factor):
    """Of error_factor ||x - x_hat||^2 + coefficient ||f||; gated's auxiliary term has the factor too."""

    def loss(sae):
        context = Context(
            sparsity_coefficient=coefficient / error_factor, key=jax.random.key(0), compute_dtype="float64"
        )
        return error_factor * sae.loss({"x": x_BD}, context)[0]

    return jax.grad(loss)(sae)


def own(sae, x_BD, coefficient):
    """Of the production loss as it is."""
    context = Context(sparsity_coefficient=jnp.float64(coefficient), key=jax.random.key(0), compute_dtype="float64")
    return jax.grad(lambda sae: sae.loss({"x": x_BD}, context)[0])(sae)


def assert_proportional(one, other, names, factor):
    for name in names:
        scale = np.abs(getattr(other, name)).max()
        np.testing.assert_allclose(getattr(one, name) / factor, getattr(other, name), atol=1e-10 * scale, err_msg=name)


@pytest.mark.parametrize("kind", [Gated, Standard, JumpReLU])
@pytest.mark.parametrize("name", SCALINGS)
def test_every_row(name, kind, float64):
    """Its gradient of the encoder's and decoder's directions against that for sums and raw inputs."""
    options = {
        Gated: GatedOptions(),
        Standard: Options(),
        JumpReLU: JumpReLUOptions(log_threshold=False, initial_threshold=2.0, bandwidth=1.5),
    }[kind]
    sae, x_BD = raw_autoencoder(kind, options), raw_inputs()
    about = Activations.of(np.asarray(x_BD))
    e, s = SCALINGS[name].error_factor(about), SCALINGS[name].input_scale(about)
    penalty = "l0" if kind is JumpReLU else "l1"
    coefficient = convert(LAMBDA, "gsae raw", name, about, penalty=penalty)
    scaled = sae.rescaled(1 / s)  # of inputs times s
    if kind is JumpReLU:
        scaled = scaled.replace(options=JumpReLUOptions(log_threshold=False, initial_threshold=2.0, bandwidth=1.5 * s))
    actual = gradients(scaled, x_BD * s, coefficient, e)
    expected = own(sae, x_BD, LAMBDA)
    assert_proportional(actual, expected, ("W_enc", "W_dec"), e * s**2)
    wrong = gradients(scaled, x_BD * s, coefficient * 1.01, e)
    with pytest.raises(AssertionError):
        assert_proportional(wrong, expected, ("W_enc", "threshold" if kind is JumpReLU else "W_dec"), e * s**2)


@pytest.mark.parametrize("kind", [Gated, Standard])
def test_our_width_scaling_is_the_option(kind, float64):
    """Rows with "width" are `reconstruction_scale = "width"`, the production loss itself."""
    sae, x_BD = raw_autoencoder(kind, kind.Options()), raw_inputs()
    about = Activations.of(np.asarray(x_BD))
    coefficient = convert(LAMBDA, "gsae raw", "gsae raw width", about)
    by_width = own(sae.replace(options=kind.Options(reconstruction_scale="width")), x_BD, coefficient)
    assert_proportional(by_width, own(sae, x_BD, LAMBDA), sae.trained_fields(), 1 / D)


def test_the_words_of_each_row_are_its_numbers():
    about = Activations(width=9, mean_norm=5.0, mean_squared_norm=4.0)
    for name, scaling in SCALINGS.items():
        text = scaling.factor.replace("√E‖x‖²", "2.0").replace("√n", "3.0").replace("E‖x‖", "5.0").replace("n", "9")
        value = eval(text.replace(" ", "*"))  # of digits, and / * ( ) of this module
        assert value == pytest.approx(convert(1.0, "gsae raw", name, about)), name


def test_the_document_has_the_table():
    assert table() in DOCUMENT.read_text(encoding="utf-8")


def test_there_and_back_and_unknown_names():
    about = Activations(64, 3.0, 11.0)
    for name in SCALINGS:
        assert convert(convert(0.2, "gsae", name, about), name, "gsae", about) == pytest.approx(0.2)
    with pytest.raises(SettingError, match="must be one of gsae, gsae width"):
        convert(1.0, "gsae", "openai", about)
    with pytest.raises(SettingError, match="l1 or l0"):
        convert(1.0, "gsae", "paper", about, penalty="l2")


@pytest.mark.parity
def test_dictionary_learnings_gradient_at_the_converted_coefficient(float64):
    """Their trainer's loss, on inputs that their own function scales."""
    torch = pytest.importorskip("torch")
    gdm = pytest.importorskip("dictionary_learning.trainers.gdm")
    from dictionary_learning.training import get_norm_factor

    x_BD, ours = raw_inputs(), raw_autoencoder(Gated, GatedOptions())
    about = Activations.of(np.asarray(x_BD))
    norm = get_norm_factor([torch.tensor(np.asarray(x_BD))], steps=1)
    expected = own(ours.rescaled(about.mean_squared_norm**0.5), x_BD / about.mean_squared_norm**0.5, LAMBDA)
    for target, scale in (("dictionary_learning scaled", norm), ("dictionary_learning", 1.0)):
        coefficient = convert(LAMBDA, "gsae", target, about)
        settings = {"warmup_steps": 0, "sparsity_warmup_steps": None, "layer": 0, "lm_name": "none", "device": "cpu"}
        trainer = gdm.GatedSAETrainer(steps=10, activation_dim=D, dict_size=F, l1_penalty=coefficient, **settings)
        trainer.ae.double()
        scaled = ours.rescaled(scale)
        with torch.no_grad():
            for name, array in (
                *(("encoder.weight", scaled.W_enc.T), ("decoder.weight", scaled.W_dec.T), ("r_mag", scaled.r_mag)),
                *(("gate_bias", scaled.b_gate), ("mag_bias", scaled.b_mag), ("decoder_bias", scaled.b_dec)),
            ):
                trainer.ae.get_parameter(name).copy_(torch.tensor(np.asarray(array)))
        trainer.loss(torch.tensor(np.asarray(x_BD)) / scale, step=5).backward()
        theirs = trainer.ae.encoder.weight.grad.numpy().T
        ratio = about.mean_squared_norm / scale**2
        np.testing.assert_allclose(theirs / ratio, expected.W_enc, atol=1e-6 * np.abs(expected.W_enc).max())


@pytest.mark.parity
def test_saelens_gradient_at_the_converted_coefficient(float64):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.training.activation_scaler import ActivationScaler

    x_BD, ours = raw_inputs(), raw_autoencoder(Standard, Options(ri_l1=True))
    about = Activations.of(np.asarray(x_BD))
    scaler = ActivationScaler()
    scaler.estimate_scaling_factor(D, iter([torch.tensor(np.asarray(x_BD))]), n_batches_for_norm_estimate=1)
    expected = own(ours.rescaled(about.mean_squared_norm**0.5), x_BD / about.mean_squared_norm**0.5, LAMBDA)
    for target, scale in (("saelens scaled", scaler.scaling_factor), ("saelens", 1.0)):
        coefficient = convert(LAMBDA, "gsae", target, about)
        config = sae_lens.StandardTrainingSAEConfig(d_in=D, d_sae=F, dtype="float64", l1_coefficient=coefficient)
        their, scaled = sae_lens.StandardTrainingSAE(config), ours.rescaled(1 / scale)
        with torch.no_grad():
            for name in scaled.trained_fields():
                their.get_parameter(name).copy_(torch.tensor(np.asarray(getattr(scaled, name))))
        step = TrainStepInput(
            sae_in=torch.tensor(np.asarray(x_BD)) * scale,
            dead_neuron_mask=None,
            coefficients={"l1": coefficient},
            n_training_steps=0,
            is_logging_step=False,
        )
        their.training_forward_pass(step).loss.backward()
        ratio = about.mean_squared_norm * scale**2
        np.testing.assert_allclose(
            their.W_enc.grad.numpy() / ratio, expected.W_enc, atol=1e-6 * np.abs(expected.W_enc).max()
        )
