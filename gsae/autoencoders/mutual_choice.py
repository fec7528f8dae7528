"""Mutual Choice autoencoders (Ayonrinde, arXiv 2411.02124): the k B best pairs of token and feature of a batch.

The selection is BatchTopK's. What is its own is the auxiliary loss, `aux_zipf_loss`: features that fire less than the
law of Zipf gives them by their rank learn from what is left of each token, not only those that are dead. What the loss
is for is the paper's; its formula (that of AuxK), the law's exponent and shift, and the memory of the densities, ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import zipf
from gsae.autoencoders.base import parameter
from gsae.autoencoders.batchtopk import MEMORY, BatchTopK
from gsae.autoencoders.context import Context
from gsae.autoencoders.topk import SelectingOptions
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MutualChoiceOptions(SelectingOptions):
    """Settings of autoencoders whose features follow Zipf's law; the values are ours.

    Attributes:
        zipf_exponent: s: the feature of rank r fires on a share of tokens in proportion to 1 / (r + shift)^s.
        zipf_shift: in ranks. `zipf.fit` finds both from the densities of a trained dictionary.
    """

    zipf_exponent: float = 1.0
    zipf_shift: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zipf_exponent", "zipf_shift"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value < math.inf:
                raise SettingError(f"config.sae.{name}", value, "must be a number from 0")


@flax.struct.dataclass
class MutualChoice(BatchTopK):
    """f = ReLU(z) where it is among the k B largest of the batch; afterwards where z is above one threshold."""

    Options = MutualChoiceOptions

    # [F]: a running mean of the share of tokens on which each fires; over all batches while these are few.
    density: jax.Array = parameter(feature_axis=0, trained=False, optional=True)
    updates: jax.Array = parameter(feature_axis=None, trained=False, optional=True, scalar=True)  # []: made so far
    options: MutualChoiceOptions = flax.struct.field(pytree_node=False, default=MutualChoiceOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: SelectingOptions) -> Self:
        """As `BatchTopK`; no feature has fired."""
        fresh = super().initialise(key, activation_width, features, options)
        return fresh.replace(density=jnp.zeros(features, jnp.float32), updates=jnp.float32(0))

    def expected_density(self, context: Context) -> jax.Array:
        """How densely features would fire by the law, [F]; all alike before the first update."""
        options, k = self.options, context.sparsity_coefficient
        by_law_F = zipf.expected(self.density, k, options.zipf_exponent, options.zipf_shift)
        return jnp.where(self.updates > 0, by_law_F, k / self.density.shape[0])

    def neglected(self, context: Context) -> jax.Array | None:
        """Those that fire less than the law gives them; none before the first update."""
        return (self.density < self.expected_density(context)) & (self.updates > 0)

    def observed(self, f_BF: jax.Array) -> dict[str, jax.Array]:
        """The least f that was kept, and the share of tokens on which each feature fired."""
        real = jnp.promote_types(f_BF.dtype, jnp.float32)
        return super().observed(f_BF) | {"share": self.fired(f_BF).astype(real) / f_BF.shape[0]}

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Keeps k and moves threshold and densities."""
        new = jnp.maximum(1 / (self.updates + 1), 1 - MEMORY)
        density_F = self.density + new * (stats["share"] - self.density)
        return (
            super()
            .after_update(stats)
            .replace(
                density=density_F.astype(self.density.dtype), updates=(self.updates + 1).astype(self.updates.dtype)
            )
        )
