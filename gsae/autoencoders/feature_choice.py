"""Feature Choice autoencoders (Ayonrinde, arXiv 2411.02124): every feature chooses its tokens, as many as Zipf allows.

Feature i keeps its m_i largest pre-activations of the whole batch, sum_i m_i = k B, and m_i follows Zipf's law by the
feature's rank among the running densities. A token gets as many features as choose it. It begins as Mutual Choice,
because ranks come from there. Ours are: for how long, the law's exponent and shift, random rounding of the m_i (so that
features with m_i below 1 have their turns), and the thresholds by which one token is encoded alone.
"""

import dataclasses
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.mutual_choice import MutualChoice, MutualChoiceOptions
from gsae.autoencoders.selection import largest_of_each_feature
from gsae.autoencoders.topk import SelectingOptions
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureChoiceOptions(MutualChoiceOptions):
    """Those of `MutualChoice`, and one more.

    Attributes:
        mutual_choice_share: share of the run, from its start, that trains by Mutual Choice; ours.
    """

    mutual_choice_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.mutual_choice_share
        if isinstance(share, bool) or not isinstance(share, float | int) or not 0 <= share <= 1:
            raise SettingError("config.sae.mutual_choice_share", share, "must be from 0 to 1")


@flax.struct.dataclass
class FeatureChoice(MutualChoice):
    """f = ReLU(z) where it is among the m_i largest of its feature; afterwards where z is above its threshold."""

    Options = FeatureChoiceOptions

    # [F]: running means of the least f that each feature keeps of a batch; 0 before the first one.
    threshold: jax.Array = parameter(feature_axis=0, trained=False, optional=True)
    options: FeatureChoiceOptions = flax.struct.field(pytree_node=False, default=FeatureChoiceOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: SelectingOptions) -> Self:
        """As `MutualChoice`, with a threshold for each feature."""
        fresh = super().initialise(key, activation_width, features, options)
        return fresh.replace(threshold=jnp.zeros(features, jnp.float32))

    def budgets(self, rows: int, context: Context) -> jax.Array:
        """m: how many of a batch's rows each feature may choose, int32 [F]; rounded at random, k B in the mean."""
        allowed_F = self.expected_density(context) * rows
        luck_F = jax.random.uniform(context.key, allowed_F.shape, allowed_F.dtype)
        return jnp.floor(allowed_F + luck_F).astype(jnp.int32)

    def select(self, z: jax.Array, context: Context | None = None) -> jax.Array:
        """f of a batch's pre-activations [B, F], by Mutual Choice in the first part of the run."""
        assert context is not None, "features choose from a batch; one token is encoded by thresholds"

        def by_feature(z: jax.Array) -> jax.Array:
            positive = jax.nn.relu(z)
            budgets_F = self.budgets(z.size // z.shape[-1], context)
            return jnp.where(largest_of_each_feature(positive, budgets_F), positive, 0)

        def mutual(z: jax.Array) -> jax.Array:
            return super(FeatureChoice, self).select(z, context)

        first = context.progress < self.options.mutual_choice_share
        if not context.branches:
            return jnp.where(first, mutual(z), by_feature(z))
        return jax.lax.cond(first, mutual, by_feature, z)

    def observed(self, f_BF: jax.Array) -> dict[str, jax.Array]:
        """The least f that each feature kept, infinite where it kept none; the share of tokens on which it fired."""
        return super().observed(f_BF) | {"least_kept": jnp.min(jnp.where(f_BF > 0, f_BF, jnp.inf), axis=0)}
