"""What every training step reports of a reconstruction, besides the terms of its loss."""

import jax
import jax.numpy as jnp


def mean_squared_norm(x_BD: jax.Array) -> jax.Array:
    """E ||x||^2: the mean over the rows of the sum of squares, in float32 or wider."""
    x_BD = x_BD.astype(jnp.promote_types(x_BD.dtype, jnp.float32))
    return jnp.sum(x_BD * x_BD) / x_BD.shape[0]


def reconstruction_statistics(target_BD: jax.Array, x_hat_BD: jax.Array, fired_F: jax.Array) -> dict[str, jax.Array]:
    """The sums from which L0, FVU and the relative reconstruction bias gamma follow.

    gamma = x_hat_squared / x_dot_x_hat and FVU = squared_error / variance, as ratios of means.

    Returns:
        Scalars, float32 or wider: `l0`; `squared_error` E||x - x_hat||^2; `x_squared`; `x_hat_squared`; `x_dot_x_hat`;
        `variance` E||x - mean x||^2 (two passes: a difference of two large numbers would cancel). And `fired`, int32
        [F]: in how many rows each feature fired, as given.
    """
    rows = target_BD.shape[0]
    real = jnp.promote_types(target_BD.dtype, jnp.float32)
    return {
        "l0": jnp.sum(fired_F.astype(real)) / rows,  # int32 would overflow at B F = 2^31
        "squared_error": mean_squared_norm(target_BD - x_hat_BD),
        "x_squared": mean_squared_norm(target_BD),
        "x_hat_squared": mean_squared_norm(x_hat_BD),
        "x_dot_x_hat": jnp.sum(target_BD.astype(real) * x_hat_BD) / rows,
        "variance": mean_squared_norm(target_BD - jnp.mean(target_BD, axis=0)),
        "fired": fired_F,
    }
