"""Judges autoencoders on held-out tokens, by their reconstructions and by what the language model makes of them.

The convention (a "splice"): positions that the token store masks (BOS, EOS, padding, position 0) keep the original
activation in every pass, zero ablation included, and count in no metric of the reconstruction. All targets that are not
padding are scored. Cross-entropies are means first; loss recovered is a ratio of their differences.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from gsae.evaluation.batches import Batch, batches, choose_sequences
from gsae.evaluation.bootstrap import loss_recovered, loss_recovered_standard_error
from gsae.evaluation.members import Member, check_names, check_width, placed_runs
from gsae.evaluation.metrics import Sums, mean_of, reconstruct
from gsae.evaluation.places import Places, default_mesh
from gsae.evaluation.splice import prefix, score, spliced_stream
from gsae.language_models.loading import LanguageModel
from gsae.language_models.placement import Placement, place, place_together
from gsae.language_models.sites import Site
from gsae.mesh import in_turn
from gsae.text.tokens import TokenStore

ZERO_CONVENTIONS = ("masked", "all_positions")
SMALL_DENOMINATOR = 0.1  # nats; below it loss recovered divides by next to nothing


@dataclass(frozen=True)
class Evaluation:
    """What came of a member: numbers by name (`evaluate` lists them), and of each feature, [F], two more.

    Attributes:
        density: share of tokens on which it fires.
        strength: mean of |f| where it fires; nan where it never does.
        norms: with `error_bound`, the norms of activation and code of every token, [N, 2] (`metrics.Sums.norms_N2`).
    """

    name: str
    site: str
    metrics: dict[str, float]
    density: np.ndarray
    strength: np.ndarray
    norms: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))


def evaluate(
    language_model: LanguageModel,
    token_store: TokenStore,
    members: Sequence[Member],
    *,
    tokens: int,
    batch_size: int,
    mesh: Mesh | None = None,
    skip_tokens: int = 0,
    zero_convention: str = "masked",
    bootstrap_samples: int = 200,
    error_bound: bool = False,
    seed: int = 0,
    progress: bool = True,
    skip: Collection[str] = (),
    on_result: Callable[[Evaluation], None] | None = None,
) -> list[Evaluation]:
    """Evaluates members on the same held-out tokens. With few tokens it is the quick look while training.

    Metrics: those of `metrics.Sums.metrics`, and, in nats a token, ce_clean, ce_spliced, ce_zero, ce_difference
    (spliced minus clean), ce_denominator (zero minus clean), kl (clean || spliced); loss_recovered and its bootstrap
    standard error over documents loss_recovered_se (nan if there are fewer than two of either); targets (how many
    predictions were scored) and documents (of how many documents).

    Args:
        language_model: the one whose activations the members were trained on.
        token_store: held-out text.
        members: in any order; those of one site share its passes.
        tokens: how many tokens that count to use, rounded up to whole sequences; 0, or more than there are, for all.
            The sequences are drawn at random, and fewer tokens are always a part of more.
        batch_size: sequences at once, rounded up so that all devices have as many. Results do not depend on it.
        mesh: with the axes of `gsae.mesh`, on whose devices this happens, in all their processes at once: sequences
            over all of them, features over its axis `feature`. None: where the language model is, autoencoders whole.
        skip_tokens: so many tokens that count are passed over first: for choices that must not see what they lead to.
        zero_convention: "masked": zeros where the reconstructions would be. "all_positions": zeros at every position,
            as SAELens does, for comparison.
        bootstrap_samples: fewer than 2 for no standard error.
        error_bound: whether the metric of this name is measured, and norms are kept.
        seed: of the choice of sequences and of the bootstrap.
        progress: draws a progress bar.
        skip: names of members that need no evaluation (they have been evaluated before).
        on_result: called with each evaluation when it is finished, at most `members.AT_ONCE` together.

    Returns:
        The evaluations of the members that were not skipped, in their order.

    Raises:
        SettingError: when `skip_tokens` leaves nothing.
        ValueError: for an unknown convention, a site that the model does not have, an autoencoder of another width, or
            members of the same name.
    """
    if zero_convention not in ZERO_CONVENTIONS:
        raise ValueError(f"zero_convention = {zero_convention!r}: must be one of {', '.join(ZERO_CONVENTIONS)}")
    pending = [member for member in members if member.name not in skip]
    check_members(language_model, pending)
    sequences = choose_sequences(token_store, tokens, seed, skip_tokens)
    results: dict[str, Evaluation] = {}
    places, placement = places_on(language_model.model, mesh)
    graph, _ = nnx.split(language_model.model)
    batch_size = _rounded(batch_size, places.parts, len(sequences), progress)
    total = len(pending) * len(sequences) * token_store.context_length
    quiet = not progress or jax.process_index() > 0
    with tqdm(total=total, unit="token", unit_scale=True, desc="evaluate", disable=quiet) as bar:
        for site, run in placed_runs(pending, places, lambda site: _width(language_model, site)):
            at = Site.parse(site)
            arms = _Arms(graph, placement, places, at, run, zero_convention, token_store.num_documents, error_bound)
            for batch in batches(token_store, sequences, batch_size):
                arms.dispatch(batch)
                bar.update(int((batch.documents_BT >= 0).any(1).sum()) * token_store.context_length * len(run))
            for evaluation in arms.finish(bootstrap_samples, seed):
                results[evaluation.name] = evaluation
                if on_result is not None:
                    on_result(evaluation)
            del arms, run  # their weights, before the next ones come
    return [results[member.name] for member in pending]


class _Arms:
    """All passes of one site: clean, zero, and one for each member. Sums are read one batch behind the device."""

    def __init__(
        self,
        graph: Any,
        placement: Placement,
        places: Places,
        site: Site,
        members: Sequence[tuple[str, Any]],
        zero_convention: str,
        documents: int,
        norms: bool,
    ):
        self.graph, self.state, self.places, self.site = graph, placement.parameters, places, site
        self.zero_everywhere = zero_convention == "all_positions"
        self.norms = norms
        self.members = members  # names, and autoencoders on the mesh
        self._start = in_turn(self._programs)  # rows may be made on the same devices meanwhile
        self.cross_entropy_AD = np.zeros((len(members) + 2, documents))
        self.targets_D = np.zeros(documents, np.int64)
        self.divergence_A = np.zeros(len(members) + 2)
        self.sums: list[Sums] = []
        self.pending: tuple | None = None

    def dispatch(self, batch: Batch) -> None:
        """Starts the programs of a batch, then adds up what the batch before gave."""
        sums, scores = self._start(batch)
        self._collect()
        self.pending = (batch, sums, scores)

    def _programs(self, batch: Batch) -> tuple[list[dict[str, jax.Array]], tuple[jax.Array, jax.Array]]:
        """Starts the programs of a batch: what they will give is whole on every device."""
        places, how = self.places, {"graph": self.graph, "site": self.site}
        tokens_BT, keep_BT = places.feed(batch.tokens_BT), places.feed(batch.keep_BT)
        with jax.set_mesh(places.automatic):
            before = prefix(self.state, tokens_BT, **how)
            original_BTW = before.original_BTW.astype(jnp.promote_types(before.original_BTW.dtype, jnp.float32))
            zero_BTW = jnp.zeros_like(original_BTW)
            zero_BT = jnp.ones_like(keep_BT) if self.zero_everywhere else keep_BT
        x_BTW, counts_BT = places.to_autoencoders(original_BTW), places.to_autoencoders(keep_BT)
        with jax.set_mesh(places.mesh):
            if not self.sums:
                self.shift_D = mean_of(x_BTW, counts_BT)
                self.sums = [Sums(np.asarray(self.shift_D)) for _ in self.members]
            made = [
                places.finished(reconstruct(autoencoder, x_BTW, counts_BT, self.shift_D, norms=self.norms))
                for _, autoencoder in self.members
            ]
        arms = [(original_BTW, keep_BT), (zero_BTW, zero_BT)]
        arms += [(places.to_language_model(x_hat_BTW), keep_BT) for x_hat_BTW, _ in made]
        with jax.set_mesh(places.automatic):
            streams = tuple(spliced_stream(self.state, before, *arm, **how) for arm in arms)
            scores = score(self.state, streams, tokens_BT, graph=self.graph)
        return [sums for _, sums in made], scores

    def _collect(self) -> None:
        if self.pending is None:
            return
        batch, sums, (cross_entropy_ABP, divergence_ABP) = self.pending
        for total, some in zip(self.sums, sums, strict=True):
            total.add(jax.device_get(some))
        documents_BP = batch.documents_BT[:, 1:]
        scored_BP = documents_BP >= 0
        documents = documents_BP[scored_BP]
        self.targets_D += np.bincount(documents, minlength=len(self.targets_D))
        self.divergence_A += np.asarray(divergence_ABP, np.float64)[:, scored_BP].sum(1)
        for total_D, values_BP in zip(self.cross_entropy_AD, np.asarray(cross_entropy_ABP, np.float64), strict=True):
            total_D += np.bincount(documents, weights=values_BP[scored_BP], minlength=len(total_D))
        self.pending = None

    def finish(self, bootstrap_samples: int, seed: int) -> Iterator[Evaluation]:
        """The evaluations, once all batches have been dispatched."""
        self._collect()
        seen_D = self.targets_D > 0
        clean_D, zero_D, *spliced_AD = self.cross_entropy_AD[:, seen_D]
        targets = int(self.targets_D.sum())
        clean, zero = clean_D.sum() / targets, zero_D.sum() / targets
        if zero - clean < SMALL_DENOMINATOR:
            logging.getLogger(__name__).warning(
                "%s: zero ablation costs only %.4f nats, so loss recovered divides by next to nothing; "
                "look at the differences in nats instead", self.site, zero - clean
            )  # fmt: skip
        for (name, _), sums, spliced_D, divergence in zip(
            self.members, self.sums, spliced_AD, self.divergence_A[2:], strict=True
        ):
            spliced = spliced_D.sum() / targets
            metrics = sums.metrics() | {
                "loss_recovered": loss_recovered(clean, spliced, zero),
                "loss_recovered_se": loss_recovered_standard_error(
                    clean_D, spliced_D, zero_D, samples=bootstrap_samples, seed=seed
                ),
                "ce_clean": clean,
                "ce_spliced": spliced,
                "ce_zero": zero,
                "ce_difference": spliced - clean,
                "ce_denominator": zero - clean,
                "kl": divergence / targets,
                "targets": targets,
                "documents": int(seen_D.sum()),
            }
            metrics = {name: float(value) for name, value in metrics.items()}
            norms, strength = sums.norms_N2, sums.strength_F
            yield Evaluation(name, str(self.site), metrics, sums.density_F, strength, norms)


def places_on(model: Any, mesh: Mesh | None) -> tuple[Places, Placement]:
    """Where the evaluation happens; without a mesh of a run, where the language model is split, else on one device."""
    if mesh is None:
        placement = place(model)
        mesh = default_mesh(list(placement.mesh.devices.flat))
    else:
        placement = place_together(model, list(mesh.devices.flat))
    return Places.of(mesh, placement), placement


def rounded_up(batch_size: int, parts: int) -> int:
    """The next multiple of `parts`."""
    return -(-batch_size // parts) * parts


def _rounded(batch_size: int, parts: int, sequences: int, say: bool) -> int:
    """Sequences at once, as many on every device; says what of the last batch is there only for that."""
    rounded = rounded_up(batch_size, parts)
    if say and rounded > batch_size and jax.process_index() == 0:
        idle = 1 - sequences / (-(-sequences // rounded) * rounded)
        print(
            f"evaluate: {rounded} sequences at once instead of {batch_size}, as many on each of {parts} devices; "
            f"{idle:.0%} of the rows fill up the last batch"
        )
    return rounded


def _width(language_model: LanguageModel, site: str) -> int:
    return language_model.model.site_width(Site.parse(site).name)


def check_members(language_model: LanguageModel, members: Sequence[Member]) -> None:
    """Refuses members of one name, at sites that the model does not have, or of another width (ValueError)."""
    check_names(members)
    layers = language_model.model.settings.num_layers
    for member in members:
        site = Site.parse(member.site)
        if site.layer >= layers:
            raise ValueError(f"{member.name}: site {site} is not in the model, whose layers are 0 to {layers - 1}")
        check_width(member, member.autoencoder, _width(language_model, member.site))
