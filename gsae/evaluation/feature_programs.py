"""The programs that look at features: what one batch of sequences adds to what is kept of each feature.

On an explicit mesh of `gsae.mesh` (`one_member`) a shard of `data` takes its part of the sequences, one after the
other, and a shard of `feature` keeps what is known of its own features. Between devices move activations, how many
features fire on each token, and the examples of a batch.

Axes: B sequences, M of them at once (one for each shard of `data`), T positions, D site width, A all features, F those
that are looked at, K examples, W positions of an example's window, H bins.
"""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gsae.evaluation.observed import NONE, Examples, Shape
from gsae.mesh import DATA, FEATURE

BINS = 64  # a power of two; 33 to 64 of them lie below the largest activation
LEAST_EXPONENT = -100  # of a feature that never fired: the width of its bins is still a normal float32
# What is kept is split by features, and a copy on every shard of `data`.
KEPT, EACH = PartitionSpec(FEATURE), PartitionSpec(DATA, FEATURE)


@flax.struct.dataclass
class Kept:
    """K examples of each feature, and what they are ordered by."""

    rank_FK: Any  # what the examples are ordered by; below zero where there is none
    examples: Examples


@flax.struct.dataclass
class Running:
    """All that is kept of each feature while the text goes by."""

    strongest: Kept
    drawn: Kept
    exponent_F: Any  # histograms end at 2^exponent
    histogram_FH: Any


def nothing_seen(features: int, shape: Shape) -> Running:
    """Before the first batch; numpy's arrays."""
    return Running(
        strongest=nothing_kept(features, shape.strongest, shape.window),
        drawn=nothing_kept(features, shape.drawn, shape.window),
        exponent_F=np.full(features, LEAST_EXPONENT, np.int32),
        histogram_FH=np.zeros((features, BINS), np.int32),
    )


def nothing_kept(features: int, examples: int, window: int) -> Kept:
    """No examples yet."""

    def filled(value: float, dtype: Any) -> np.ndarray:
        return np.full((features, examples), value, dtype)

    return Kept(
        rank_FK=filled(-1, np.float32),
        examples=Examples(
            value_FK=filled(0, np.float32),
            sequence_FK=filled(NONE, np.int32),
            position_FK=filled(0, np.int32),
            window_FKW=np.zeros((features, examples, window), np.float32),
        ),
    )


