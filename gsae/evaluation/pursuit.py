"""Inference-time optimisation: sparse codes found for a given dictionary, the encoder ignored.

Non-negative gradient pursuit (Blumensath & Davies 2008, Gradient Pursuits; used so in the Gated SAE paper, 2404.16014,
appendix on inference-time optimisation). With y = x - b_dec and w = 0, repeat:

    r = y - w W_dec;  s = r W_dec^T;  the support takes in argmax s, while some s > 0 and there is room
    g = s on the support;  c = g W_dec;  w = max(0, w + (c.r / c.c) g)

Only s is a product over all features. The support is kept as K places of (feature, weight), so that r and c are sums of
at most K rows of the decoder, and c.r is |g|^2. Choosing the largest s asks for unit vectors: those of the dictionary
are scaled to unit norm first and the weights back afterwards, so any decoder will do. On a mesh each device has its
features' part of the dictionary; devices tell each other which feature is the best, and sums over the support.

Axes: B tokens, D activation width, F features, K places.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gsae import mesh as axes
from gsae.autoencoders import base
from gsae.autoencoders.context import Context
from gsae.autoencoders.linear import row_norms
from gsae.evaluation.metrics import rows_at_once

CLIPPED = ("stay", "leave")  # what becomes of a feature in the support whose weight is clipped to zero


class Codes(NamedTuple):
    """Sparse codes: in each of K places a feature and its weight; weight 0 where a place stands for nothing.

    Attributes:
        features_BK: int32, each at most once a token among the places with weight.
        weights_BK: at least 0, unless they are signed.
    """

    features_BK: jax.Array
    weights_BK: jax.Array

    def dense(self, features: int, start: jax.Array | int = 0) -> jax.Array:
        """The same as activations [B, F] of so many features, from `start` on."""
        tokens_B1 = jnp.arange(self.weights_BK.shape[0])[:, None]
        zeros_BF = jnp.zeros((self.weights_BK.shape[0], features), self.weights_BK.dtype)
        place_BK = jnp.where(self.features_BK >= start, self.features_BK - start, features)
        return zeros_BF.at[tokens_B1, place_BK].add(self.weights_BK, mode="drop")


class _Part(NamedTuple):
    """The features of a dictionary that are here: all of them, or inside a `shard_map` those of one shard.

    Attributes:
        start, size: which.
        over: the axis of the mesh that they are split over; None: they are all here.
    """

    start: Any
    size: int
    over: str | None

    @classmethod
    def of(cls, W_dec_FD: jax.Array, over: str | None) -> "_Part":
        """The part that these decoder vectors are."""
        size = W_dec_FD.shape[0]
        return cls(jax.lax.axis_index(over) * size if over else 0, size, over)

    def place(self, features: jax.Array) -> jax.Array:
        """Where features are in the part; anywhere for those that are not."""
        return jnp.clip(features - self.start, 0, self.size - 1) if self.over else features

    def own(self, features: jax.Array, values: jax.Array) -> jax.Array:
        """The values of the part's features, 0 for those that are elsewhere."""
        if not self.over:
            return values
        return jnp.where((features >= self.start) & (features < self.start + self.size), values, 0)

    def total(self, values: jax.Array) -> jax.Array:
        """The sum over all parts."""
        return jax.lax.psum(values, self.over) if self.over else values

    def best(self, s_CF: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which of all features is highest in each row (the first of equals), and how high."""
        best_C, highest_C = _argmax(s_CF)
        if not self.over:
            return best_C, highest_C
        best_PC, highest_PC = (jax.lax.all_gather(a, self.over) for a in (best_C + self.start, highest_C))
        first_1C = jnp.argmax(highest_PC, axis=0, keepdims=True)
        return tuple(jnp.take_along_axis(a, first_1C, axis=0)[0] for a in (best_PC, highest_PC))  # type: ignore[return-value]


@partial(jax.jit, static_argnames=("places", "clipped", "signed", "over"))
def pursue(
    y_BD: jax.Array,
    W_dec_FD: jax.Array,
    *,
    places: int,
    max_l0: jax.Array | int | None = None,
    iterations: jax.Array | int | None = None,
    clipped: str = "stay",
    signed: bool = False,
    over: str | None = None,
) -> Codes:
    """Non-negative gradient pursuit, for all tokens at once; in chunks of tokens, one compiled program.

    Args:
        y_BD: activations less b_dec; float32 or wider.
        W_dec_FD: the dictionary; vectors of norm zero are never chosen.
        places: K, static: no support can be larger.
        max_l0: features in a support at most; K if None. A traced number: sweeping it compiles nothing again.
        iterations: updates of the weights; `max_l0` if None. With more of them than that the weights are improved on a
            full support; with fewer the support cannot fill. Traced too.
        clipped: "stay": a feature whose weight is clipped to zero stays in the support and may grow again, as in
            dictionary_learning. "leave": it makes room for another, and can be chosen again.
        signed: weights may be negative, as those of autoencoders with signed features: the support takes in argmax |s|,
            and nothing is clipped.
        over: inside a `shard_map`, the axis of the mesh over which F is split: `W_dec_FD` is this shard's part. All of
            its shards give the same codes.

    Returns:
        The codes. A token whose residual is zero, or has a positive product with no feature of the dictionary, takes in
        nothing more; if its support is empty, its code is zero.

    Raises:
        ValueError: for another word than `clipped` knows, or no places.
    """
    if clipped not in CLIPPED:
        raise ValueError(f"clipped = {clipped!r}: must be one of {', '.join(CLIPPED)}")
    if places < 1:
        raise ValueError(f"places = {places}: must be at least 1")
    max_l0 = jnp.minimum(jnp.asarray(places if max_l0 is None else max_l0, jnp.int32), places)
    iterations = max_l0 if iterations is None else jnp.asarray(iterations, jnp.int32)
    real = jnp.promote_types(y_BD.dtype, jnp.float32)
    part = _Part.of(W_dec_FD, over)
    norms_F = row_norms(W_dec_FD.astype(real))
    atoms_FD = W_dec_FD.astype(real) / jnp.where(norms_F > 0, norms_F, 1)[:, None]
    # Transposed once: XLA's CPU backend multiplies a transposed operand at half its speed.
    atoms_DF = jax.lax.optimization_barrier(atoms_FD.T)

    tokens = y_BD.shape[0]
    chunk = max(min(rows_at_once(W_dec_FD.shape[0]), tokens), 1)
    y_NCD = jnp.pad(y_BD.astype(real), ((0, -tokens % chunk), (0, 0))).reshape(-1, chunk, y_BD.shape[-1])

    def one_chunk(y_CD: jax.Array) -> Codes:
        return _pursue(y_CD, atoms_FD, atoms_DF, part, places, max_l0, iterations, clipped == "stay", signed)

    features_NCK, weights_NCK = jax.lax.map(one_chunk, y_NCD)
    features_BK = features_NCK.reshape(-1, places)[:tokens]
    norms_BK = part.total(part.own(features_BK, norms_F[part.place(features_BK)]))
    weights_BK = weights_NCK.reshape(-1, places)[:tokens] / jnp.where(norms_BK > 0, norms_BK, 1)
    return Codes(features_BK, weights_BK)


def _pursue(y_CD, atoms_FD, atoms_DF, part: _Part, places, max_l0, iterations, stay, signed) -> Codes:
    tokens_C, places_K = jnp.arange(y_CD.shape[0]), jnp.arange(places)

    def combined(features_CK: jax.Array, weights_CK: jax.Array, used: jax.Array) -> jax.Array:
        """The sum of the vectors in the first `used` places, each times its weight: row by row, nothing is copied."""

        def add(k: jax.Array, sum_CD: jax.Array) -> jax.Array:
            own_C = part.own(features_CK[:, k], weights_CK[:, k])
            return sum_CD + own_C[:, None] * atoms_FD[part.place(features_CK[:, k])]

        return part.total(jax.lax.fori_loop(0, used, add, jnp.zeros_like(y_CD)))

    def update(i: jax.Array, state: tuple) -> tuple:
        features_CK, weights_CK, taken_CK, r_CD = state
        s_CF = r_CD @ atoms_DF
        best_C, highest_C = part.best(jnp.abs(s_CF) if signed else s_CF)
        # In the first free place, if it is not in the support yet.
        known_C = jnp.any(taken_CK & (features_CK == best_C[:, None]), axis=1)
        wanted_C = (highest_C > 0) & ~known_C & (jnp.sum(taken_CK, axis=1) < max_l0)
        new_CK = wanted_C[:, None] & (places_K == jnp.argmin(taken_CK, axis=1)[:, None])
        features_CK = jnp.where(new_CK, best_C[:, None], features_CK)
        taken_CK |= new_CK

        s_CK = part.total(part.own(features_CK, s_CF[tokens_C[:, None], part.place(features_CK)]))
        g_CK = jnp.where(taken_CK, s_CK, 0)
        used = jnp.minimum(i + 1, places)  # one place is taken an iteration, at most
        c_CD = combined(features_CK, g_CK, used)
        c_dot_r_C, c_dot_c_C = jnp.sum(jnp.square(g_CK), axis=1), jnp.sum(jnp.square(c_CD), axis=1)
        step_C = jnp.where(c_dot_c_C > 0, c_dot_r_C / jnp.where(c_dot_c_C > 0, c_dot_c_C, 1), 0)
        weights_CK = weights_CK + step_C[:, None] * g_CK
        weights_CK = weights_CK if signed else jnp.maximum(weights_CK, 0)
        if not stay:
            taken_CK &= weights_CK != 0
        return features_CK, weights_CK, taken_CK, y_CD - combined(features_CK, weights_CK, used)

    nothing_CK = jnp.zeros((y_CD.shape[0], places), jnp.int32)
    start = (nothing_CK, nothing_CK.astype(y_CD.dtype), nothing_CK > 0, y_CD)
    features_CK, weights_CK, _, _ = jax.lax.fori_loop(0, iterations, update, start)
    return Codes(features_CK, weights_CK)


def _argmax(s_CF: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each row is highest (first of equals), and how high: two plain reductions, which XLA makes fast on CPU."""
    highest_C = jnp.max(s_CF, axis=1)
    index_F = jnp.arange(s_CF.shape[1], dtype=jnp.int32)
    best_C = jnp.min(jnp.where(s_CF == highest_C[:, None], index_F, s_CF.shape[1] - 1), axis=1)
    return best_C, highest_C


@flax.struct.dataclass
class Pursued(base.Autoencoder):
    """A dictionary whose encoder is pursuit: what `evaluate` takes in a member's place.

    Attributes:
        W_dec, b_dec: those of the trained autoencoder, for raw activations.
        caps: int32 [2]: `max_l0` and `iterations`.
        places: at least the largest `max_l0`; members that share it share a program.
        clipped, signed: as in `pursue`.
    """

    W_dec: jax.Array = base.parameter(feature_axis=0, trained=False)
    b_dec: jax.Array = base.parameter(feature_axis=None, trained=False)
    caps: Any = base.parameter(feature_axis=None, trained=False)
    places: int = flax.struct.field(pytree_node=False, default=1)
    clipped: str = flax.struct.field(pytree_node=False, default="stay")
    signed: bool = flax.struct.field(pytree_node=False, default=False)  # type: ignore[misc]

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations by pursuit: [..., D] -> [..., F]; on an explicit mesh split as others are."""
        surroundings = jax.sharding.get_abstract_mesh()
        over = axes.FEATURE if AxisType.Explicit in surroundings.axis_types else None

        def codes(x: jax.Array, W_dec_FD: jax.Array, b_dec_D: jax.Array, caps: jax.Array) -> jax.Array:
            how = {"places": self.places, "max_l0": caps[0], "iterations": caps[1], "clipped": self.clipped}
            found = pursue((x - b_dec_D).reshape(-1, x.shape[-1]), W_dec_FD, **how, signed=self.signed, over=over)
            part = _Part.of(W_dec_FD, over)
            return found.dense(part.size, part.start).reshape(*x.shape[:-1], -1)

        if over:
            rows = (axes.DATA, *(None,) * (x.ndim - 2))
            given = (P(*rows, None), P(axes.FEATURE, None), P(None), P(None))
            codes = jax.shard_map(codes, in_specs=given, out_specs=P(*rows, axes.FEATURE), check_vma=False)
        return codes(x, self.W_dec, self.b_dec, self.caps)


def with_caps(autoencoder: base.Autoencoder, caps: Sequence[int]) -> dict[int, Pursued]:
    """The autoencoder with pursuit at each cap on L0, as many updates as the cap; all share one program."""
    dictionary = Pursued(
        W_dec=autoencoder.W_dec,
        b_dec=autoencoder.b_dec,
        caps=np.zeros(2, np.int32),
        places=max(caps),
        signed=autoencoder.signed,
    )
    return {cap: dictionary.replace(caps=np.full(2, cap, np.int32)) for cap in caps}
