"""A small model of every family with random weights, whose windows are shorter than its texts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from test_families import CONFIGS

from gsae.language_models.families import FAMILIES
from gsae.language_models.transformer import Transformer

WINDOWS = {
    "mistral": {"sliding_window": 3},
    "qwen2": {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1},
    "gemma2": {"sliding_window": 3},
    "gemma3_text": {"sliding_window": 3, "sliding_window_pattern": 2},
    "gpt_neo": {"window_size": 3},
}


def tiny_model(name):
    """Weights large enough that every site and every earlier position matters to the logits."""
    settings = FAMILIES[name].settings(CONFIGS[name] | WINDOWS.get(name, {}))
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Transformer(settings, nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def values(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.15 * rng.standard_normal(leaf.shape) + (leaf.ndim == 1), leaf.dtype)
        return (
            jax.random.key(0) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros(leaf.shape, leaf.dtype)
        )

    return nnx.merge(graph, jax.tree.map(values, shapes))