def shares(features_F: np.ndarray, width: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Which features each shard looks at.

    Args:
        features_F: indices of the features.
        width: A.
        parts: shards of `feature`, each with A / parts features.

    Returns:
        For every shard as many indices into its own features, one shard after the other, those that are missing filled
        up with the first; and where in this list each of the features is.
    """
    own = width // parts
    of_shards = [np.flatnonzero(features_F // own == part) for part in range(parts)]
    most = max(map(len, of_shards))
    local, place_F = np.zeros((parts, most), np.int32), np.zeros(len(features_F), np.int64)
    for part, chosen in enumerate(of_shards):
        local[part, : len(chosen)] = features_F[chosen] - part * own
        place_F[chosen] = part * most + np.arange(len(chosen))
    return local.reshape(-1), place_F


@partial(jax.jit, static_argnames="shape", donate_argnums=0)
def look(running: Running, autoencoder, chosen_F, x_BTD, keep_BT, ids_B, seed_key, *, shape: Shape):
    """Adds the sequences of a batch.

    Args:
        running: so far, split by features.
        autoencoder: one that takes raw activations, on the mesh.
        chosen_F: int32, of each shard of `feature` the indices of its own features (`shares`).
        x_BTD: activations, B over `data` and `feature`.
        keep_BT: bool, the positions that count; split alike.
        ids_B: int32, which sequences of the store these are; split alike.
        seed_key: key data of the drawn examples.
        shape: how much to keep.

    Returns:
        What is kept now, and the sums of each sequence, [B] or [B, F], whole on every device.
    """
    shards = jax.sharding.get_abstract_mesh().shape[DATA]
    on_shards = partial(jax.shard_map, check_vma=False)

    def one_each(histogram, inputs):
        x_MTD, keep_MT, id_M = inputs
        x_MTD = x_MTD.astype(jnp.promote_types(x_MTD.dtype, jnp.float32))
        with jax.default_matmul_precision("highest"):  # accelerators round the operands by default
            f_MTA = autoencoder.encode(x_MTD)
        fires_MTA = autoencoder.active(f_MTA) & jnp.isfinite(f_MTA) & keep_MT[..., None]
        f_MTA = jnp.where(fires_MTA, f_MTA, 0).astype(jnp.float32)
        return seen(histogram, f_MTA, fires_MTA, keep_MT, id_M, chosen_F, seed_key)

    of_features = PartitionSpec(DATA, None, FEATURE)
    per_token = dict.fromkeys(("tokens", "l0"), PartitionSpec(DATA))
    seen = on_shards(
        partial(_one_sequence, shape=shape),
        in_specs=(EACH, of_features, of_features, PartitionSpec(DATA), PartitionSpec(DATA), KEPT, PartitionSpec()),
        out_specs=(EACH, (EACH, per_token | dict.fromkeys(("fired", "total", "l0_with"), EACH))),
    )
    everything = _apart(x_BTD, shards), _apart(keep_BT, shards), _apart(ids_B, shards)
    features = len(running.exponent_F)
    histogram = jnp.full((shards, features), LEAST_EXPONENT), jnp.zeros((shards, features, BINS), jnp.int32)
    histogram = jax.tree.map(lambda array: jax.sharding.reshard(array, EACH), histogram)
    histogram, (best, sums) = jax.lax.scan(one_each, histogram, everything)
    best = {name: jax.tree.map(_in_order, kept) for name, kept in best.items()}
    sums = jax.tree.map(lambda some: jax.sharding.reshard(_in_order(some), PartitionSpec()), sums)
    return on_shards(_merged_everywhere, in_specs=(KEPT, EACH, EACH), out_specs=KEPT)(running, histogram, best), sums


def _apart(array_B: jax.Array, shards: int) -> jax.Array:
    """[B, ...] -> [B / M, M, ...], M over `data`: each shard takes a run of sequences."""
    rest = (None,) * (array_B.ndim - 1)
    array_B = jax.sharding.reshard(array_B, PartitionSpec(DATA, *rest))
    shape = (shards, array_B.shape[0] // shards, *array_B.shape[1:])
    return jnp.reshape(array_B, shape, out_sharding=PartitionSpec(DATA, None, *rest)).swapaxes(0, 1)


def _in_order(array: jax.Array) -> jax.Array:
    """[B / M, M, ...] -> [B, ...], B over `data`: the other way."""
    rest = jax.typeof(array).sharding.spec[2:]
    shape = (array.shape[0] * array.shape[1], *array.shape[2:])
    return jnp.reshape(array.swapaxes(0, 1), shape, out_sharding=PartitionSpec(DATA, *rest))


def _one_sequence(histogram, f_MTA, fires_MTA, keep_MT, id_M, chosen_F, seed_key, *, shape: Shape):
    """On one shard of `data` and `feature`, M = 1: histograms, best examples and sums of its features."""
    f_TA, fires_TA, keep_T, id_ = f_MTA[0], fires_MTA[0], keep_MT[0], id_M[0]
    l0_T = jax.lax.psum(fires_TA.sum(1, dtype=jnp.int32), FEATURE)
    f_TF, fires_TF = f_TA[:, chosen_F], fires_TA[:, chosen_F]
    luck_T = jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(seed_key), id_), keep_T.shape)
    size_TF = jnp.abs(f_TF)  # some architectures have signed features
    # The largest of size / an exponential draw: a feature's firings in proportion to their sizes.
    ranks = {"strongest": size_TF, "drawn": size_TF / -jnp.log(luck_T)[:, None]}
    best = {name: _best(jnp.where(fires_TF, rank_TF, -1), f_TF, id_, shape) for name, rank_TF in ranks.items()}
    sums = {
        "tokens": keep_T.sum(dtype=jnp.int32),
        "l0": l0_T.sum(),
        "fired": fires_TF.sum(0, dtype=jnp.int32),
        "total": size_TF.sum(0),
        "l0_with": jnp.where(fires_TF, l0_T[:, None], 0).sum(0),
    }
    exponent_MF, histogram_MFH = histogram
    counted = _counted(exponent_MF[0], histogram_MFH[0], size_TF, fires_TF)
    return jax.tree.map(lambda array: array[None], (counted, (best, sums)))


def _merged_everywhere(running: Running, histogram, best) -> Running:
    """On one shard: what is kept, with what all shards of `data` found of its features."""
    best = jax.tree.map(lambda array: jax.lax.all_gather(array, DATA, tiled=True), best)
    exponent_F, histogram_FH = (array[0] for array in histogram)
    wider_F = jnp.maximum(running.exponent_F, jax.lax.pmax(exponent_F, DATA))
    return Running(
        strongest=merged(running.strongest, best["strongest"]),
        drawn=merged(running.drawn, best["drawn"]),
        exponent_F=wider_F,
        histogram_FH=_widened(running.exponent_F, running.histogram_FH, wider_F)
        + jax.lax.psum(_widened(exponent_F, histogram_FH, wider_F), DATA),
    )


def _best(rank_TF, f_TF, id_, shape: Shape) -> Kept:
    """The example of one sequence with the highest rank, [F] and [F, W]."""
    position_F = jnp.argmax(rank_TF, axis=0)
    places_WF = position_F[None] + jnp.arange(shape.window)[:, None]
    padded_TF = jnp.pad(f_TF, ((shape.before, shape.after), (0, 0)))
    rank_F = rank_TF.max(0)
    examples = Examples(
        value_FK=jnp.take_along_axis(f_TF, position_F[None], axis=0)[0],
        sequence_FK=jnp.where(rank_F >= 0, id_, NONE),
        position_FK=position_F.astype(jnp.int32),
        window_FKW=jnp.take_along_axis(padded_TF, places_WF, axis=0).T,
    )
    return Kept(rank_F, examples)


def merged(kept: Kept, new_BF: Kept) -> Kept:
    """The K best of those kept so far and of a batch's; among equals the earlier."""
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, jnp.moveaxis(new, 0, 1)], axis=1), kept, new_BF)
    rank_FK, best_FK = jax.lax.top_k(both.rank_FK, kept.rank_FK.shape[1])
    return Kept(rank_FK, jax.tree.map(lambda array: along(array, best_FK, jnp), both.examples))


