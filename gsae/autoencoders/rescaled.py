"""Baseline + rescale & shift: a trained standard autoencoder, frozen, whose magnitudes alone are learnt anew.

The ablation of the Gated SAE paper (2404.16014, section on ablations): were the gated architecture's gain only the cure
of shrinkage, giving the baseline the same freedom afterwards would close the gap.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics


@flax.struct.dataclass
class RescaledStandard(base.Autoencoder):
    """f = 1[pi > 0] * ReLU(pi_0 exp(r_mag) + b_mag), pi = pi_0 + b_enc, pi_0 = (x - b_dec) W_enc; x_hat as before."""

    STARTS_FROM: ClassVar[type[base.Autoencoder] | None] = Standard

    W_enc: jax.Array = parameter(feature_axis=1, trained=False)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0, trained=False)  # [F, D]
    b_enc: jax.Array = parameter(feature_axis=0, trained=False)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None, trained=False)  # [D]
    r_mag: jax.Array = parameter(feature_axis=0)  # [F]
    b_mag: jax.Array = parameter(feature_axis=0)  # [F]
    options: base.Options = flax.struct.field(pytree_node=False, default=base.Options())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: base.Options) -> Self:
        """That of an untrained one; `starting_from` is how it is meant to begin."""
        return cls.starting_from(Standard.initialise(key, activation_width, features, options), options)

    @classmethod
    def starting_from(cls, trained: base.Autoencoder, options: base.Options) -> Self:
        """The same function as a trained standard autoencoder's: r_mag = 0 and b_mag = b_enc."""
        arrays = {name: getattr(trained, name) for name in trained.feature_axes}
        b_enc_F = arrays["b_enc"]
        return cls(**arrays, r_mag=jnp.zeros_like(b_enc_F), b_mag=b_enc_F, options=options)

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        pi = linear.encode(x, self.b_dec, self.W_enc, compute_dtype)
        magnitudes = jax.nn.relu(pi * jnp.exp(self.r_mag) + self.b_mag)
        return jnp.where(pi + self.b_enc > 0, magnitudes, 0)

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2, summed over an example, averaged over the batch: what fires is settled, so no penalty."""
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)
        f_BF = self.encode(x_BD, context)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec
        reconstruction = self.options.error_scale(target_BD) * mean_squared_norm(target_BD - x_hat_BD)
        nothing = jnp.zeros_like(reconstruction)
        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        return reconstruction, stats | {"reconstruction": reconstruction, "sparsity": nothing, "auxiliary": nothing}

    def revive(self, dead_F: jax.Array, directions_FD: jax.Array, encoder_scale: jax.Array) -> Self:
        """Nothing: its dictionary is frozen, dead features with it."""
        return self
