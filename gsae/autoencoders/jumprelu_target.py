"""JumpReLU trained towards a given L0: the quadratic penalty of Rajamanoharan et al. (2024), appendix on variants.

The target stands where other architectures have the sparsity coefficient, and is a number for each member: a whole
sweep of targets is one program.
"""

import dataclasses
import math
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders.context import Context
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpReLUTargetOptions(JumpReLUOptions):
    """Settings beside those of `JumpReLU`.

    Attributes:
        penalty: lambda, the weight of (L0 / target - 1)^2; dictionary_learning's value.
        penalty_warmup: share of the run over which the weight rises linearly from 0; 0 for none. Ours.
    """

    penalty: float = 1.0
    penalty_warmup: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.penalty, bool) or not 0 < self.penalty < math.inf:
            raise SettingError("config.sae.penalty", self.penalty, "must be a number above zero")
        if isinstance(self.penalty_warmup, bool) or not 0 <= self.penalty_warmup <= 1:
            raise SettingError("config.sae.penalty_warmup", self.penalty_warmup, "must be from 0 to 1, of the run")


@flax.struct.dataclass
class JumpReLUTarget(JumpReLU):
    """As `JumpReLU`, with lambda (L0 / target - 1)^2 of the whole batch's mean L0 in place of lambda L0.

    The penalty pulls from both sides: where fewer features fire than the target says, it lowers thresholds.
    """

    Options = JumpReLUTargetOptions
    warms_up: ClassVar[bool] = False

    options: JumpReLUTargetOptions = flax.struct.field(pytree_node=False, default=JumpReLUTargetOptions())

    def penalty(self, l0: jax.Array, context: Context) -> jax.Array:
        """lambda (L0 / target - 1)^2, with lambda warmed up."""
        target = jnp.maximum(context.sparsity_coefficient, 1e-3)  # a target of nothing is a pull towards nothing
        rise = jnp.minimum(context.progress / self.options.penalty_warmup, 1) if self.options.penalty_warmup else 1.0
        return self.options.penalty * rise * jnp.square(l0 / target - 1)
