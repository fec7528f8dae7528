"""The baseline: ReLU with an L1 penalty (Bricken et al. 2023; section 2 of Rajamanoharan et al. 2024, 2404.16014)."""

from collections.abc import Mapping
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics


@flax.struct.dataclass
class Standard(base.Autoencoder):
    """f = ReLU((x - b_dec) W_enc + b_enc), x_hat = f W_dec + b_dec."""

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_enc: jax.Array = parameter(feature_axis=0)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    options: base.Options = flax.struct.field(pytree_node=False, default=base.Options())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: base.Options) -> Self:
        """Unit decoder vectors, biases zero; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        zeros_F, zeros_D = jnp.zeros(features, jnp.float32), jnp.zeros(activation_width, jnp.float32)
        return cls(W_enc=W_enc_DF, W_dec=W_dec_FD, b_enc=zeros_F, b_dec=zeros_D, options=options)

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        return jax.nn.relu(linear.encode(x, self.b_dec, self.W_enc, compute_dtype) + self.b_enc)

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + lambda ||f||_1, summed over an example, averaged over the batch; with its statistics.

        Five products of B D F multiplications with its gradient.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)

        f_BF = self.encode(x_BD, context)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        reconstruction = self.options.error_scale(target_BD) * mean_squared_norm(target_BD - x_hat_BD)
        sparsity, own = self.penalised(f_BF, context)

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": jnp.zeros_like(reconstruction)}
        return reconstruction + sparsity, stats | own

    def penalised(self, f_BF: jax.Array, context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What the loss has beside the reconstruction, lambda in it, and what `after_update` needs to know: nothing."""
        return context.sparsity_coefficient * self.sparsity_penalty(f_BF), {}
