"""The language model with something else in place of one site's activation.

Three programs a batch. `prefix` runs the model up to the site, once. `spliced_stream` runs the rest with a given array
at the site: clean, zero and every reconstruction go through this one compiled program, so an exact reconstruction
gives exactly the clean result. `score` turns the streams of all these arms into cross-entropies and KL divergences.

Logits never exist for more than a chunk of tokens. For each chunk `score` computes the clean logits once more, beside
those of the arms one after the other: three [chunk, V] float32 arrays at a time (12 MiB at V = 4096, 1536 V bytes for
large vocabularies) instead of 4 B T V bytes an arm. What is kept is the last residual stream of every arm, 4 B T D
bytes an arm in float32.

Axes: A arms, B sequences, T positions, D model width, W site width, V vocabulary, N predictions of a sequence, C of
them in a chunk.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

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
    # A chunk is some positions of all sequences, not some sequences: so each device has its part of every chunk.
    shards = _sequence_shards()
    chunk = max(CHUNK_BYTES // (4 * model.settings.vocabulary), FEWEST_TOKENS)
    positions = min(-(-chunk * shards // sequences), predictions)
    padding = -predictions % positions
    streams_ABND = jnp.stack([stream[:, :-1] for stream in streams])
    arms, width = len(streams), streams_ABND.shape[-1]
    streams_ABND = jnp.pad(streams_ABND, ((0, 0), (0, 0), (0, padding), (0, 0)))
    streams_KABCD = jnp.moveaxis(streams_ABND.reshape(arms, sequences, -1, positions, width), 2, 0)
    targets_BN = jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, padding)))
    targets_KBC = jnp.moveaxis(targets_BN.reshape(sequences, -1, positions), 1, 0)

    def logits_and_normaliser(stream_BCD: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BCV = model.unembed(stream_BCD)
        logits_BCV = logits_BCV.astype(jnp.promote_types(logits_BCV.dtype, jnp.float32))
        greatest_BC1 = logits_BCV.max(-1, keepdims=True)
        return logits_BCV, greatest_BC1 + jnp.log(jnp.exp(logits_BCV - greatest_BC1).sum(-1, keepdims=True))

    def one_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        streams_ABCD, targets_BC = inputs
        logits_BCV, normaliser_BC1 = logits_and_normaliser(streams_ABCD[0])
        clean_BCV = logits_BCV - normaliser_BC1
        probability_BCV = jnp.exp(clean_BCV)

        def one_arm(stream_BCD: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits_BCV, normaliser_BC1 = logits_and_normaliser(stream_BCD)
            of_targets_BC1 = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)
            divergence_BC = (probability_BCV * (clean_BCV - (logits_BCV - normaliser_BC1))).sum(-1)
            return (normaliser_BC1 - of_targets_BC1)[..., 0], divergence_BC

        return jax.lax.map(one_arm, streams_ABCD)

    cross_entropy_KABC, divergence_KABC = jax.lax.map(one_chunk, (streams_KABCD, targets_KBC))

    def per_prediction(values_KABC: jax.Array) -> jax.Array:
        values_ABN = jnp.moveaxis(values_KABC, 0, 2).reshape(arms, sequences, -1)[..., :predictions]
        return _everywhere(values_ABN)

    return per_prediction(cross_entropy_KABC), per_prediction(divergence_KABC)


def _sequence_shards() -> int:
    """Over how many devices of the surrounding mesh, at most, sequences are split."""
    return max(jax.sharding.get_abstract_mesh().size, 1)


def _everywhere(array: jax.Array) -> jax.Array:
    """Whole on every device of the surrounding mesh, so that every process can read it."""
    inside = not jax.sharding.get_abstract_mesh().empty
    return jax.lax.with_sharding_constraint(array, PartitionSpec()) if inside else array
