"""P-anneal (Karvonen et al. 2024, arXiv 2408.00113): the norm that penalises features goes from L1 towards L0.

The penalty is sum_i f_i^p; p is 1 until a share of the run has passed, then falls in equal steps. At each of them the
coefficient is multiplied by the ratio of the old to the new penalty over the last batches, so that the pull towards
sparsity goes on as strong as it was.
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.standard import Standard
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PAnnealOptions(base.Options):
    """Settings of annealing.

    Attributes:
        anneal_start: share of the run after which p falls, from 0 up to 1. Ours (dictionary_learning: 15,000 steps).
        p_end: what p would be at the very end of the run, from 0 up to 1; it never is, quite. dictionary_learning's.
        anneal_updates: in how many values from 1 to `p_end`, both counted; at least 2. dictionary_learning's.
        anneal_queue: batches over which the two penalties are compared, at least 1. dictionary_learning's.
        anneal_epsilon: what is added to f inside the power, above zero: it bounds the gradient of a feature that hardly
            fires. Ours, for inputs of unit mean squared norm.
    """

    anneal_start: float = 0.5
    p_end: float = 0.0
    anneal_updates: int = 10
    anneal_queue: int = 10
    anneal_epsilon: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("anneal_start", "p_end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 <= value < 1:
                raise SettingError(f"config.sae.{name}", value, "must be a number from 0, below 1")
        for name, least in (("anneal_updates", 2), ("anneal_queue", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingError(f"config.sae.{name}", value, f"must be a whole number from {least}")
        if isinstance(self.anneal_epsilon, bool) or not 0 < self.anneal_epsilon < 1:
            raise SettingError("config.sae.anneal_epsilon", self.anneal_epsilon, "must be between 0 and 1")


@flax.struct.dataclass
class PAnneal(Standard):
    """f = ReLU((x - b_dec) W_enc + b_enc), x_hat = f W_dec + b_dec, as `Standard`; the penalty differs."""

    Options = PAnnealOptions

    # What follows is optional for the order of fields alone: it is never None.
    # []: falls so far.
    stage: jax.Array | None = parameter(feature_axis=None, trained=False, optional=True, scalar=True)
    factor: jax.Array | None = parameter(feature_axis=None, trained=False, optional=True, scalar=True)  # []: of lambda
    seen: jax.Array | None = parameter(feature_axis=None, trained=False, optional=True, scalar=True)  # []: since then
    penalties: jax.Array | None = parameter(feature_axis=None, trained=False, optional=True)  # [2 Q]: with p; the next
    options: PAnnealOptions = flax.struct.field(pytree_node=False, default=PAnnealOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: base.Options) -> Self:
        """As `Standard`, with p = 1."""
        zero, one = jnp.float32(0), jnp.float32(1)
        assert isinstance(options, PAnnealOptions)
        empty = jnp.zeros(2 * options.anneal_queue, jnp.float32)
        plain = super().initialise(key, activation_width, features, options)
        return plain.replace(stage=zero, factor=one, seen=zero, penalties=empty)

    def p(self, stage: jax.Array) -> jax.Array:
        """p after so many falls."""
        falls = self.options.anneal_updates - 1
        return 1 - (1 - self.options.p_end) * jnp.minimum(stage, falls) / falls

    def lp(self, f_BF: jax.Array, p: jax.Array) -> jax.Array:
        """Mean over the batch of sum_i (f_i + epsilon)^p - epsilon^p; under RI-L1 of f_i ||d_i||. For p = 1, L1."""
        if self.options.ri_l1:
            f_BF = f_BF * linear.row_norms(self.W_dec)
        epsilon = self.options.anneal_epsilon
        return jnp.sum(jnp.power(f_BF + epsilon, p) - jnp.power(epsilon, p)) / f_BF.shape[0]

    def annealed(self, progress: jax.Array | float) -> dict[str, jax.Array]:
        """The state for an update at this share of the run; one fall at most, since the next p's penalty is known."""
        options, (stage, factor, seen) = self.options, self._numbers()
        done = (progress - options.anneal_start) / (1 - options.anneal_start)
        due = jnp.floor(jnp.maximum(done, 0) * (options.anneal_updates - 1)) > stage
        due &= (stage < options.anneal_updates - 1) & (seen > 0)
        current, following = jnp.sum(self._queue()[0]), jnp.sum(self._queue()[1])
        ratio = jnp.where(following > 0, current / jnp.where(following > 0, following, 1), 1)
        return {
            "stage": jnp.where(due, stage + 1, stage),
            "factor": jnp.where(due, factor * ratio, factor),
            "seen": jnp.where(due, 0, seen),
            "penalties": jnp.where(due, 0, jnp.concatenate(self._queue())),
        }

    def penalised(self, f_BF: jax.Array, context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """lambda factor ||f||_p^p, averaged over the batch, and where annealing is after it."""
        state = self.annealed(context.progress)
        penalty = self.lp(f_BF, self.p(state["stage"]))
        following = self.lp(stop_gradient(f_BF), self.p(state["stage"] + 1))
        sparsity = context.sparsity_coefficient * state["factor"] * penalty
        return sparsity, stop_gradient(self._remembered(state, penalty, following))

    def _remembered(self, state, penalty, following) -> dict[str, jax.Array]:
        """The state with one more batch in the queue."""
        length = self.options.anneal_queue
        place = jnp.mod(state["seen"], length)
        positions = jnp.arange(2 * length)
        penalties = jnp.where(positions == place, penalty, state["penalties"])
        penalties = jnp.where(positions == place + length, following, penalties)
        return state | {"seen": state["seen"] + 1, "penalties": penalties}

    def _queue(self) -> tuple[jax.Array, jax.Array]:
        assert self.penalties is not None
        return self.penalties[: self.options.anneal_queue], self.penalties[self.options.anneal_queue :]

    def _numbers(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        assert self.stage is not None and self.factor is not None and self.seen is not None
        return self.stage, self.factor, self.seen

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Keeps where annealing is."""
        names = ("stage", "factor", "seen", "penalties")
        return self.replace(**{name: stats[name].astype(getattr(self, name).dtype) for name in names})

    def plain(self) -> Standard:
        """A standard one."""
        arrays = {name: getattr(self, name) for name in Standard.feature_axes}
        return Standard(**arrays, options=base.Options(ri_l1=self.options.ri_l1))
