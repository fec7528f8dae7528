"""top-AFA (Lee et al., arXiv 2503.24277): as many features as give f the norm of the input.

Where decoder vectors are nearly orthogonal, the norm of a code is nearly that of what it stands for ("approximate
feature activation"). So each token keeps its largest activations until their norm is nearest to its own, and a loss
brings the two together. Nothing else decides L0: it comes out as it does.

Ours: the norm is that of x - b_dec, in the selection (as in the authors' code) and in the loss (where that has x); the
sparsity coefficient is the weight of the norm loss; inputs are scaled as the run says, not standardised token by token.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from gsae.autoencoders import base, linear
from gsae.autoencoders.auxiliary import what_is_left
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.selection import largest_of_each, nearest_to_norm
from gsae.autoencoders.statistics import geometric_median, mean_squared_norm, reconstruction_statistics
from gsae.autoencoders.topk import MEDIAN_ROWS, SelectingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopAFAOptions(SelectingOptions):
    """Those of `TopK`: of its auxiliary loss, which the authors' code has too, and of where b_dec begins."""


@flax.struct.dataclass
class TopAFA(base.Autoencoder):
    """a = ReLU((x - b_dec) W_enc); f = a for the largest a_i ||d_i||, whose norm is nearest to that of x - b_dec."""

    Options = TopAFAOptions

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    options: TopAFAOptions = flax.struct.field(pytree_node=False, default=TopAFAOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: TopAFAOptions) -> Self:
        """Unit decoder vectors, b_dec zero; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        return cls(W_enc=W_enc_DF, W_dec=W_dec_FD, b_dec=jnp.zeros(activation_width, jnp.float32), options=options)

    def calibration_rows(self) -> int:
        """As many as `TopK` wants, for the geometric median."""
        return MEDIAN_ROWS if self.options.geometric_median else 0

    def calibrate(self, x_ND: jax.Array) -> Self:
        """b_dec at the rows' geometric median."""
        return self.replace(b_dec=geometric_median(x_ND).astype(self.b_dec.dtype))

    @classmethod
    def no_target_l0(cls, options: Any) -> str:
        """The coefficient decides something else."""
        return "its coefficient weighs the norm loss, and L0 is what the norms make it"

    def unit_norm_fields(self) -> tuple[str, ...]:
        """W_dec: the norm of f is that of its parts."""
        return ("W_dec",)

    def activations(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """a: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        return jax.nn.relu(linear.encode(x, self.b_dec, self.W_enc, compute_dtype))

    def selected(self, a: jax.Array, norm: jax.Array) -> jax.Array:
        """f of a and the norm [...] that it is to have: [..., F] -> [..., F]."""
        lengths = a * linear.row_norms(self.W_dec)
        return jnp.where(nearest_to_norm(lengths * lengths, norm), a, 0)

    def wanted_norm(self, x: jax.Array) -> jax.Array:
        """||x - b_dec||: [..., D] -> [...]; no gradient."""
        return _norm(stop_gradient(x - self.b_dec))

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        return self.selected(self.activations(x, context), self.wanted_norm(self.operands(x, context)[0]))

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + lambda (||f|| - ||x - b_dec||)^2 + AuxK, means over the batch; with its statistics.

        Five products of B D F multiplications with its gradient; where features are dead, three more.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)
        a_BF, norm_B = self.activations(x_BD, context), self.wanted_norm(x_BD)
        f_BF = self.selected(a_BF, norm_B)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        scale = self.options.error_scale(target_BD)
        reconstruction = scale * mean_squared_norm(target_BD - x_hat_BD)
        f_norm_B = _norm(f_BF * linear.row_norms(self.W_dec))
        sparsity = context.sparsity_coefficient * jnp.mean(jnp.square(f_norm_B - norm_B))
        count = jnp.int32(self.options.auxiliary_k or target_BD.shape[-1] // 2)
        auxiliary = scale * what_is_left(
            lambda a_BF: jnp.where(largest_of_each(a_BF, count), a_BF, 0),
            a_BF,
            self.W_dec,
            target_BD - x_hat_BD,
            target_BD,
            context.dead_F,
            self.options.auxiliary_coefficient,
            context,
        )
        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": auxiliary}
        return reconstruction + sparsity + auxiliary, stats


def _norm(vectors: jax.Array) -> jax.Array:
    """L2 norms along the last axis, with gradient zero where a norm is."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
