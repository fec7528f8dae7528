"""The compiled parts: an autoencoder at a site of a language model, and the continuation of a text.

Axes: B sequences, T positions, W site width, F features, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.autoencoders.base import Autoencoder
from gsae.language_models.sites import Site, last_layer


def counts(tokens_BT: jax.Array, special: jax.Array, at: jax.Array | int = 0) -> jax.Array:
    """Which positions an autoencoder was trained on: not the first, no special token. `at`: where the tokens begin."""
    return (at + jnp.arange(tokens_BT.shape[1]) > 0) & ~jnp.isin(tokens_BT, special)


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
    """How a text is written.

    Attributes:
        start: the position of the first token that is written.
        stop: one after that of the last.
        end: the id after which nothing more is written; below zero for none.
        special: ids at which the autoencoder does not stand in.
        temperature: of the draws.
        key: of the draws.
    """

    start: jax.Array
    stop: jax.Array
    end: jax.Array
    special: jax.Array
    temperature: jax.Array
    key: jax.Array


@functools.partial(jax.jit, static_argnames=("graph", "site", "keep_error", "samples"))
def write(
    state: Any,
    sae: Autoencoder | None,
    edited: tuple[jax.Array, jax.Array] | None,
    prompt_1T: jax.Array,
    writing: Writing,
    *,
    graph: Any,
    site: Site | None,
    keep_error: bool,
    samples: int,
) -> jax.Array:
    """Continuations [samples, T] of a prompt whose end is padding: what stands from `stop` on means nothing.

    One pass over the prompt keeps each layer's keys and values; each further one is over the token chosen last. What an
    autoencoder puts at a site is a function of that position's activation, token and place, and no position sees a
    later one. So keys and values, once kept, are those of a pass over the whole text, at every site and for every edit.
    """
    model = nnx.merge(graph, state)

    def replace(tokens_BT: jax.Array, at: jax.Array) -> dict[Site, Callable[[jax.Array], jax.Array]]:
        if sae is None or edited is None or site is None:
            return {}
        replaced_BT = counts(tokens_BT, writing.special, at)

        def stand_in(x_BTW: jax.Array) -> jax.Array:
            _, _, value_BTW = through(sae, x_BTW, *edited, keep_error=keep_error)
            return jnp.where(replaced_BT[..., None], value_BTW.astype(x_BTW.dtype), x_BTW)

        return {site: stand_in}

    def choose(stream_B1D: jax.Array, at: jax.Array) -> jax.Array:
        logits_BV = model.unembed(stream_B1D)[:, 0].astype(jnp.float32)
        # The largest of logits / temperature + Gumbel noise is a draw from their softmax.
        noise_BV = jax.random.gumbel(jax.random.fold_in(writing.key, at), (samples, logits_BV.shape[1]))
        return jnp.argmax(logits_BV + writing.temperature * noise_BV, axis=-1).astype(jnp.int32)

    def go_on(carry: tuple) -> bool:
        at, tokens_BT, _ = carry
        return (at < writing.stop) & jnp.any(tokens_BT[:, at - 1] != writing.end)

    def write_next(carry: tuple) -> tuple:
        at, tokens_BT, caches = carry
        last_B = tokens_BT[:, at - 1]
        stream_B1D, caches = model.read_on(last_B, at - 1, caches, replace=replace(last_B[:, None], at - 1))
        chosen_B = jnp.where(last_B == writing.end, writing.end, choose(stream_B1D, at))
        return at + 1, tokens_BT.at[:, at].set(chosen_B), caches

    stream_1TD, caches = model.read(prompt_1T, replace=replace(prompt_1T, jnp.int32(0)))
    chosen_B = choose(jax.lax.dynamic_slice_in_dim(stream_1TD, writing.start - 1, 1, axis=1), writing.start)
    prompt_1T = jnp.where(jnp.arange(prompt_1T.shape[1]) < writing.start, prompt_1T, writing.end)
    tokens_BT, caches = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), (prompt_1T, caches))
    tokens_BT = tokens_BT.at[:, writing.start].set(chosen_B)
    return jax.lax.while_loop(go_on, write_next, (writing.start + 1, tokens_BT, caches))[1]
