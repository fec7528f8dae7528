"""What the vectors of a feature say without any text: norms, cosines, nearest features, and tokens that it promotes.

Axes: A features of the autoencoder, F those that are looked at, C of them at once, D width of the site, M width of the
residual stream, V vocabulary.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from gsae.evaluation.places import Places, default_mesh
from gsae.language_models.loading import LanguageModel
from gsae.language_models.norms import Norm
from gsae.language_models.placement import place
from gsae.language_models.sites import Site
from gsae.language_models.transformer import Transformer
from gsae.mesh import FEATURE

CHUNK_BYTES = 32 << 20  # of one float32 array of logits or cosines
# Through what a site's vector reaches the residual stream; sites that are not here are in it.
WAY = {"attn_z": "attention's output projection W_O", "mlp_act": "the MLP's down projection"}


@dataclasses.dataclass(frozen=True)
class Directions:
    """Of each of F features. All arrays are numpy's.

    Attributes:
        norm_F: of the decoder vector.
        cosine_F: of the encoder with the decoder vector.
        nearest_FN: the other features whose decoder vectors have the largest cosine with this one's, nearest first.
        nearest_cosine_FN: those cosines.
        promoted_FN, suppressed_FN: token ids with the largest and the smallest direct effect.
        promoted_logit_FN, suppressed_logit_FN: the effects, less their mean over the vocabulary.
        how: the way from the decoder vector to the logits, a sentence.
    """

    norm_F: np.ndarray
    cosine_F: np.ndarray
    nearest_FN: np.ndarray
    nearest_cosine_FN: np.ndarray
    promoted_FN: np.ndarray
    promoted_logit_FN: np.ndarray
    suppressed_FN: np.ndarray
    suppressed_logit_FN: np.ndarray
    how: str


def directions(
    language_model: LanguageModel,
    site: str,
    autoencoder: Any,
    features_F: np.ndarray,
    *,
    mesh: Mesh | None = None,
    nearest: int = 5,
    tokens: int = 10,
) -> Directions:
    """Looks at the vectors of some features of an autoencoder that takes raw activations.

    The dictionary comes whole to the host, and in parts to the devices.

    Args:
        language_model: its model and settings.
        site: where the autoencoder reads, `name.layer`.
        autoencoder: with W_enc [D, A] and W_dec [A, D].
        features_F: indices of the features.
        mesh: with the axes of `gsae.mesh`, over whose axis `feature` the dictionary is split, in all their processes at
            once; None for one device.
        nearest: how many other features; fewer where there are not so many.
        tokens: how many promoted and suppressed tokens; fewer where the vocabulary is smaller.
    """
    W_dec_AD, W_enc_AD = (np.asarray(jax.device_get(W), np.float32) for W in (autoencoder.W_dec, autoencoder.W_enc.T))
    unit_AD, encoder_AD = _unit(W_dec_AD), _unit(W_enc_AD)
    at, placement = Site.parse(site), place(language_model.model)
    graph, _ = nnx.split(language_model.model)
    vocabulary = language_model.model.settings.vocabulary
    nearest, tokens = min(nearest, len(unit_AD) - 1), min(tokens, vocabulary)
    parts: list[Any] = []
    at_once = max(CHUNK_BYTES // (4 * max(vocabulary, len(unit_AD))), 1)
    places = Places.of(mesh or default_mesh())
    everything_AD = places.put(unit_AD, PartitionSpec(FEATURE))
    for start in range(0, len(features_F), at_once):
        chosen_C = features_F[start : start + at_once]
        with jax.set_mesh(places.mesh):
            near = places.finished(_nearest(everything_AD, unit_AD[chosen_C], chosen_C, count=nearest))
        with jax.set_mesh(placement.mesh):
            vectors_CD = jnp.asarray(W_dec_AD[chosen_C])
            effect = logit_effect(placement.parameters, vectors_CD, graph=graph, site=at, count=tokens)
        parts.append(jax.device_get((near, effect)))
    (cosine_FN, nearest_FN), (up_FN, up_ids_FN, down_FN, down_ids_FN) = jax.tree.map(
        lambda *chunks: np.concatenate(chunks), *parts
    )
    return Directions(
        norm_F=np.linalg.norm(W_dec_AD[features_F], axis=1),
        cosine_F=(unit_AD[features_F] * encoder_AD[features_F]).sum(1),
        nearest_FN=nearest_FN,
        nearest_cosine_FN=cosine_FN,
        promoted_FN=up_ids_FN,
        promoted_logit_FN=up_FN,
        suppressed_FN=down_ids_FN,
        suppressed_logit_FN=down_FN,
        how=way_to_the_logits(language_model.model, at),
    )


def way_to_the_logits(model: Transformer, site: Site) -> str:
    """In words, what `logit_effect` multiplies a decoder vector by."""
    settings = model.settings
    steps = [WAY[site.name]] if site.name in WAY else []
    if steps and settings.post_norm:
        steps.append("the linear part of the norm after it")
    centred = "the mean taken out, then its scale" if settings.norm.kind == "layer" else "its scale"
    steps += [f"the linear part of the final norm ({centred})", "the unembedding"]
    return (
        f"The decoder vector through {', '.join(steps[:-1])} and {steps[-1]}, less the mean over the vocabulary; "
        "layers in between and what the norm divides by are left out, so the numbers compare tokens, not features."
    )


@partial(jax.jit, static_argnames=("graph", "site", "count"))
def logit_effect(state: Any, vectors_CD: jax.Array, *, graph: Any, site: Site, count: int) -> tuple[jax.Array, ...]:
    """The tokens that vectors at a site promote and suppress most, by the direct way to the logits.

    Args:
        state: the model's arrays; `graph` its structure (`nnx.split`).
        vectors_CD: vectors of the site's width.
        graph: see `state`.
        site: where they are added.
        count: tokens of each kind.

    Returns:
        Largest effects [C, count] and their tokens, smallest effects and theirs; largest and smallest first.
    """
    model = nnx.merge(graph, state)
    with jax.default_matmul_precision("highest"):
        logits_CV = _unembedded(model, _in_the_stream(model, vectors_CD, site))
    logits_CV = logits_CV - logits_CV.mean(1, keepdims=True)
    up, up_ids = jax.lax.top_k(logits_CV, count)
    down, down_ids = jax.lax.top_k(-logits_CV, count)
    return up, up_ids, -down, down_ids


def _in_the_stream(model: Transformer, vectors_CD: jax.Array, site: Site) -> jax.Array:
    """What the vectors add to the residual stream, [C, M]; the post-norm's division is left out."""
    if site.name not in WAY:
        return vectors_CD
    layer = model.layers[site.layer]
    linear = layer.attention.out if site.name == "attn_z" else layer.mlp.down
    added_CM = vectors_CD @ linear.kernel[...].astype(jnp.float32)
    if not model.settings.post_norm:
        return added_CM
    return _linear_part(layer.attention_post_norm if site.name == "attn_z" else layer.mlp_post_norm, added_CM)


