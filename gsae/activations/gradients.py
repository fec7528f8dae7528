"""The gradient of the language model's loss with respect to the activation of a site.

The loss is the sum, not the mean, over the scored targets of -log p(target) in nats: a sequence's gradients do not
depend on the batch that it comes in. The gradient at a site is the total one: through everything downstream, later
sites included. Axes as in the transformer; C tokens of a chunk.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from gsae.language_models.sites import Site

CHUNK_BYTES = 4 << 20  # of one [tokens, V] float32 array of logits: it stays in a CPU's cache
FEWEST_TOKENS = 128  # enough rows to keep a matrix unit busy, however large the vocabulary


def summed_cross_entropy(model: Any, stream_BTD: jax.Array, tokens_BT: jax.Array, scored_BT: jax.Array) -> jax.Array:
    """Sum over scored targets of -log p(target | what stands before it), a scalar in at least float32.

    Args:
        model: a transformer.
        stream_BTD: the residual stream after its last layer.
        tokens_BT: the tokens; position t predicts token t + 1.
        scored_BT: which tokens count as targets. A row's first is never one.
    """
    stream_ND = stream_BTD[:, :-1].reshape(-1, stream_BTD.shape[-1])
    chunk = min(max(CHUNK_BYTES // (4 * model.settings.vocabulary), FEWEST_TOKENS), len(stream_ND))
    padding = -len(stream_ND) % chunk

    def in_chunks(array: jax.Array) -> jax.Array:
        return jnp.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1))).reshape(-1, chunk, *array.shape[1:])

    @jax.checkpoint  # backwards, the logits of a chunk are computed again, not kept
    def one_chunk(stream_CD: jax.Array, targets_C: jax.Array, scored_C: jax.Array) -> jax.Array:
        logits_CV = model.unembed(stream_CD[None])[0]
        logits_CV = logits_CV.astype(jnp.promote_types(logits_CV.dtype, jnp.float32))
        of_targets_C = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]
        return jnp.where(scored_C, jax.nn.logsumexp(logits_CV, axis=-1) - of_targets_C, 0).sum()

    targets_N, scored_N = tokens_BT[:, 1:].reshape(-1), scored_BT[:, 1:].reshape(-1)
    parts = (in_chunks(array) for array in (stream_ND, targets_N, scored_N))
    return jax.lax.map(lambda chunk: one_chunk(*chunk), tuple(parts)).sum()


def site_gradients(
    model: Any, tokens_BT: jax.Array, scored_BT: jax.Array, sites: Collection[Site]
) -> tuple[dict[Site, jax.Array], dict[Site, jax.Array]]:
    """The sites' activations [B, T, W], and the gradients of the summed cross-entropy with respect to them.

    Between the two passes only the stream before each layer is kept: layers are computed again on the way back.
    """
    first, layers = min(site.layer for site in sites), model.settings.num_layers
    streams = {first: model.blocks(model.embed(tokens_BT), 0, first)[0]}
    captured: dict[Site, jax.Array] = {}
    for layer in range(first, layers):
        here = [site for site in sites if site.layer == layer]
        streams[layer + 1], found = model.blocks(streams[layer], layer, layer + 1, capture=here)
        captured |= found
    gradient_BTD = jax.grad(lambda stream: summed_cross_entropy(model, stream, tokens_BT, scored_BT))(streams[layers])
    gradients: dict[Site, jax.Array] = {}
    for layer in reversed(range(first, layers)):
        for site in sites:
            if site.layer == layer:
                gradients[site] = _pulled_back(model, streams[layer], site, captured[site], gradient_BTD)
        if layer > first:
            gradient_BTD = _pulled_back(model, streams[layer], Site(layer, "resid_pre"), streams[layer], gradient_BTD)
    return captured, gradients


def _pulled_back(
    model: Any, stream_BTD: jax.Array, site: Site, value_BTW: jax.Array, gradient_BTD: jax.Array
) -> jax.Array:
    """From the gradient at the end of the site's layer to that at the site."""

    @jax.checkpoint
    def rest_of_layer(value_BTW: jax.Array) -> jax.Array:
        return model.blocks(stream_BTD, site.layer, site.layer + 1, replace={site: value_BTW})[0]

    return jax.vjp(rest_of_layer, value_BTW)[1](gradient_BTD)[0]
