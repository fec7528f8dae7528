"""Random autoencoders of every kind, as trained ones are: raw activations, decoder vectors of norm one unless free."""

import jax
import jax.numpy as jnp

from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard

D, F, SCALE = 12, 20, 0.37
ABOUT = {"site": "mlp_out", "layer": 1, "language_model": "bundled", "context_length": 64, "sparsity_coefficient": 0.3}
CASES = {
    "gated": (Gated, GatedOptions()),
    "gated without r_mag": (Gated, GatedOptions(r_mag=False)),
    "gated ri_l1": (Gated, GatedOptions(ri_l1=True)),
    "standard": (Standard, Standard.Options()),
    "standard ri_l1": (Standard, Standard.Options(ri_l1=True)),
    "jumprelu": (JumpReLU, JumpReLUOptions(initial_threshold=0.3)),
    "jumprelu plain": (JumpReLU, JumpReLUOptions(initial_threshold=0.3, log_threshold=False)),
}
RESCALED = (RescaledStandard, RescaledStandard.Options())
UNTIED = (Gated, GatedOptions(tied=False))


def random_autoencoder(cls, options, seed=0):
    """With input normalisation folded (`rescaled`), no array zero, and metadata."""
    key, *keys = jax.random.split(jax.random.key(seed), 10)
    leaves, tree = jax.tree.flatten(cls.initialise(key, D, F, options))
    leaves = [leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=False)]
    sae = jax.tree.unflatten(tree, leaves).after_update({})
    if not getattr(options, "ri_l1", False):
        sae = sae.replace(W_dec=sae.W_dec / jnp.linalg.norm(sae.W_dec, axis=1, keepdims=True))
    return sae.rescaled(SCALE).with_metadata(ABOUT)


def inputs(rows=500, seed=7):
    """Raw activations with a mean, float32 [rows, D]."""
    return (jax.random.normal(jax.random.key(seed), (rows, D)) + 0.5) / SCALE
