"""What every feature of an autoencoder does on held-out text, in one pass: where it fires, how often, how strongly.

For each feature: its strongest examples, examples drawn at random from all of its firings, a histogram of its
activations, and sums. All of it is updated sequence by sequence in memory that does not grow with the text, and follows
from the order of the sequences alone: how many are computed at once changes nothing.

A feature has at most one strongest and at most one drawn example in a sequence, so that examples show different texts.
Drawing gives every token a random number that is its own (by sequence and position), and keeps the firings with the
greatest: firings in random order, those passed over that stand in a sequence which already has one.

Histograms have bins of equal width from 0 to the first power of two above a feature's largest activation. When a larger
one comes, neighbouring bins are joined, which is exact: bins of one power of two lie inside those of the next.

Axes: B sequences, T positions, D site width, A all features, F those that are looked at, K examples, W positions of an
example's window, H bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from gsae.evaluation.batches import Batch, batches
from gsae.evaluation.evaluate import check_members
from gsae.evaluation.members import Member
from gsae.evaluation.observed import NONE, Examples, Observed, Shape
from gsae.evaluation.splice import prefix
from gsae.language_models.loading import LanguageModel
from gsae.language_models.placement import place
from gsae.language_models.sites import Site
from gsae.text.tokens import TokenStore

SHAPE = Shape()
BINS = 64  # a power of two; 33 to 64 of them lie below the largest activation
AT_ONCE = 8  # members that share passes; each keeps 7 kB a feature with the shape below
LEAST_EXPONENT = -100  # of a feature that never fired: the width of its bins is still a normal float32


def observe(
    language_model: LanguageModel,
    token_store: TokenStore,
    members: Sequence[Member],
    sequences: np.ndarray,
    *,
    features: Mapping[str, np.ndarray],
    batch_size: int,
    shape: Shape = SHAPE,
    seed: int = 0,
    progress: bool = True,
) -> list[Observed]:
    """Looks at features of members on the given sequences.

    Args:
        language_model: the one whose activations the members were trained on.
        token_store: the text; only positions of its mask count.
        members: in any order; those of one site share its passes.
        sequences: which of the store's, each once; their order decides between equal activations.
        features: by member's name, the indices of the features to look at.
        batch_size: sequences in one pass. Results do not depend on it.
        shape: how much to keep.
        seed: of the drawn examples.
        progress: draws a progress bar.

    Returns:
        In the order of the members.

    Raises:
        ValueError: for members of one name, a site that the model does not have, or an autoencoder of another width.
    """
    check_members(language_model, members)
    placement, (graph, _) = place(language_model.model), nnx.split(language_model.model)
    found: dict[str, Observed] = {}
    total = len(members) * len(sequences) * token_store.context_length
    bar = tqdm(total=total, unit="token", unit_scale=True, desc="features", disable=not progress)
    with bar, jax.set_mesh(placement.mesh):
        for site, run in _runs(members):
            watched = [_Watched(member, features[member.name], shape, seed) for member in run]
            for start, batch in zip(
                range(0, len(sequences), batch_size), batches(token_store, sequences, batch_size), strict=True
            ):
                before = prefix(placement.parameters, jnp.asarray(batch.tokens_BT), graph=graph, site=site)
                ids_B = np.pad(sequences[start : start + batch_size], (0, batch_size), constant_values=0)[:batch_size]
                for one in watched:
                    one.dispatch(before.original_BTW, batch, ids_B.astype(np.int32))
                bar.update(len(sequences[start : start + batch_size]) * token_store.context_length * len(run))
            found |= {one.member.name: one.finish() for one in watched}
    return [found[member.name] for member in members]


def _runs(members: Sequence[Member]) -> Iterator[tuple[Site, list[Member]]]:
    """Members of one site, which share its passes, AT_ONCE at most."""
    for site in dict.fromkeys(member.site for member in members):
        here = [member for member in members if member.site == site]
        for start in range(0, len(here), AT_ONCE):
            yield Site.parse(site), here[start : start + AT_ONCE]


@flax.struct.dataclass
class _Kept:
    rank_FK: jax.Array  # what the examples are ordered by; below zero where there is none
    examples: Examples


@flax.struct.dataclass
class _Running:
    strongest: _Kept
    drawn: _Kept
    exponent_F: jax.Array  # histograms end at 2^exponent
    histogram_FH: jax.Array


class _Watched:
    """One member on its way through the text. Sums are read one batch behind the device."""

    def __init__(self, member: Member, features: np.ndarray, shape: Shape, seed: int):
        self.member, self.shape, self.key = member, shape, jax.random.key(seed)
        given = member.autoencoder() if callable(member.autoencoder) else member.autoencoder
        self.autoencoder = jax.tree.map(jnp.asarray, jax.device_get(given))
        self.features_F = np.asarray(features, np.int32)
        count = len(self.features_F)
        self.running = _Running(
            strongest=_nothing_kept(count, shape.strongest, shape.window),
            drawn=_nothing_kept(count, shape.drawn, shape.window),
            exponent_F=jnp.full(count, LEAST_EXPONENT, jnp.int32),
            histogram_FH=jnp.zeros((count, BINS), jnp.int32),
        )
        self.sums: dict[str, Any] = {}
        self.pending: Mapping[str, jax.Array] | None = None

    def dispatch(self, x_BTD: jax.Array, batch: Batch, ids_B: np.ndarray) -> None:
        """Starts the program of a batch, then adds up the sums of the batch before."""
        self.running, sums = _look(
            self.running, self.autoencoder, self.features_F, x_BTD, batch.keep_BT, ids_B, self.key, shape=self.shape
        )
        self._collect()
        self.pending = sums

    def _collect(self) -> None:
        for name, value in jax.device_get(self.pending or {}).items():
            wide = value.astype(np.int64 if np.issubdtype(value.dtype, np.integer) else np.float64)
            for of_sequence in wide:  # one after the other, so that the order of float sums is always the same
                self.sums[name] = self.sums.get(name, 0) + of_sequence
        self.pending = None

    def finish(self) -> Observed:
        """What came of it, once all batches have been dispatched."""
        self._collect()
        running, sums = jax.device_get(self.running), self.sums
        fired_F, tokens = sums["fired"], int(sums["tokens"])
        drawn = running.drawn.examples
        by_value_FK = np.argsort(-drawn.value_FK, axis=1, kind="stable")
        return Observed(
            name=self.member.name,
            site=self.member.site,
            shape=self.shape,
            features_F=self.features_F,
            tokens=tokens,
            l0=float(sums["l0"] / max(tokens, 1)),
            fired_F=fired_F,
            total_F=sums["total"],
            l0_with_F=np.where(fired_F > 0, sums["l0_with"] / np.maximum(fired_F, 1), np.nan),
            histogram_FH=running.histogram_FH.astype(np.int64),
            bin_width_F=np.ldexp(1.0 / BINS, running.exponent_F),
            strongest=running.strongest.examples,
            drawn=jax.tree.map(lambda array: _along(array, by_value_FK, np), drawn),
        )


def _nothing_kept(features: int, examples: int, window: int) -> _Kept:
    def filled(value: float, dtype: Any) -> jax.Array:
        return jnp.full((features, examples), value, dtype)

    return _Kept(
        rank_FK=filled(-1, jnp.float32),
        examples=Examples(
            value_FK=filled(0, jnp.float32),
            sequence_FK=filled(NONE, jnp.int32),
            position_FK=filled(0, jnp.int32),
            window_FKW=jnp.zeros((features, examples, window), jnp.float32),
        ),
    )


@partial(jax.jit, static_argnames="shape", donate_argnums=0)
def _look(running: _Running, autoencoder, features_F, x_BTD, keep_BT, ids_B, key, *, shape: Shape):
    """Adds the sequences of a batch, one after the other; gives the sums of each beside it, [B] or [B, F]."""

    def one_sequence(histogram, inputs):
        x_TD, keep_T, id_ = inputs
        x_TD = x_TD.astype(jnp.promote_types(x_TD.dtype, jnp.float32))
        with jax.default_matmul_precision("highest"):  # accelerators round the operands by default
            f_TA = autoencoder.encode(x_TD)
        fires_TA = autoencoder.active(f_TA) & jnp.isfinite(f_TA) & keep_T[:, None]
        f_TF = jnp.where(fires_TA, f_TA, 0).astype(jnp.float32)
        fires_TF, l0_T = fires_TA, fires_TA.sum(1, dtype=jnp.int32)
        if features_F.shape[0] < f_TA.shape[1]:
            f_TF, fires_TF = f_TF[:, features_F], fires_TA[:, features_F]
        luck_T = jax.random.uniform(jax.random.fold_in(key, id_), keep_T.shape)
        ranks = {"strongest": f_TF, "drawn": jnp.broadcast_to(luck_T[:, None], f_TF.shape)}
        best = {name: _best(jnp.where(fires_TF, rank_TF, -1), f_TF, id_, shape) for name, rank_TF in ranks.items()}
        sums = {
            "tokens": keep_T.sum(dtype=jnp.int32),
            "l0": l0_T.sum(),
            "fired": fires_TF.sum(0, dtype=jnp.int32),
            "total": f_TF.sum(0),
            "l0_with": jnp.where(fires_TF, l0_T[:, None], 0).sum(0),
        }
        exponent_F, histogram_FH = histogram
        return _counted(exponent_F, histogram_FH, f_TF, sums["fired"]), (best, sums)

    histogram = (running.exponent_F, running.histogram_FH)
    (exponent_F, histogram_FH), (best, sums) = jax.lax.scan(one_sequence, histogram, (x_BTD, keep_BT, ids_B))
    running = _Running(
        strongest=_merged(running.strongest, best["strongest"]),
        drawn=_merged(running.drawn, best["drawn"]),
        exponent_F=exponent_F,
        histogram_FH=histogram_FH,
    )
    return running, sums


def _best(rank_TF, f_TF, id_, shape: Shape) -> _Kept:
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
    return _Kept(rank_F, examples)


def _merged(kept: _Kept, new_BF: _Kept) -> _Kept:
    """The K best of those kept so far and of a batch's; among equals the earlier."""
    both = jax.tree.map(lambda old, new: jnp.concatenate([old, jnp.moveaxis(new, 0, 1)], axis=1), kept, new_BF)
    rank_FK, best_FK = jax.lax.top_k(both.rank_FK, kept.rank_FK.shape[1])
    return _Kept(rank_FK, jax.tree.map(lambda array: _along(array, best_FK, jnp), both.examples))