def along(array: Any, index_FK: Any, module: Any) -> Any:
    """The examples of each feature that the index names: [F, K', ...] -> [F, K, ...]."""
    return module.take_along_axis(array, index_FK.reshape(index_FK.shape + (1,) * (array.ndim - 2)), axis=1)


def _counted(exponent_F, histogram_FH, size_TF, fires_TF) -> tuple[jax.Array, jax.Array]:
    """The histograms with the activations of one sequence, wider where one of these lies beyond."""
    reach_F = jnp.where(fires_TF.any(0), jnp.frexp(size_TF.max(0))[1], LEAST_EXPONENT)  # the largest is below 2^reach
    wider_F = jnp.maximum(exponent_F, reach_F)
    histogram_FH = _widened(exponent_F, histogram_FH, wider_F)
    width_F = jnp.ldexp(jnp.float32(1 / BINS), wider_F)  # a power of two: the division is exact
    bin_TF = jnp.clip((size_TF / width_F).astype(jnp.int32), 0, BINS - 1)
    place_TF = jnp.arange(size_TF.shape[1]) * BINS + bin_TF
    counted = histogram_FH.reshape(-1).at[place_TF].add(fires_TF.astype(jnp.int32))
    return wider_F, counted.reshape(histogram_FH.shape)


def _widened(exponent_F, histogram_FH, wider_F) -> jax.Array:
    """The histograms with bins of a larger power of two: neighbours joined."""
    below_FH = jnp.pad(jnp.cumsum(histogram_FH, axis=1), ((0, 0), (1, 0)))
    joined_F = 1 << jnp.minimum(wider_F - exponent_F, BINS.bit_length() - 1)  # old bins in each new one
    edges_FH = jnp.minimum(jnp.arange(BINS + 1)[None] * joined_F[:, None], BINS)
    return jnp.diff(jnp.take_along_axis(below_FH, edges_FH, axis=1), axis=1)
