"""Gated sparse autoencoders (Rajamanoharan et al. 2024, arXiv 2404.16014, section 3 and appendix G)."""

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
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedOptions(base.Options):
    """Settings of gated autoencoders; all but the first are the paper's ablations when turned off.

    Attributes:
        tied: W_mag = W_enc exp(r_mag), per feature; otherwise W_mag is a parameter of its own.
        r_mag: whether tied encoders have a gain of their own (r_mag); without it W_mag = W_enc. Untied ones have none.
        frozen_decoder: whether the auxiliary loss decodes with stop-gradient copies of W_dec and b_dec.
    """

    tied: bool = True
    r_mag: bool = True
    frozen_decoder: bool = True

    def variant(self) -> str:
        """What sets it apart from the paper's, in words."""
        words = {
            "untied": not self.tied,
            "no r_mag": self.tied and not self.r_mag,
            "unfrozen decoder": not self.frozen_decoder,
        }
        return ", ".join([word for word, holds in words.items() if holds] + [super().variant()] * self.ri_l1)


@flax.struct.dataclass
class Gated(base.Autoencoder):
    """f = 1[pi_gate > 0] * ReLU(pi_mag), x_hat = f W_dec + b_dec; W_enc is the paper's W_gate."""

    Options = GatedOptions

    W_enc: jax.Array = parameter(feature_axis=1)  # [D, F]
    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_gate: jax.Array = parameter(feature_axis=0)  # [F]
    b_mag: jax.Array = parameter(feature_axis=0)  # [F]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    r_mag: jax.Array | None = parameter(feature_axis=0, optional=True)  # [F]; None where W_mag needs no gain
    W_mag: jax.Array | None = parameter(feature_axis=1, optional=True)  # [D, F]; None where tied
    options: GatedOptions = flax.struct.field(pytree_node=False, default=GatedOptions())

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: GatedOptions) -> Self:
        """Unit decoder vectors; biases and r_mag zero, so W_mag = W_enc at the start, tied or not; float32."""
        W_enc_DF, W_dec_FD = base.initial_weights(key, activation_width, features, options)
        zeros_F, zeros_D = jnp.zeros(features, jnp.float32), jnp.zeros(activation_width, jnp.float32)
        return cls(
            W_enc=W_enc_DF,
            W_dec=W_dec_FD,
            b_gate=zeros_F,
            b_mag=zeros_F,
            b_dec=zeros_D,
            r_mag=zeros_F if options.tied and options.r_mag else None,
            W_mag=None if options.tied else W_enc_DF,
            options=options,
        )

    def preactivations(self, x: jax.Array, context: Context | None = None) -> tuple[jax.Array, jax.Array]:
        """pi_gate and pi_mag: [..., D] -> two of [..., F]."""
        x, compute_dtype = self.operands(x, context)
        pi = linear.encode(x, self.b_dec, self.W_enc, compute_dtype)
        if self.W_mag is not None:
            return pi + self.b_gate, linear.encode(x, self.b_dec, self.W_mag, compute_dtype) + self.b_mag
        if self.r_mag is not None:
            return pi + self.b_gate, pi * jnp.exp(self.r_mag) + self.b_mag
        return pi + self.b_gate, pi + self.b_mag

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        return gate(*self.preactivations(x, context))

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2 + lambda ||ReLU(pi_gate)||_1 + ||x - x_hat_frozen(ReLU(pi_gate))||^2, and its statistics.

        Sums over an example, averaged over the batch. Seven products of B D F multiplications with its gradient (nine
        untied).
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)

        pi_gate_BF, pi_mag_BF = self.preactivations(x_BD, context)
        f_BF = gate(pi_gate_BF, pi_mag_BF)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec

        f_gate_BF = jax.nn.relu(pi_gate_BF)  # what trains the gate: no gradient passes through its step function
        W_dec_FD, b_dec_D = self.W_dec, self.b_dec
        if self.options.frozen_decoder:
            W_dec_FD, b_dec_D = stop_gradient((W_dec_FD, b_dec_D))
        x_hat_gate_BD = linear.decode(f_gate_BF, W_dec_FD, context.compute_dtype) + b_dec_D

        error_scale = self.options.error_scale(target_BD)
        reconstruction = error_scale * mean_squared_norm(target_BD - x_hat_BD)
        sparsity = context.sparsity_coefficient * self.sparsity_penalty(f_gate_BF)
        auxiliary = error_scale * mean_squared_norm(target_BD - x_hat_gate_BD)

        stats = reconstruction_statistics(target_BD, x_hat_BD, self.fired(f_BF))
        stats |= {"reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": auxiliary}
        return reconstruction + sparsity + auxiliary, stats


def gate(pi_gate: jax.Array, pi_mag: jax.Array) -> jax.Array:
    """1[pi_gate > 0] * ReLU(pi_mag); no gradient with respect to pi_gate."""
    return jnp.where(pi_gate > 0, jax.nn.relu(pi_mag), 0)
