"""The same numbers as dictionary_learning and SAELens, in torch, in float64, with D != F."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsae.autoencoders.base import Options
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.standard import Standard

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

B, D, F = 64, 12, 20
LAMBDA = 0.3
DICTIONARY_LEARNING = {  # our field: (theirs, transposed)
    "W_enc": ("encoder.weight", True),
    "W_dec": ("decoder.weight", True),
    "b_gate": ("gate_bias", False),
    "b_mag": ("mag_bias", False),
    "r_mag": ("r_mag", False),
    "b_dec": ("decoder_bias", False),
}


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def inputs(seed=7):
    return jax.random.normal(jax.random.key(seed), (B, D), jnp.float64) + 0.5


def unit_decoder(sae):
    return sae.replace(W_dec=sae.W_dec / jnp.linalg.norm(sae.W_dec, axis=1, keepdims=True))


def gated_trainer(sae, **settings):
    """dictionary_learning's trainer holding our parameters."""
    gdm = pytest.importorskip("dictionary_learning.trainers.gdm")
    defaults = {"warmup_steps": 0, "sparsity_warmup_steps": None, "layer": 0, "lm_name": "none", "device": "cpu"}
    trainer = gdm.GatedSAETrainer(
        steps=1000, activation_dim=D, dict_size=F, l1_penalty=LAMBDA, **{**defaults, **settings}
    )
    trainer.ae.double()
    with torch.no_grad():
        for ours, (theirs, transposed) in DICTIONARY_LEARNING.items():
            array = tensor(getattr(sae, ours))
            trainer.ae.get_parameter(theirs).copy_(array.T if transposed else array)
    return trainer


def in_our_shape(trainer, value):
    """Their parameters, or what `value` makes of each, by our names."""
    arrays = {ours: value(trainer.ae.get_parameter(name)) for ours, (name, _) in DICTIONARY_LEARNING.items()}
    return {
        ours: array.detach().numpy().T if DICTIONARY_LEARNING[ours][1] else array.detach().numpy()
        for ours, array in arrays.items()
    }


def our_gradients(sae, x_BD, context):
    (_, stats), gradients = jax.value_and_grad(lambda sae: sae.loss({"x": x_BD}, context), has_aux=True)(sae)
    return stats, {name: np.asarray(getattr(gradients, name)) for name in sae.trained_fields()}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], atol=tolerance, rtol=tolerance, err_msg=name)


def test_gated_gradients_equal_dictionary_learnings(float64, randomised, context):
    sae, x_BD = unit_decoder(randomised(Gated, D, F)), inputs()
    trainer = gated_trainer(sae)
    log = trainer.loss(tensor(x_BD), step=5, logging=True).losses
    trainer.loss(tensor(x_BD), step=5).backward()
    stats, gradients = our_gradients(sae, x_BD, context(LAMBDA))
    assert_close(gradients, in_our_shape(trainer, lambda p: p.grad), 1e-10)
    theirs = [log["mse_loss"], LAMBDA * log["sparsity_loss"], log["aux_loss"]]
    np.testing.assert_allclose([stats[t] for t in ("reconstruction", "sparsity", "auxiliary")], theirs, rtol=1e-12)


def test_twenty_updates_equal_dictionary_learnings(float64, randomised, context):
    """Their ConstrainedAdam (beta1 = 0, projected gradient, unit norm) and our optimiser, from the same start."""
    from gsae.training import optimizer

    sae, rate = unit_decoder(randomised(Gated, D, F)), 1e-2
    trainer = gated_trainer(sae, lr=rate)
    parameters = {name: getattr(sae, name) for name in sae.trained_fields()}
    moments = jax.tree.map(jnp.zeros_like, parameters)
    for step in range(20):
        x_BD = inputs(seed=100 + step)
        trainer.update(step, tensor(x_BD))
        _, gradients = our_gradients(sae, x_BD, context(LAMBDA))
        parameters, moments = optimizer.update_member(
            {name: jnp.asarray(g) for name, g in gradients.items()},
            moments,
            parameters,
            step=jnp.int32(step),
            learning_rate=jnp.float64(rate),
            unit_norm_axes={name: sae.feature_axes[name] for name in sae.unit_norm_fields()},
            beta2=0.999,
            eps=1e-8,
        )
        sae = sae.replace(**parameters)
    assert_close(parameters, in_our_shape(trainer, lambda p: p), 1e-6)
    assert np.abs(parameters["W_enc"] - unit_decoder(randomised(Gated, D, F)).W_enc).max() > 0.05  # it has moved


def test_gated_outputs_equal_dictionary_learnings(float64, randomised):
    sae, x_BD = randomised(Gated, D, F), inputs()
    their = gated_trainer(sae).ae
    np.testing.assert_allclose(sae.encode(x_BD), their.encode(tensor(x_BD)).detach(), atol=1e-12)
    np.testing.assert_allclose(sae.decode(sae.encode(x_BD)), their(tensor(x_BD)).detach(), atol=1e-12)


def test_rescaled_equals_dictionary_learnings_scale_biases(float64, randomised):
    sae, x_BD = randomised(Gated, D, F), inputs()
    their = gated_trainer(sae).ae
    their.scale_biases(1 / 0.37)
    np.testing.assert_allclose(sae.rescaled(0.37).encode(x_BD), their.encode(tensor(x_BD)).detach(), atol=1e-12)


SAELENS = [  # theirs scales L1 by decoder norms (our RI-L1) and lets the auxiliary term move the decoder
    (Gated, GatedOptions(ri_l1=True, frozen_decoder=False), "GatedTrainingSAE"),
    (Standard, Options(ri_l1=True), "StandardTrainingSAE"),
]


@pytest.mark.parametrize(("cls", "options", "theirs"), SAELENS)
def test_gradients_equal_saelens(cls, options, theirs, float64, randomised, context):
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import TrainStepInput

    their_class = getattr(sae_lens, theirs)
    config = getattr(sae_lens, theirs + "Config")(d_in=D, d_sae=F, dtype="float64", l1_coefficient=LAMBDA)
    their, sae, x_BD = their_class(config), randomised(cls, D, F, options), inputs()
    with torch.no_grad():
        for name in sae.trained_fields():
            their.get_parameter(name).copy_(tensor(getattr(sae, name)))
    step = TrainStepInput(
        sae_in=tensor(x_BD),
        dead_neuron_mask=None,
        coefficients={"l1": LAMBDA},
        n_training_steps=0,
        is_logging_step=False,
    )
    their.training_forward_pass(step).loss.backward()
    _, gradients = our_gradients(sae, x_BD, context(LAMBDA))
    assert_close(gradients, {name: their.get_parameter(name).grad.numpy() for name in gradients}, 1e-10)
