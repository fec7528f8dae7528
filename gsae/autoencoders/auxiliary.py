"""AuxK (Gao et al. 2024, arXiv 2406.04093): features that are neglected learn from what the others leave."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from gsae.autoencoders import linear
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm


def what_is_left(
    selected: Callable[[jax.Array], jax.Array],
    z_BF: jax.Array,
    W_dec_FD: jax.Array,
    left_BD: jax.Array,
    target_BD: jax.Array,
    neglected_F: jax.Array | None,
    coefficient: float,
    context: Context,
) -> jax.Array:
    """||e - e_hat||^2 / ||e - E e||^2 of what is left, e = x - x_hat, times the inputs' variance and the coefficient.

    e_hat is the decode, without b_dec, of the neglected features that are selected. Nothing but these features gets a
    gradient. Where none is neglected it is zero and costs nothing (where the mesh splits the sweep, it is computed all
    the same); otherwise three products of B D F multiplications with its gradient.

    Args:
        selected: from pre-activations [B, F], 0 for features that are not neglected, to their activations.
        z_BF: pre-activations.
        W_dec_FD: the dictionary.
        left_BD: e.
        target_BD: what is reconstructed.
        neglected_F: bool; None for none.
        coefficient: 0 for no such loss.
        context: of the step.
    """
    zero = jnp.zeros((), left_BD.dtype)
    if neglected_F is None or not coefficient:
        return zero
    left_BD, variance = stop_gradient((left_BD, _variance(target_BD)))

    def reconstruct(z_BF, W_dec_FD):
        f_BF = selected(jnp.where(neglected_F, z_BF, 0))
        found_BD = linear.decode(f_BF, W_dec_FD, context.compute_dtype)
        share = mean_squared_norm(left_BD - found_BD) / jnp.maximum(_variance(left_BD), 1e-30)
        return coefficient * variance * share

    if not context.branches:
        return jnp.where(jnp.any(neglected_F), reconstruct(z_BF, W_dec_FD), zero)
    return jax.lax.cond(jnp.any(neglected_F), reconstruct, lambda z_BF, W_dec_FD: zero, z_BF, W_dec_FD)


def _variance(x_BD: jax.Array) -> jax.Array:
    return mean_squared_norm(x_BD - jnp.mean(x_BD, axis=0))
