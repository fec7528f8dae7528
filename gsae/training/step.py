"""One update of a whole group: every member sees the same batch, and nothing but the batch crosses members."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gsae import mesh as axes
from gsae.autoencoders.context import Context
from gsae.autoencoders.registry import architecture
from gsae.errors import SettingError
from gsae.training import optimizer
from gsae.training.groups import Group
from gsae.training.members import over_members, place_members
from gsae.training.schedules import Schedules, return_factor
from gsae.training.targets import UNKNOWN, Control

NEVER = -1  # last_resample of a member that was never resampled
INITIAL, TRAINING, RESAMPLING = range(3)  # streams of random numbers

METRICS = (
    *("loss", "reconstruction", "sparsity", "auxiliary", "l0", "fvu", "gamma", "norm_ratio", "dead_share"),
    *("gradient_norm", "learning_rate", "sparsity_coefficient", "active"),
)
Metrics = dict[str, jax.Array]
Leaf = Any  # a jax.Array; in trees of the same shape, its sharding or ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a step needs to know beside the group.

    Attributes:
        batch_size: B, tokens in a step, over all devices.
        schedules: of the learning rate and the sparsity coefficient.
        seed: of the run, for architectures that sample.
        input_scale: activations are multiplied by it; 1 / sqrt(mean squared norm) or 1.
        compute_dtype: of the operands of the large products.
        beta2, eps: Adam's constants.
        resampling_return_steps: after an event the learning rate comes back along a cosine over so many steps.
        resampling_floor: the factor of the learning rate right after an event.
        dead_window_tokens: a feature is dead that has not fired for so many tokens.
    """

    batch_size: int
    schedules: Schedules
    seed: int = 0
    input_scale: float = 1.0
    compute_dtype: str = "float32"
    beta2: float = 0.999
    eps: float = 1e-8
    resampling_return_steps: int = 1000
    resampling_floor: float = 0.1
    dead_window_tokens: int = 10_000_000

    @property
    def dead_window_steps(self) -> int:
        """The window in whole steps, rounded up; a Python integer, so tokens may exceed 2^31."""
        return -(-self.dead_window_tokens // self.batch_size)


@flax.struct.dataclass
class GroupState:
    """All that one step hands to the next: two float32 copies of the parameters, and counters.

    Attributes:
        autoencoder: the stacked members, every array [S, ...].
        second_moments: Adam's, of the trained fields, {name: [S, ...]}.
        steps_since_fired: int32 [S, F], steps since the feature last fired in a batch.
        active: bool [S]; False for padding and for members that became non-finite.
        last_resample: int32 [S], the step of the last event that revived a feature of the member, or `NEVER`.
        sparsity_coefficient: float32 [S], after warm-up; only that of a point with a target L0 ever moves.
        mean_l0: float32 [S], moving mean of the L0 of training batches.
        held_out_ratio: float32 [S], L0 on held-out tokens over that on training rows when it was last measured, at
            first 1: what a target is divided by to be met on held-out text. None for points without targets.
        placed: float32 [S], where the pilot placed the coefficient, from which it does not go far. None as above.
    """

    autoencoder: Any
    second_moments: dict[str, Leaf]
    steps_since_fired: Leaf
    active: Leaf
    last_resample: Leaf
    sparsity_coefficient: Leaf
    mean_l0: Leaf
    held_out_ratio: Leaf = None
    placed: Leaf = None


def initial_state(group: Group, activation_width: int, mesh: Mesh | AbstractMesh) -> GroupState:
    """The state before step 0. A member's parameters follow from its point's seed alone, on any mesh, in any sweep."""

    def initialise():
        keys = [jax.random.fold_in(jax.random.key(point.seed), INITIAL) for point in group.members]
        members = [_initialise(group, key, activation_width) for key in keys]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
        return GroupState(
            autoencoder=stacked,
            second_moments={name: jnp.zeros_like(getattr(stacked, name)) for name in members[0].trained_fields()},
            steps_since_fired=jnp.zeros((group.size, group.width), jnp.int32),
            active=jnp.arange(group.size) < len(group.points),
            last_resample=jnp.full(group.size, NEVER, jnp.int32),
            sparsity_coefficient=jnp.asarray(group.values("sparsity_coefficient")),
            mean_l0=jnp.full(group.size, UNKNOWN, jnp.float32),
            held_out_ratio=jnp.ones(group.size, jnp.float32) if group.has_targets else None,
            placed=jnp.asarray(group.values("sparsity_coefficient")) if group.has_targets else None,
        )

    _check_sweep(group, mesh)
    return jax.jit(initialise, out_shardings=state_shardings(group, mesh))()


def state_shardings(group: Group, mesh: Mesh | AbstractMesh) -> GroupState:
    """Where every array of the state lives: S over `sweep`, F over `feature`, the rest whole on each device."""
    member = jax.eval_shape(lambda: _initialise(group, jax.random.key(0), activation_width=8))

    def stacked(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(axes.SWEEP, *spec))

    specs = member.partition_specs()
    return GroupState(
        autoencoder=jax.tree.map(stacked, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)),
        second_moments={name: stacked(getattr(specs, name)) for name in member.trained_fields()},
        steps_since_fired=stacked(PartitionSpec(axes.FEATURE)),
        active=stacked(PartitionSpec()),
        last_resample=stacked(PartitionSpec()),
        sparsity_coefficient=stacked(PartitionSpec()),
        mean_l0=stacked(PartitionSpec()),
        held_out_ratio=stacked(PartitionSpec()) if group.has_targets else None,
        placed=stacked(PartitionSpec()) if group.has_targets else None,
    )


