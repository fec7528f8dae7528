"""Random autoencoders of every kind, as trained ones are: raw activations, decoder vectors of norm one unless free."""

import jax
import jax.numpy as jnp

from gsae.autoencoders.abstopk import AbsTopK
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.jumprelu_tanh import JumpReLUTanh
from gsae.autoencoders.jumprelu_target import JumpReLUTarget
from gsae.autoencoders.matryoshka import Matryoshka
from gsae.autoencoders.p_anneal import PAnneal
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.topk import TopK

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
K = 5
SELECTING = {
    "topk": TopK,
    "abstopk": AbsTopK,
    "batchtopk": BatchTopK,
    "matryoshka": Matryoshka,
}
RECIPES = {
    "p_anneal": (PAnneal, PAnneal.Options()),
    "p_anneal ri_l1": (PAnneal, PAnneal.Options(ri_l1=True)),
    "jumprelu_tanh": (JumpReLUTanh, JumpReLUTanh.Options(initial_threshold=0.3)),
    "jumprelu_target": (JumpReLUTarget, JumpReLUTarget.Options(initial_threshold=0.3)),
}
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


def random_of(cls, options, seed=0):
    """The same for those with numbers beside their arrays: k, a threshold, where annealing is."""
    sae = cls.initialise(jax.random.key(seed), D, F, options)
    keys = jax.random.split(jax.random.key(seed + 1), len(sae.trained_fields()))
    noisy = {
        name: getattr(sae, name) + 0.3 * jax.random.normal(key, getattr(sae, name).shape)
        for name, key in zip(sae.trained_fields(), keys, strict=True)
    }
    if sae.unit_norm_fields():
        noisy["W_dec"] /= jnp.linalg.norm(noisy["W_dec"], axis=1, keepdims=True)
    numbers = {"k": jnp.float32(K)} if isinstance(sae, TopK) else {}
    numbers |= {"threshold": jnp.float32(0.9)} if isinstance(sae, BatchTopK) else {}
    return sae.replace(**noisy, **numbers).rescaled(SCALE).with_metadata(ABOUT)


def selecting(name):
    """One of `SELECTING`, random; the nested one of two blocks, so that its storage is not the order of prefixes."""
    cls = SELECTING[name]
    own = {"groups": (0.2, 0.3, 0.5), "blocks": 2} if cls is Matryoshka else {}
    return random_of(cls, cls.Options(**own))


def inputs(rows=500, seed=7):
    """Raw activations with a mean, float32 [rows, D]."""
    return (jax.random.normal(jax.random.key(seed), (rows, D)) + 0.5) / SCALE
