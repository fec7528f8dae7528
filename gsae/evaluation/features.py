"""What every feature of an autoencoder does on held-out text, in one pass: where it fires, how often, how strongly.

For each feature: its strongest examples, examples drawn at random from all of its firings, a histogram of its
activations, and sums. Where features fire with both signs, strong and weak are meant by size. All of it is updated
sequence by sequence in memory that does not grow with the text, and follows from the order of the sequences alone: how
many are computed at once changes nothing.

A feature has at most one strongest and at most one drawn example in a sequence, so that examples show different texts.
Drawing divides each activation by an exponential random number of its token's own (by sequence and position) and keeps
the firings with the greatest: a firing is drawn in proportion to its activation, because of firings drawn alike hardly
any would be strong; those are passed over that stand in a sequence which already has one.

Histograms have bins of equal width from 0 to the first power of two above a feature's largest activation. When a larger
one comes, neighbouring bins are joined, which is exact: bins of one power of two lie inside those of the next.

The features are split over the devices of a mesh, as in training, and none of them holds a whole dictionary.

Axes: B sequences, T positions, D site width, F features that are looked at, K examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from gsae.evaluation.batches import Batch, batches
from gsae.evaluation.evaluate import check_members, places_on, rounded_up
from gsae.evaluation.feature_programs import BINS, KEPT, along, look, nothing_seen, shares
from gsae.evaluation.members import Member, check_width
from gsae.evaluation.observed import Observed, Shape
from gsae.evaluation.places import Places
from gsae.evaluation.splice import prefix
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site
from gsae.mesh import FEATURE, fetch
from gsae.text.tokens import TokenStore

SHAPE = Shape()
AT_ONCE = 8  # members that share passes; each keeps 7 kB a feature with the shape below


def observe(
    language_model: LanguageModel,
    token_store: TokenStore,
    members: Sequence[Member],
    sequences: np.ndarray,
    *,
    features: Mapping[str, np.ndarray],
    batch_size: int,
    mesh: Mesh | None = None,
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
        batch_size: sequences in one pass, rounded up so that all devices have as many. Results do not depend on it.
        mesh: with the axes of `gsae.mesh`, on whose devices this happens, in all their processes at once: sequences
            over all of them, features over its axis `feature`. None: where the language model is, autoencoders whole.
        shape: how much to keep.
        seed: of the drawn examples.
        progress: draws a progress bar.

    Returns:
        In the order of the members.

    Raises:
        ValueError: for members of one name, a site that the model does not have, or an autoencoder of another width.
    """
    check_members(language_model, members)
    (places, placement), (graph, _) = places_on(language_model.model, mesh), nnx.split(language_model.model)
    batch_size = rounded_up(batch_size, places.parts)
    found: dict[str, Observed] = {}
    total = len(members) * len(sequences) * token_store.context_length
    quiet = not progress or jax.process_index() > 0
    with tqdm(total=total, unit="token", unit_scale=True, desc="features", disable=quiet) as bar:
        for site, run in _runs(members):
            width = language_model.model.site_width(site.name)
            watched = [_Watched(member, width, features[member.name], places, shape, seed) for member in run]
            for start, batch in zip(
                range(0, len(sequences), batch_size), batches(token_store, sequences, batch_size), strict=True
            ):
                with jax.set_mesh(places.automatic):
                    tokens_BT = places.feed(batch.tokens_BT)
                    before = prefix(placement.parameters, tokens_BT, graph=graph, site=site)
                x_BTD = places.to_autoencoders(before.original_BTW)
                ids_B = np.pad(sequences[start : start + batch_size], (0, batch_size))[:batch_size].astype(np.int32)
                for one in watched:
                    one.dispatch(x_BTD, batch, ids_B)
                bar.update(len(sequences[start : start + batch_size]) * token_store.context_length * len(run))
            found |= {one.member.name: one.finish() for one in watched}
    return [found[member.name] for member in members]


def _runs(members: Sequence[Member]) -> Iterator[tuple[Site, list[Member]]]:
    """Members of one site, which share its passes, AT_ONCE at most."""
    for site in dict.fromkeys(member.site for member in members):
        here = [member for member in members if member.site == site]
        for start in range(0, len(here), AT_ONCE):
            yield Site.parse(site), here[start : start + AT_ONCE]


class _Watched:
    """One member on its way through the text. Sums are read one batch behind the device."""

    def __init__(self, member: Member, width: int, features: np.ndarray, places: Places, shape: Shape, seed: int):
        self.member, self.places, self.shape = member, places, shape
        self.seed_key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        given = member.autoencoder() if callable(member.autoencoder) else member.autoencoder
        check_width(member, given, width)
        self.autoencoder = places.autoencoder(given)
        self.features_F = np.asarray(features, np.int32)
        chosen_F, self.place_F = shares(self.features_F, given.W_dec.shape[0], places.mesh.shape[FEATURE])
        self.chosen_F = places.put(chosen_F, KEPT)
        self.running = jax.tree.map(lambda array: places.put(array, KEPT), nothing_seen(len(chosen_F), shape))
        self.sums: dict[str, Any] = {}
        self.pending: Mapping[str, jax.Array] | None = None

    def dispatch(self, x_BTD: jax.Array, batch: Batch, ids_B: np.ndarray) -> None:
        """Starts the program of a batch, then adds up the sums of the batch before."""
        places = self.places
        counts_BT, numbers_B = (places.to_autoencoders(places.feed(array)) for array in (batch.keep_BT, ids_B))
        with jax.set_mesh(places.mesh):
            self.running, sums = places.finished(
                look(
                    self.running, self.autoencoder, self.chosen_F, x_BTD, counts_BT, numbers_B,
                    self.seed_key, shape=self.shape,
                )
            )  # fmt: skip
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
        running = jax.tree.map(lambda array: fetch(array)[self.place_F], self.running)
        sums = {name: value[self.place_F] if np.ndim(value) else value for name, value in self.sums.items()}
        fired_F, tokens = sums["fired"], int(sums["tokens"])
        drawn = running.drawn.examples
        by_value_FK = np.argsort(-np.abs(drawn.value_FK), axis=1, kind="stable")
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
            drawn=jax.tree.map(lambda array: along(array, by_value_FK, np), drawn),
        )