def _unembedded(model: Transformer, added_CM: jax.Array) -> jax.Array:
    """[C, M] -> [C, V] float32, without the bias."""
    normed_CM = _linear_part(model.final_norm, added_CM)
    tied = model.settings.tied_embeddings
    table_MV = model.embedding[...].T if tied else model.unembedding.kernel[...]
    return normed_CM @ table_MV.astype(jnp.float32)


def _linear_part(norm: Norm, x_CM: jax.Array) -> jax.Array:
    """A norm without its division and its bias."""
    if norm.settings.kind == "layer":
        x_CM = x_CM - x_CM.mean(-1, keepdims=True)
    if norm.settings.scale:
        x_CM = x_CM * (norm.scale[...].astype(jnp.float32) + norm.settings.offset)
    return x_CM


@partial(jax.jit, static_argnames="count")
def _nearest(unit_AD: jax.Array, unit_CD: jax.Array, chosen_C: jax.Array, *, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest cosines with others and whose they are, [C, count]: of each shard the largest, then of these."""

    def of_a_shard(unit_AD, unit_CD, chosen_C):
        with jax.default_matmul_precision("highest"):
            cosine_CA = unit_CD @ unit_AD.T
        own_A = jax.lax.axis_index(FEATURE) * unit_AD.shape[0] + jnp.arange(unit_AD.shape[0])
        cosine_CA = jnp.where(chosen_C[:, None] == own_A, -jnp.inf, cosine_CA)
        best_CN, place_CN = jax.lax.top_k(cosine_CA, min(count, len(own_A)))
        every = partial(jax.lax.all_gather, axis_name=FEATURE, axis=1, tiled=True)
        best_CN, index_CN = every(best_CN), every(own_A[place_CN])
        best_CN, place_CN = jax.lax.top_k(best_CN, count)
        return best_CN, jnp.take_along_axis(index_CN, place_CN, axis=1)

    whole = PartitionSpec()
    return jax.shard_map(
        of_a_shard, in_specs=(PartitionSpec(FEATURE), whole, whole), out_specs=(whole, whole), check_vma=False
    )(unit_AD, unit_CD, chosen_C)


def _unit(vectors_AD: np.ndarray) -> np.ndarray:
    norms_A1 = np.linalg.norm(vectors_AD, axis=1, keepdims=True)
    return vectors_AD / np.where(norms_A1 == 0, 1, norms_A1)