def _along(array: Any, index_FK: Any, module: Any) -> Any:
    """The examples of each feature that the index names: [F, K', ...] -> [F, K, ...]."""
    return module.take_along_axis(array, index_FK.reshape(index_FK.shape + (1,) * (array.ndim - 2)), axis=1)


def _counted(exponent_F, histogram_FH, f_TF, fired_F) -> tuple[jax.Array, jax.Array]:
    """The histograms with the activations of one sequence, wider where one of these lies beyond."""
    reach_F = jnp.where(fired_F > 0, jnp.frexp(f_TF.max(0))[1], LEAST_EXPONENT)  # the largest is below 2^reach
    wider_F = jnp.maximum(exponent_F, reach_F)
    below_FH = jnp.pad(jnp.cumsum(histogram_FH, axis=1), ((0, 0), (1, 0)))
    joined_F = 1 << jnp.minimum(wider_F - exponent_F, BINS.bit_length() - 1)  # old bins in each new one
    edges_FH = jnp.minimum(jnp.arange(BINS + 1)[None] * joined_F[:, None], BINS)
    histogram_FH = jnp.diff(jnp.take_along_axis(below_FH, edges_FH, axis=1), axis=1)
    width_F = jnp.ldexp(jnp.float32(1 / BINS), wider_F)  # a power of two: the division is exact
    bin_TF = jnp.clip((f_TF / width_F).astype(jnp.int32), 0, BINS - 1)
    place_TF = jnp.arange(f_TF.shape[1]) * BINS + bin_TF
    counted = histogram_FH.reshape(-1).at[place_TF].add((f_TF > 0).astype(jnp.int32))
    return wider_F, counted.reshape(histogram_FH.shape)
