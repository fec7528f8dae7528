"""The compiled parts: an autoencoder at a site of a language model, and the next token of a text.

Axes: B sequences, T positions, W site width, F features, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.autoencoders.base import Autoencoder
from gsae.evaluation.splice import prefix, spliced_stream
from gsae.language_models.sites import Site, last_layer


def counts(tokens_BT: jax.Array, special: jax.Array) -> jax.Array:
    """Which positions an autoencoder was trained on: not the first, no special token."""
    return (jnp.arange(tokens_BT.shape[1]) > 0) & ~jnp.isin(tokens_BT, special)


@functools.partial(jax.jit, static_argnames=("keep_error",))
def through(
    sae: Autoencoder, x_BTW: jax.Array, times_F: jax.Array, plus_F: jax.Array, *, keep_error: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, the reconstruction after the edits, and what the site holds then."""
    x_BTW = x_BTW.astype(jnp.promote_types(x_BTW.dtype, jnp.float32))
    f_BTF = sae.encode(x_BTW)
    edited_BTF = f_BTF * times_F + plus_F
    x_hat_BTW = sae.decode(edited_BTF)
    if keep_error:  # x + (x_hat of the edits - x_hat): decoded as a difference, which is exactly 0 without edits
        return f_BTF, x_hat_BTW, x_BTW + (sae.decode(edited_BTF - f_BTF) - sae.b_dec)
    return f_BTF, x_hat_BTW, x_hat_BTW


@functools.partial(jax.jit, static_argnames=("graph", "sites"))
def capture(state: Any, tokens_BT: jax.Array, *, graph: Any, sites: tuple[Site, ...]) -> dict[Site, jax.Array]:
    """What sites hold, [B, T, W] each."""
    model = nnx.merge(graph, state)
    return model.blocks(model.embed(tokens_BT), 0, last_layer(sites) + 1, capture=sites)[1]


@functools.partial(jax.jit, static_argnames=("graph",))
def unembed(state: Any, stream_BTD: jax.Array, *, graph: Any) -> jax.Array:
    """Logits [B, T, V] of the stream after the last layer."""
    return nnx.merge(graph, state).unembed(stream_BTD)


class Writing(NamedTuple):
    """What stays the same while a text is written.

    Attributes:
        start: the position of the first token that is written.
        end: the id after which nothing more is written; below zero for none.
        special: ids at which the autoencoder does not stand in.
        temperature: of the draws.
        key: of the draws.
    """

    start: jax.Array
    end: jax.Array
    special: jax.Array
    temperature: jax.Array
    key: jax.Array


@functools.partial(jax.jit, static_argnames=("graph", "site", "keep_error"))
def write_token(
    state: Any,
    sae: Autoencoder | None,
    edited: tuple[jax.Array, jax.Array] | None,
    tokens_BT: jax.Array,
    at: jax.Array,
    writing: Writing,
    *,
    graph: Any,
    site: Site | None,
    keep_error: bool,
) -> jax.Array:
    """The tokens with the one at position `at` of every sequence chosen; it sees none of those after it."""
    model = nnx.merge(graph, state)
    if sae is None or edited is None or site is None:
        stream_BTD, _ = model.blocks(model.embed(tokens_BT), 0, model.settings.num_layers)
    else:
        before = prefix(state, tokens_BT, graph=graph, site=site)
        _, _, value_BTW = through(sae, before.original_BTW, *edited, keep_error=keep_error)
        replaced_BT = counts(tokens_BT, writing.special)
        stream_BTD = spliced_stream(state, before, value_BTW, replaced_BT, graph=graph, site=site)
    last_B1D = jax.lax.dynamic_slice_in_dim(stream_BTD, at - 1, 1, axis=1)
    logits_BV = model.unembed(last_B1D)[:, 0].astype(jnp.float32)
    # The largest of logits / temperature + Gumbel noise is a draw from their softmax.
    noise_BV = jax.random.gumbel(jax.random.fold_in(writing.key, at), logits_BV.shape)
    chosen_B = jnp.argmax(logits_BV + writing.temperature * noise_BV, axis=-1).astype(jnp.int32)
    over_B = (jnp.take(tokens_BT, at - 1, axis=1) == writing.end) & (at > writing.start)
    return tokens_BT.at[:, at].set(jnp.where(over_B, writing.end, chosen_B))
