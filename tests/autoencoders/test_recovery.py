"""On sparse sums of known directions: gated and JumpReLU find them without shrinkage, standard shrinks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsae.activations.recovery import firing_f1, match, mean_max_cosine_similarity
from gsae.activations.synthetic import SITE, Synthetic
from gsae.autoencoders.registry import architecture

D, TRUE, F, B, STEPS = 64, 80, 96, 512, 2000


@pytest.fixture(scope="module")
def data():
    return Synthetic(D, TRUE, 3.0, rows=128 * B, superblock_rows=32 * B, seed=0)


def trained(name, coefficient, data, context, **options):
    """A plain loop: Adam with beta1 = 0, gradient as it is, decoder vectors put back to unit norm."""
    x_RD = jnp.concatenate([data.read(SITE, k) for k in range(data.num_superblocks)])
    scale = 1 / np.sqrt(data.statistics(SITE)["mean_squared_norm"])
    cls = architecture(name)
    sae = cls.initialise(jax.random.key(1), D, F, cls.Options(**options))
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 100, STEPS)
    adam = optax.scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True)

    def update(carry, step):
        sae, state = carry
        x_BD = jax.lax.dynamic_slice_in_dim(x_RD, (step * B) % len(x_RD), B) * scale
        gradients = jax.grad(lambda sae: sae.loss({"x": x_BD}, context(coefficient, "float32"))[0])(sae)
        updates, state = adam.update(gradients, state, sae)
        sae = jax.tree.map(lambda p, u: p - rate(step) * u, sae, updates)
        return (sae.replace(W_dec=sae.W_dec / jnp.linalg.norm(sae.W_dec, axis=1, keepdims=True)), state), ()

    (sae, _), _ = jax.jit(lambda sae: jax.lax.scan(update, (sae, adam.init(sae)), jnp.arange(STEPS)))(sae)
    return sae.rescaled(scale)


def judged(sae, data):
    """Mean max cosine similarity, firing F1, and gamma on the first superblock."""
    x_RD, fires_RG = data.read(SITE, 0), data.codes(0)
    f_RF = sae.encode(x_RD)
    x_hat_RD = sae.decode(f_RF)
    found = np.asarray(sae.W_dec)
    return {
        "similarity": mean_max_cosine_similarity(data.dictionary, found),
        "f1": firing_f1(fires_RG, np.asarray(f_RF), match(data.dictionary, found)),
        "gamma": float(jnp.sum(x_hat_RD**2) / jnp.sum(x_hat_RD * x_RD)),
    }


def test_gated_recovers_a_known_dictionary_without_shrinkage(data, context):
    result = judged(trained("gated", 0.6, data, context), data)
    assert result["similarity"] > 0.98, result
    assert result["f1"] > 0.75, result
    assert 0.97 < result["gamma"] < 1.03, result


def test_standard_recovers_it_and_shrinks(data, context):
    result = judged(trained("standard", 0.3, data, context), data)
    assert result["similarity"] > 0.98, result
    assert result["gamma"] < 0.9, result


def test_jumprelu_recovers_it_without_shrinkage(data, context):
    """The bandwidth is wider than the default: 2000 steps are few."""
    result = judged(trained("jumprelu", 0.03, data, context, initial_threshold=0.1, bandwidth=0.1), data)
    assert result["similarity"] > 0.98, result
    assert result["f1"] > 0.75, result
    assert 0.97 < result["gamma"] < 1.03, result
