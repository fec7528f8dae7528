"""Dead features: drawing inputs that are badly reconstructed, and reviving dead features as those inputs' directions.

As Bricken et al. (Towards Monosemanticity, 2023, appendix on neuron resampling), with what the Gated SAE paper
(2404.16014) adds, and three departures that measured better: directions are x - b_dec, not x, which come out alike
where the mean dominates; second moments of what is reset are the living entries' median, not zero; and no event is
allowed in the last quarter of a run.

These are programs of their own, called by the loop at a few steps, not branches of the step.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.durations import duration_in_steps
from gsae.errors import SettingError
from gsae.training.groups import Group
from gsae.training.members import over_members, place_members
from gsae.training.optimizer import reset_second_moments
from gsae.training.step import RESAMPLING, GroupState, Leaf, StepSettings, state_shardings

ENCODER_SCALE = 0.2  # of the mean norm of the living encoder vectors (Bricken et al.)
# Features revived at most in one event and member, the larger of the two. As many inputs of D numbers are held for each
# member and data shard; enough for all features (Bricken et al. revive all that are dead) would be another decoder.
SHARE_REVIVED, FEWEST_REVIVED = 1 / 32, 1024
LAST_QUARTER = 0.75  # of the run; what is revived later does not have the time to settle

Resample = Callable[[GroupState, Iterable[jax.Array], int], tuple[GroupState, dict[str, jax.Array]]]


@flax.struct.dataclass
class Candidates:
    """The best inputs so far, per member and per shard of the data axis, best first.

    Attributes:
        score: float32 [S, data, R]; minus infinity where there is none yet.
        rows_RD: float32 [S, data, R, D], x - b_dec of the scaled inputs.
    """

    score: Leaf
    rows_RD: Leaf


def event_steps(
    events: Sequence[str], *, total_steps: int, batch_size: int, setting: str = "config.training.resampling.events"
) -> tuple[int, ...]:
    """The steps before which features are resampled, ascending, from durations since the start of the run.

    Raises:
        SettingError: for an event at the start, or in the last quarter of the run.
    """
    steps = []
    for event in events:
        step = duration_in_steps(event, total_steps=total_steps, batch_size=batch_size, setting=setting)
        if not 0 < step <= LAST_QUARTER * total_steps:
            last = int(LAST_QUARTER * total_steps)
            raise SettingError(setting, event, f"must be between step 1 and {last}, not in the run's last quarter")
        steps.append(step)
    return tuple(sorted(set(steps)))


class ResamplingPrograms(NamedTuple):
    """The jitted parts of the resampling of a group.

    Attributes:
        start: activation width -> no candidates yet.
        score: (candidates, state, x_BD, step, index of the batch) -> candidates; those given are consumed.
        revive: (state, candidates, step) -> (state, counts); the state given is consumed.
    """

    start: jax.stages.Wrapped
    score: jax.stages.Wrapped
    revive: jax.stages.Wrapped


def make_resampling(group: Group, settings: StepSettings, mesh: Mesh, *, max_revived: int | None = None) -> Resample:
    """The resampling of a group: (state, batches, step) -> (state, counts). The given state is consumed.

    Args:
        group, settings, mesh: as for `make_step`.
        max_revived: R, features revived at most in one event and member; further dead ones wait for the next event. R
            candidates of D numbers are held per member and data shard. None: a 32nd of the features, or 1024.

    Returns:
        A function, to be called before the update of `step`, with the inputs to score as any number of batches [B, D]
        in the store's dtype (those of the coming steps, say). `counts` are int32 [S]: `dead`, and `revived`.
    """
    programs = resampling_programs(group, settings, mesh, max_revived=max_revived)
    score, revive = axes.in_turn(programs.score), axes.in_turn(programs.revive)

    def resample(state, batches, step):
        candidates = None
        for index, x_BD in enumerate(batches):
            candidates = programs.start(x_BD.shape[-1]) if candidates is None else candidates
            candidates = score(candidates, state, x_BD, jnp.int32(step), jnp.int32(index))
        if candidates is None:
            raise ValueError("resampling needs at least one batch of inputs to draw from")
        return revive(state, candidates, jnp.int32(step))

    return resample


def resampling_programs(
    group: Group, settings: StepSettings, mesh: Mesh, *, max_revived: int | None = None
) -> ResamplingPrograms:
    """What `make_resampling` calls, and what a test looks into; the same arguments."""
    most = max(int(SHARE_REVIVED * group.width), FEWEST_REVIVED) if max_revived is None else max_revived
    shards, rows = mesh.shape[axes.DATA], min(most, group.width)
    shardings = state_shardings(group, mesh)
    candidate_shardings = Candidates(
        score=NamedSharding(mesh, PartitionSpec(axes.SWEEP, axes.DATA)),
        rows_RD=NamedSharding(mesh, PartitionSpec(axes.SWEEP, axes.DATA)),
    )

    def none_yet(activation_width: int) -> Candidates:
        score = jnp.full((group.size, shards, rows), -jnp.inf, jnp.float32)
        return Candidates(score=score, rows_RD=jnp.zeros((*score.shape, activation_width), jnp.float32))

    def score(
        candidates: Candidates, state: GroupState, x_BD: jax.Array, step: jax.Array, index: jax.Array
    ) -> Candidates:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            x_BD = jax.sharding.reshard(x_BD, PartitionSpec(axes.DATA, None)).astype(jnp.float32) * settings.input_scale
            key = jax.random.fold_in(jax.random.key(settings.seed), RESAMPLING)
            key = jax.random.fold_in(jax.random.fold_in(key, step), index)

            def add(candidates, own):
                member, seed = own
                return score_member(candidates, member, x_BD, jax.random.fold_in(key, seed)), ()

            seeds = place_members(group.values("seed", np.uint32))
            return over_members(add, candidates, (state, seeds), mesh)[0]

    def revive(state: GroupState, candidates: Candidates, step: jax.Array) -> tuple[GroupState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):

            def update(member, candidates):
                return revive_member(member, candidates, step, settings.dead_window_steps, mesh)

            return over_members(update, state, candidates, mesh)

    return ResamplingPrograms(
        start=jax.jit(none_yet, static_argnums=0, out_shardings=candidate_shardings),
        score=jax.jit(score, donate_argnums=0, out_shardings=candidate_shardings),
        revive=jax.jit(revive, donate_argnums=0, out_shardings=(shardings, None)),
    )


def score_member(candidates: Candidates, member: GroupState, x_BD: jax.Array, key: jax.Array) -> Candidates:
    """Adds a batch to one member's candidates: inputs drawn without replacement, with probability ~ squared loss.

    The R largest of 2 log(loss) + Gumbel noise are such a draw, and the noise of an input depends only on the key and
    its place in the batch, so batches and shards can be merged in any order.

    Args:
        candidates: score [data, R] and rows [data, R, D].
        member: its state, without the axis S.
        x_BD: scaled inputs, float32, rows over `data`.
        key: of this event, batch and member.
    """
    autoencoder = member.autoencoder
    error_BD = x_BD - autoencoder.decode(autoencoder.encode(x_BD))
    loss_B = jnp.sum(jnp.square(error_BD), axis=-1)
    rows_BD = x_BD - autoencoder.b_dec
    noise_B = jax.sharding.reshard(jax.random.gumbel(key, loss_B.shape), PartitionSpec(axes.DATA))
    score_B = 2 * jnp.log(loss_B) + noise_B
    usable_B = jnp.isfinite(score_B) & jnp.any(rows_BD != 0, axis=-1)
    score_B = jnp.where(usable_B, score_B, -jnp.inf)

    shards, keep = candidates.score.shape
    score = jnp.reshape(score_B, (shards, -1), out_sharding=PartitionSpec(axes.DATA, None))
    rows = jnp.reshape(
        rows_BD, (shards, score.shape[1], rows_BD.shape[1]), out_sharding=PartitionSpec(axes.DATA, None, None)
    )

    def merge(old: Candidates, score: jax.Array, rows: jax.Array) -> Candidates:
        score, where = _largest(jnp.concatenate([old.score, score]), keep)
        return Candidates(score=score, rows_RD=jnp.concatenate([old.rows_RD, rows])[where])

    return jax.vmap(merge, spmd_axis_name=axes.DATA)(candidates, score, rows)


def revive_member(
    member: GroupState, candidates: Candidates, step: jax.Array, window: int, mesh: Mesh
) -> tuple[GroupState, dict[str, jax.Array]]:
    """Revives the dead features of one member: dead feature of rank r takes candidate r, those without one wait.

    Args:
        member: its state, without the axis S; as it was where nothing is dead or the member is not active.
        candidates: score [data, R] and rows [data, R, D].
        step: int32, the step before which this happens.
        window: a feature is dead that has not fired for so many steps.
    """
    autoencoder = member.autoencoder
    dead_F = (member.steps_since_fired >= window) & member.active
    unit_RD, available = best_directions(candidates)
    rank_F = rank_of(dead_F, mesh)
    taken_F = dead_F & (rank_F < available)
    chosen_F = jnp.clip(rank_F, 0, unit_RD.shape[0] - 1)
    directions_FD = unit_RD.at[chosen_F].get(out_sharding=PartitionSpec(axes.FEATURE, None))
    living_F = ~dead_F | jnp.all(dead_F)  # where nothing lives, all features stand in

    revived = autoencoder.revive(taken_F, directions_FD, ENCODER_SCALE * mean_encoder_norm(autoencoder, living_F))
    moments = reset_second_moments(member.second_moments, taken_F, living_F, autoencoder.feature_axes)
    counts = {"dead": jnp.sum(dead_F, dtype=jnp.int32), "revived": jnp.sum(taken_F, dtype=jnp.int32)}
    member = dataclasses.replace(
        member,
        autoencoder=revived,
        second_moments=moments,
        steps_since_fired=jnp.where(taken_F, 0, member.steps_since_fired),
        last_resample=jnp.where(counts["revived"] > 0, step, member.last_resample),
    )
    return member, counts


def best_directions(candidates: Candidates) -> tuple[jax.Array, jax.Array]:
    """The R best candidates of all data shards as unit vectors [R, D], best first, and how many of them there are."""
    keep, width = candidates.rows_RD.shape[-2:]
    score = jnp.reshape(jax.sharding.reshard(candidates.score, PartitionSpec(None, None)), -1)
    rows_RD = jnp.reshape(jax.sharding.reshard(candidates.rows_RD, PartitionSpec(None, None, None)), (-1, width))
    score, where = _largest(score, keep)
    rows_RD = rows_RD[where]
    norms_R1 = jnp.linalg.norm(rows_RD, axis=-1, keepdims=True)
    return rows_RD / jnp.where(norms_R1 > 0, norms_R1, 1), jnp.sum(score > -jnp.inf, dtype=jnp.int32)


def _largest(score: jax.Array, keep: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` by sorting: its own program is not partitioned, so other members' scores would be gathered."""
    negative, where = jax.lax.sort((-score, jnp.arange(score.shape[0])), num_keys=1, is_stable=True)
    return -negative[:keep], where[:keep]


def rank_of(dead_F: jax.Array, mesh: Mesh) -> jax.Array:
    """How many dead features come before each: a cumulative sum within each feature shard, plus the shards before."""
    shards = mesh.shape[axes.FEATURE]
    spec = PartitionSpec(axes.FEATURE, None)
    local = jnp.reshape(dead_F.astype(jnp.int32), (shards, dead_F.shape[0] // shards), out_sharding=spec)
    within = jnp.cumsum(local, axis=1) - local
    totals = jax.sharding.reshard(jnp.sum(local, axis=1), PartitionSpec(None))
    before = jax.sharding.reshard(jnp.cumsum(totals) - totals, PartitionSpec(axes.FEATURE))
    return jnp.reshape(within + before[:, None], dead_F.shape, out_sharding=PartitionSpec(axes.FEATURE))


def mean_encoder_norm(autoencoder: Any, living_F: jax.Array) -> jax.Array:
    """Mean L2 norm of the living features' encoder vectors."""
    encoders = autoencoder.encoders()
    norms = sum(jnp.sqrt(jnp.sum(jnp.square(W_DF), axis=0)) for W_DF in encoders) / len(encoders)
    return jnp.sum(jnp.where(living_F, norms, 0)) / jnp.sum(living_F)
