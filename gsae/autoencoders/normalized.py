"""Normalised sparse autoencoders (Fengyuan Hu, "Normalizing Sparse Autoencoders", LessWrong, 8 April 2024).

Activations lie in [0, 1), decoder vectors carry the lengths, and noise before the activation function makes it not pay
to shrink the one and grow the other: what is to be told from noise has to be near 0 or near 1, so that the L1 norm
counts features. The penalty is in units of the squared mean norm of the inputs, so that one alpha suits every layer.

The size of the noise, alpha and how vectors begin are not published: here they are ours.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics
from gsae.errors import SettingError

NORM_POWERS = (0, 1, 2)
CALIBRATION_ROWS = 32_768  # a mean of norms needs no more
MEAN_PRODUCT = 0.3  # E[tanh(ReLU(g)) g] of a standard normal g, about


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalizedOptions(base.CommonOptions):
    """Settings of normalised autoencoders.

    Attributes:
        noise: sigma, the standard deviation of what is added to every pre-activation while it trains, from 0. Ours.
        norm_power: p of beta = alpha * mean(norm)^p: 2 in the study, 0 for a coefficient that knows nothing of norms.
        decoder_bias: train b_dec too; the study's reconstruction is c W_dec alone.
    """

    noise: float = 0.3
    norm_power: int = 2
    decoder_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.noise, float | int) and not isinstance(self.noise, bool)
        if not (number and 0 <= self.noise < math.inf):
            raise SettingError("config.sae.noise", self.noise, "must be a number from 0")
        if isinstance(self.norm_power, bool) or self.norm_power not in NORM_POWERS:
            raise SettingError("config.sae.norm_power", self.norm_power, "must be 0, 1 or 2")

    def variant(self) -> str:
        """What sets it apart from the plain form, in words: parts that it lacks or has beside the study's."""
        parts = ["" if self.noise else "no noise", "" if self.norm_power == 2 else f"norm^{self.norm_power}"]
        return ", ".join(filter(None, [*parts, "decoder bias" if self.decoder_bias else ""]))


@flax.struct.dataclass
class Normalized(base.Autoencoder):
    """c = tanh(ReLU(x W_enc + b_enc + noise)), x_hat = c W_dec (+ b_dec, with the option); no vector has a set norm.

    The noise is there in training only; a step's counts of firing features are without it, as in evaluation.
    """

    Options = NormalizedOptions
    bounded: ClassVar[bool] = True

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_enc: jax.Array = parameter(feature_axis=0)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]; without the option it stays as it began, zero
    mean_norm: jax.Array = parameter(feature_axis=None, trained=False, scalar=True)  # []: E ||x||, once and for all
    options: NormalizedOptions = flax.struct.field(pytree_node=False, default=NormalizedOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: NormalizedOptions) -> Self:
        """Unit vectors, biases zero, inputs taken to have norm 1 until `calibrate` has measured it; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        zeros_F, zeros_D = jnp.zeros(features, jnp.float32), jnp.zeros(activation_width, jnp.float32)
        return cls(
            W_enc=W_enc_DF, W_dec=W_dec_FD, b_enc=zeros_F, b_dec=zeros_D, mean_norm=jnp.float32(1), options=options
        )

    def calibration_rows(self) -> int:
        """For the mean norm."""
        return CALIBRATION_ROWS

    def calibrate(self, x_ND: jax.Array) -> Self:
        """The rows' mean norm, and vectors to match it, so that a run begins alike in any units.

        Pre-activations begin with a spread of about one, reconstructions at about the inputs' length: this is ours.
        """
        features, width = self.W_dec.shape
        mean_norm = jnp.mean(jnp.sqrt(jnp.sum(jnp.square(x_ND), axis=-1))).astype(self.mean_norm.dtype)
        return self.replace(
            W_enc=self.W_enc * (math.sqrt(width) / mean_norm),
            W_dec=self.W_dec * (mean_norm * math.sqrt(width) / (MEAN_PRODUCT * features)),
            mean_norm=mean_norm,
        )

    def trained_fields(self) -> tuple[str, ...]:
        """All arrays but the mean norm, and b_dec only with the option."""
        return tuple(name for name in super().trained_fields() if name != "b_dec" or self.options.decoder_bias)

    def unit_norm_fields(self) -> tuple[str, ...]:
        """None: the decoder vectors carry the lengths."""
        return ()

    def rescaled(self, scale: float) -> Self:
        """For raw activations: features are what they were, as tanh demands; vectors, bias and norm are in raw units.

        Raises:
            ValueError: when scale is not positive.
        """
        raw = super().rescaled(scale)  # refuses what is not positive, and gives b_dec
        return raw.replace(
            W_enc=self.W_enc * scale, W_dec=self.W_dec / scale, b_enc=self.b_enc, mean_norm=self.mean_norm / scale
        )

    def revive(self, dead_F: jax.Array, directions_FD: jax.Array, encoder_scale: jax.Array) -> Self:
        """As every architecture; the new decoder vectors are as long as the mean of the others."""
        others_F = jnp.where(dead_F, 0, linear.row_norms(self.W_dec))
        length = jnp.sum(others_F) / jnp.maximum(jnp.sum(~dead_F), 1)
        revived = super().revive(dead_F, directions_FD, encoder_scale)
        W_dec_FD = jnp.where(dead_F[:, None], revived.W_dec * length, revived.W_dec)
        return revived.replace(W_dec=W_dec_FD.astype(self.W_dec.dtype))

    def preactivations(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """z = x W_enc + b_enc, without noise: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        nothing_D = jnp.zeros_like(self.b_dec)  # is subtracted, as in the study
        return linear.encode(x, nothing_D, self.W_enc, compute_dtype) + self.b_enc

    def noisy(self, z: jax.Array, context: Context | None) -> jax.Array:
        """z as training sees it; the noise follows from the context's key and the shape alone, on any mesh."""
        if context is None or not context.train or not self.options.noise:
            return z
        return z + self.options.noise * linear.normal_like(context.key, z)

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations in [0, 1): [..., D] -> [..., F]; with noise where the context is one of training."""
        return _squashed(self.noisy(self.preactivations(x, context), context))

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + alpha mean(norm)^p ||c||_1, summed over an example, averaged over the batch.

        Five products of B D F multiplications with its gradient, and B F random numbers.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)

        z_BF = self.preactivations(x_BD, context)
        c_BF = _squashed(self.noisy(z_BF, context))
        x_hat_BD = linear.decode(c_BF, self.W_dec, context.compute_dtype) + self.b_dec

        reconstruction = self.options.error_scale(target_BD) * mean_squared_norm(target_BD - x_hat_BD)
        beta = context.sparsity_coefficient * self.mean_norm**self.options.norm_power
        sparsity = beta * jnp.sum(c_BF) / c_BF.shape[0]

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(jax.nn.relu(z_BF)))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": jnp.zeros_like(reconstruction)}
        return reconstruction + sparsity, stats


def _squashed(z: jax.Array) -> jax.Array:
    return jnp.tanh(jax.nn.relu(z))
