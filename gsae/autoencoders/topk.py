"""TopK sparse autoencoders (Gao et al. 2024, arXiv 2406.04093): k features a token, an auxiliary loss for dead ones.

k stands where other architectures have the sparsity coefficient, and is a number for each member: a whole sweep of k is
one program. It does not warm up.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import base, linear
from gsae.autoencoders.auxiliary import what_is_left
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.selection import largest_of_each
from gsae.autoencoders.statistics import geometric_median, mean_squared_norm, reconstruction_statistics
from gsae.errors import SettingError

USUAL_K = 32  # before training has said otherwise; at most half of the features
MULTIPLE = 4  # Gao et al.: multi-TopK adds the loss of so many times k features
MEDIAN_ROWS = 32_768  # Gao et al.: from so many rows b_dec begins at their geometric median


def _check_weight(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value < math.inf:
        raise SettingError(f"config.sae.{name}", value, "must be a number from 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectingOptions(base.CommonOptions):
    """Settings of autoencoders that select features.

    Attributes:
        auxiliary_k: how many dead features reconstruct what is left of each token; 0: half the activation's width.
        auxiliary_coefficient: weight of that loss; 0 for none. It is in units of the inputs' variance, as the paper's.
        geometric_median: b_dec begins at the geometric median of a sample of rows, whatever else the settings say.
    """

    auxiliary_k: int = 0
    auxiliary_coefficient: float = 1 / 32
    geometric_median: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.auxiliary_k, bool) or not isinstance(self.auxiliary_k, int) or self.auxiliary_k < 0:
            raise SettingError("config.sae.auxiliary_k", self.auxiliary_k, "must be a whole number from 0")
        _check_weight("auxiliary_coefficient", self.auxiliary_coefficient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKOptions(SelectingOptions):
    """Settings of autoencoders that select k features.

    Attributes:
        multi_coefficient: multi-TopK: weight of the reconstruction by 4 k features, which is added to that by k; 0 for
            none, 1/8 in the paper, which found it to keep the autoencoder usable with more than k.
    """

    multi_coefficient: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weight("multi_coefficient", self.multi_coefficient)

    def variant(self) -> str:
        """What sets it apart from the plain form, in words."""
        return "multi-TopK" if self.multi_coefficient else ""


@flax.struct.dataclass
class TopK(base.Autoencoder):
    """z = (x - b_dec) W_enc + b_enc, f = ReLU(z) where z is among the token's k largest, x_hat = f W_dec + b_dec."""

    Options: ClassVar[type[base.CommonOptions]] = TopKOptions
    warms_up: ClassVar[bool] = False

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_enc: jax.Array = parameter(feature_axis=0)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    k: jax.Array = parameter(feature_axis=None, trained=False, scalar=True)  # []: that of the newest update
    options: SelectingOptions = flax.struct.field(pytree_node=False, default=TopKOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: SelectingOptions) -> Self:
        """Unit decoder vectors, biases zero; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        zeros_F, zeros_D = jnp.zeros(features, jnp.float32), jnp.zeros(activation_width, jnp.float32)
        k = jnp.float32(min(USUAL_K, features // 2))
        return cls(W_enc=W_enc_DF, W_dec=W_dec_FD, b_enc=zeros_F, b_dec=zeros_D, k=k, options=options)

    def calibration_rows(self) -> int:
        """The paper's number of rows, for the geometric median."""
        return MEDIAN_ROWS if self.options.geometric_median else 0

    def calibrate(self, x_ND: jax.Array) -> Self:
        """b_dec at the rows' geometric median."""
        return self.replace(b_dec=geometric_median(x_ND).astype(self.b_dec.dtype))

    def unit_norm_fields(self) -> tuple[str, ...]:
        """W_dec: what is compared to select is then the length that a feature adds."""
        return ("W_dec",)

    def preactivations(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """z: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        return linear.encode(x, self.b_dec, self.W_enc, compute_dtype) + self.b_enc

    def selected(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """f of pre-activations: [..., F] -> [..., F]; k is a whole number."""
        return self.selected_alone(z, k)

    def selected_alone(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """The same, each token for itself."""
        positive = jax.nn.relu(z)
        return jnp.where(largest_of_each(positive, k), positive, 0)

    def select(self, z: jax.Array, context: Context | None = None) -> jax.Array:
        """f of pre-activations, as many as the context says, or as in the newest update."""
        return self.selected(z, whole(context.sparsity_coefficient if context else self.k))

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        return self.select(self.preactivations(x, context), context)

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 and, where features are dead, what they make of the rest; with its statistics.

        Five products of B D F multiplications with its gradient; where features are dead, three more, and as many for
        multi-TopK.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)

        z_BF = self.preactivations(x_BD, context)
        f_BF = self.select(z_BF, context)
        error, x_hat_BD = self.reconstruction(f_BF, target_BD, context)

        scale = self.options.error_scale(target_BD)
        reconstruction = scale * error
        auxiliary = scale * self.auxiliary_loss(z_BF, target_BD, x_hat_BD, context)
        multi_coefficient = getattr(self.options, "multi_coefficient", 0.0)
        if multi_coefficient:
            more_BF = self.selected(z_BF, MULTIPLE * whole(context.sparsity_coefficient))
            auxiliary += scale * multi_coefficient * self.reconstruction(more_BF, target_BD, context)[0]

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF)) | self.observed(f_BF)
        stats |= {"reconstruction": reconstruction, "sparsity": jnp.zeros_like(reconstruction), "auxiliary": auxiliary}
        return reconstruction + auxiliary, stats | {"k": context.sparsity_coefficient}

    def reconstruction(self, f_BF: jax.Array, target_BD: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """||x - x_hat||^2, averaged over the batch, and x_hat."""
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec
        return mean_squared_norm(target_BD - x_hat_BD), x_hat_BD

    def observed(self, f_BF: jax.Array) -> dict[str, jax.Array]:
        """What `after_update` needs to know of a batch beside k: here, nothing."""
        return {}

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Keeps k, so that the autoencoder encodes as it was trained."""
        return self.replace(k=stats["k"].astype(self.k.dtype))

    def neglected(self, context: Context) -> jax.Array | None:
        """Which features the auxiliary loss is for, bool [F]: the dead ones; None outside training."""
        return context.dead_F

    def auxiliary_loss(self, z_BF: jax.Array, target_BD: jax.Array, x_hat_BD: jax.Array, context: Context) -> jax.Array:
        """`auxiliary.what_is_left`, by each token's `auxiliary_k` largest neglected features."""
        count = jnp.int32(self.options.auxiliary_k or target_BD.shape[-1] // 2)
        return what_is_left(
            lambda z_BF: self.selected_alone(z_BF, count),
            z_BF,
            self.W_dec,
            target_BD - x_hat_BD,
            target_BD,
            self.neglected(context),
            self.options.auxiliary_coefficient,
            context,
        )


def whole(k: jax.Array) -> jax.Array:
    """k as an integer."""
    return jnp.round(k).astype(jnp.int32)
