"""The language model's pass as one program: tokens in, the activations of all sites out, and their gradients.

Layers after the last one that is asked for are not computed, unless gradients are wanted. Axes as in the transformer.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gsae.activations.gradients import site_gradients
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site, last_layer

DTYPES = {"bfloat16": jnp.dtype(jnp.bfloat16), "float32": jnp.dtype(jnp.float32)}


@functools.lru_cache(maxsize=4)  # a model that harvests twice compiles once
def program(graph: nnx.GraphDef, sites: tuple[Site, ...], dtype: jnp.dtype, gradients: bool) -> jax.stages.Wrapped:
    """The jitted pass: parameters, tokens [B, T] int32, scored [B, T] bool -> the sites [B, T, W], then gradients.

    The shardings of the results are those of the tokens. What `scored` means: `gradients.site_gradients`.
    """

    @jax.jit
    def capture(parameters: nnx.State, tokens_BT: jax.Array, scored_BT: jax.Array) -> tuple[jax.Array, ...]:
        model = nnx.merge(graph, parameters)
        if gradients:
            captured, found = site_gradients(model, tokens_BT, scored_BT, sites)
            return tuple(part[site].astype(dtype) for part in (captured, found) for site in sites)
        _, captured = model.blocks(model.embed(tokens_BT), 0, last_layer(sites) + 1, capture=sites)
        return tuple(captured[site].astype(dtype) for site in sites)

    return capture


def traced(
    language_model: LanguageModel, sites: Sequence[Site], shape: tuple[int, int], dtype: str, gradients: bool = False
) -> Any:
    """The pass over token ids of a shape [B, T] as a traced program, of which nothing is computed."""
    graph, parameters = nnx.split(language_model.model)
    batch = (jax.ShapeDtypeStruct(shape, kind) for kind in (np.int32, np.bool_))
    return program(graph, tuple(sites), DTYPES[dtype], gradients).trace(parameters, *batch)