def abstract_state(group: Group, activation_width: int, mesh: Mesh | AbstractMesh) -> GroupState:
    """`initial_state` as shapes, dtypes and shardings, without computing it: the target of a restore."""
    shapes = jax.eval_shape(lambda: initial_state(group, activation_width, mesh))
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        state_shardings(group, mesh),
    )


def _initialise(group: Group, key: jax.Array, activation_width: int) -> Any:
    return architecture(group.architecture).initialise(key, activation_width, group.width, group.options)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How batches [B, D] best arrive: split over all devices, so that the host sends each row once.

    In this order of axes the step's one all-gather needs no exchange of rows before it; others work too.
    """
    return NamedSharding(mesh, PartitionSpec((axes.DATA, axes.SWEEP, axes.FEATURE), None))


def make_step(group: Group, settings: StepSettings, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted step of a group: (state, x_BD, step) -> (state, metrics). The given state is consumed.

    x_BD is the batch in the store's dtype, best in `batch_sharding`; `step` is an int32 scalar, 0 for the first update.
    Metrics are float32 [S]: loss, reconstruction, sparsity, auxiliary, l0, fvu, gamma, norm_ratio, dead_share,
    gradient_norm, learning_rate, sparsity_coefficient, active; NaN for members that were inactive before the step.

    Raises:
        SettingError: when the mesh does not divide the batch, the features or the group.
    """
    _check_sweep(group, mesh)
    if settings.batch_size % mesh.size:
        raise SettingError(
            "config.training.batch_size", settings.batch_size, f"must be a multiple of {mesh.size} devices"
        )
    if group.width % mesh.shape[axes.FEATURE]:
        raise SettingError("config.mesh.feature", mesh.shape[axes.FEATURE], f"must divide the width {group.width}")
    constants = {
        "learning_rate": group.values("learning_rate"),
        "seed": group.values("seed", np.uint32),
    }
    if group.has_targets:
        constants["target_l0"] = group.values("target_l0")

    def step_group(state: GroupState, x_BD: jax.Array, step: jax.Array) -> tuple[GroupState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            x_BD = jax.sharding.reshard(x_BD, PartitionSpec(axes.DATA, None)).astype(jnp.float32) * settings.input_scale

            def update(member: GroupState, own: dict[str, jax.Array]) -> tuple[GroupState, Metrics]:
                branches = mesh.shape[axes.SWEEP] == 1
                train = functools.partial(
                    update_member, own=own, x_BD=x_BD, step=step, settings=settings, branches=branches
                )
                if not branches:
                    return train(member)  # under vmap both branches would be computed
                # A branch, not a mere `where`: inactive members cost nothing, and XLA, which would otherwise copy the
                # whole stacked state once per member (measured on CPU), reads and writes one member at a time.
                return jax.lax.cond(member.active, train, lambda member: (member, no_metrics()), member)

            return over_members(update, state, jax.tree.map(place_members, constants), mesh)

    return jax.jit(step_group, donate_argnums=0, out_shardings=(state_shardings(group, mesh), None))


def update_member(
    member: GroupState,
    own: dict[str, jax.Array],
    x_BD: jax.Array,
    step: jax.Array,
    settings: StepSettings,
    branches: bool = True,
) -> tuple[GroupState, Metrics]:
    """One update of one member, whose state has no axis S; a member that is not finite stays as it was.

    Args:
        member: its state.
        own: its scalars learning_rate and seed, and target_l0 where it has one.
        x_BD: the scaled batch, float32, rows over `data`.
        step: int32, updates made before this one.
        branches: see `Context`.
    """
    autoencoder = member.autoencoder
    parameters = {name: getattr(autoencoder, name) for name in autoencoder.trained_fields()}
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), TRAINING), own["seed"])
    warm_up = settings.schedules.sparsity_factor(step) if autoencoder.warms_up else 1.0
    coefficient = member.sparsity_coefficient * warm_up
    context = Context(
        sparsity_coefficient=coefficient,
        key=jax.random.fold_in(key, step),
        dead_F=member.steps_since_fired >= settings.dead_window_steps,
        progress=settings.schedules.progress(step),
        train=True,
        branches=branches,
        compute_dtype=settings.compute_dtype,
    )
    since = jnp.where(member.last_resample == NEVER, -1, step - member.last_resample)
    learning_rate = own["learning_rate"] * settings.schedules.learning_rate_factor(step)
    returned = return_factor(since, settings.resampling_return_steps, settings.resampling_floor)
    learning_rate *= returned
    control = Control.of(settings.schedules)

    def loss_of(parameters):
        return autoencoder.replace(**parameters).loss({"x": x_BD}, context)

    (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    gradient_norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in gradients.values()))
    parameters, second_moments = optimizer.update_member(
        gradients,
        member.second_moments,
        parameters,
        step=step,
        learning_rate=learning_rate,
        unit_norm_axes={name: autoencoder.feature_axes[name] for name in autoencoder.unit_norm_fields()},
        beta2=settings.beta2,
        eps=settings.eps,
    )
    ok = member.active & jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    new = dataclasses.replace(
        member,
        autoencoder=autoencoder.replace(**parameters).after_update(stats),
        second_moments=second_moments,
        steps_since_fired=jnp.where(stats["fired"] > 0, 0, member.steps_since_fired + 1),
        mean_l0=control.mean_l0(member.mean_l0, stats["l0"]),
    )
    if "target_l0" in own:
        aim = own["target_l0"] / member.held_out_ratio
        adjusted = control.adjusted(
            member.sparsity_coefficient, member.mean_l0, new.mean_l0, aim, step, member.placed, speed=returned
        )
        new = dataclasses.replace(new, sparsity_coefficient=adjusted)
    new = dataclasses.replace(jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, member), active=ok)
    metrics = _metrics(stats, loss=loss, gradient_norm=gradient_norm, learning_rate=learning_rate) | {
        "dead_share": jnp.mean(new.steps_since_fired >= settings.dead_window_steps, dtype=jnp.float32),
        "sparsity_coefficient": coefficient,
    }
    metrics = {name: jnp.where(member.active, value, jnp.nan).astype(jnp.float32) for name, value in metrics.items()}
    return new, metrics | {"active": ok.astype(jnp.float32)}


def _metrics(stats: dict[str, jax.Array], **known: jax.Array) -> Metrics:
    # E||x||^2 out of sums that are there, so that no further one goes over the mesh
    x_squared = stats["squared_error"] + 2 * stats["x_dot_x_hat"] - stats["x_hat_squared"]
    return known | {
        **{name: stats[name] for name in ("reconstruction", "sparsity", "auxiliary", "l0")},
        "fvu": stats["squared_error"] / stats["variance"],
        "gamma": stats["x_hat_squared"] / stats["x_dot_x_hat"],
        "norm_ratio": jnp.sqrt(stats["x_hat_squared"] / x_squared),
    }


def no_metrics() -> Metrics:
    """What an inactive member reports."""
    return dict.fromkeys(METRICS, jnp.float32(jnp.nan)) | {"active": jnp.float32(0)}


def _check_sweep(group: Group, mesh: Mesh | AbstractMesh) -> None:
    if group.size % mesh.shape[axes.SWEEP]:
        raise SettingError(
            "config.mesh.sweep", mesh.shape[axes.SWEEP], f"must divide the {group.size} members of a group"
        )
