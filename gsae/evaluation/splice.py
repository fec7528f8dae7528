"""The language model with something else in place of one site's activation.

Three programs a batch. `prefix` runs the model up to the site, once. `spliced_stream` runs the rest with a given array
at the site: clean, zero and every reconstruction go through this one compiled program, so an exact reconstruction
gives exactly the clean result. `score` turns the streams of all these arms into cross-entropies and KL divergences.

Logits never exist for more than a chunk of tokens. For each chunk `score` computes the clean logits once more, beside
those of the arms one after the other: three [chunk, V] float32 arrays at a time (12 MiB at V = 4096, 1536 V bytes for
large vocabularies) instead of 4 B T V bytes an arm. What is kept is the last residual stream of every arm, 4 B T D
bytes an arm in float32.

Axes: A arms, B sequences, T positions, D model width, W site width, V vocabulary, N predictions, C of them in a chunk.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.language_models.sites import Site

CHUNK_BYTES = 4 << 20  # one [tokens, V] float32 array of logits: it stays in a CPU's cache
FEWEST_TOKENS = 128  # enough rows to keep a matrix unit busy, however large the vocabulary


class Prefix(NamedTuple):
    """What a batch looks like at the site: all that the rest of the model needs.

    Attributes:
        entering_BTD: the residual stream that enters the site's layer.
        original_BTW: the site's activation.
        fixed: activations of the same layer that the site cannot change, so that they are not computed again.
    """

    entering_BTD: jax.Array
    original_BTW: jax.Array
    fixed: dict[Site, jax.Array]


def _fixed_sites(site: Site) -> tuple[Site, ...]:
    """What attention adds comes before, or beside, the MLP: a splice into the MLP leaves it as it is."""
    return (Site(site.layer, "resid_mid"),) if site.name in ("mlp_act", "mlp_out") else ()


@partial(jax.jit, static_argnames=("graph", "site"))
def prefix(state: Any, tokens_BT: jax.Array, *, graph: Any, site: Site) -> Prefix:
    """Runs the model (`nnx.split` into `graph` and `state`) up to the site; later layers are not computed."""
    model = nnx.merge(graph, state)
    fixed = _fixed_sites(site)
    entering_BTD, _ = model.blocks(model.embed(tokens_BT), 0, site.layer)
    _, captured = model.blocks(entering_BTD, site.layer, site.layer + 1, capture=(site, *fixed))
    return Prefix(entering_BTD, captured[site], {other: captured[other] for other in fixed})


@partial(jax.jit, static_argnames=("graph", "site"))
def spliced_stream(
    state: Any, batch: Prefix, replacement_BTW: jax.Array, replaced_BT: jax.Array, *, graph: Any, site: Site
) -> jax.Array:
    """The residual stream [B, T, D] after the last layer, with the replacement where `replaced_BT` is true.

    Everywhere else the site keeps its original activation.
    """
    model = nnx.merge(graph, state)
    original_BTW = batch.original_BTW
    value_BTW = jnp.where(replaced_BT[..., None], replacement_BTW.astype(original_BTW.dtype), original_BTW)
    layers = model.settings.num_layers
    stream_BTD, _ = model.blocks(batch.entering_BTD, site.layer, layers, replace={site: value_BTW, **batch.fixed})
    return stream_BTD


@partial(jax.jit, static_argnames=("graph",))
def score(
    state: Any, streams: tuple[jax.Array, ...], tokens_BT: jax.Array, *, graph: Any
) -> tuple[jax.Array, jax.Array]:
    """Next-token cross-entropy, and KL(clean || arm), of every arm at every position but the last.

    Args:
        state: the model's arrays.
        streams: for each arm the residual stream [B, T, D] after the last layer; the first is the clean one.
        tokens_BT: the tokens; position t predicts token t + 1.
        graph: the model's structure.

    Returns:
        Two arrays [A, B, T - 1] in nats, float32.
    """
    model = nnx.merge(graph, state)
    sequences, predictions = tokens_BT.shape[0], tokens_BT.shape[1] - 1
    streams_AND = jnp.stack([stream[:, :-1].reshape(-1, stream.shape[-1]) for stream in streams])
    arms, count, width = streams_AND.shape
    chunk = min(max(CHUNK_BYTES // (4 * model.settings.vocabulary), FEWEST_TOKENS), count)
    padding = -count % chunk
    streams_KACD = jnp.pad(streams_AND, ((0, 0), (0, padding), (0, 0))).reshape(arms, -1, chunk, width).swapaxes(0, 1)
    targets_KC = jnp.pad(tokens_BT[:, 1:].reshape(-1), (0, padding)).reshape(-1, chunk)

    def logits_and_normaliser(stream_CD: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_CV = model.unembed(stream_CD[None])[0]
        logits_CV = logits_CV.astype(jnp.promote_types(logits_CV.dtype, jnp.float32))
        greatest_C1 = logits_CV.max(-1, keepdims=True)
        return logits_CV, greatest_C1 + jnp.log(jnp.exp(logits_CV - greatest_C1).sum(-1, keepdims=True))

    def one_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        streams_ACD, targets_C = inputs
        logits_CV, normaliser_C1 = logits_and_normaliser(streams_ACD[0])
        clean_CV = logits_CV - normaliser_C1
        probability_CV = jnp.exp(clean_CV)

        def one_arm(stream_CD: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits_CV, normaliser_C1 = logits_and_normaliser(stream_CD)
            of_targets_C1 = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)
            divergence_C = (probability_CV * (clean_CV - (logits_CV - normaliser_C1))).sum(-1)
            return (normaliser_C1 - of_targets_C1)[:, 0], divergence_C

        return jax.lax.map(one_arm, streams_ACD)

    cross_entropy_KAC, divergence_KAC = jax.lax.map(one_chunk, (streams_KACD, targets_KC))

    def per_prediction(values_KAC: jax.Array) -> jax.Array:
        return values_KAC.swapaxes(0, 1).reshape(arms, -1)[:, :count].reshape(arms, sequences, predictions)

    return per_prediction(cross_entropy_KAC), per_prediction(divergence_KAC)
