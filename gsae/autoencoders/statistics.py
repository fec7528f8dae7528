"""Sums over rows: what every training step reports of a reconstruction, and where rows have their middle."""

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


def geometric_median(x_ND: jax.Array, iterations: int = 100, tolerance: float = 1e-6) -> jax.Array:
    """The point whose summed distance to all rows is least, [D]: Weiszfeld's iteration from the mean.

    It ends after so many iterations, or when a step is shorter than the tolerance times the rows' mean distance.
    """

    def go_on(state):
        i, _, moved, distance = state
        return (i < iterations) & (moved > tolerance * distance)

    def move(state):
        i, old_D, _, _ = state
        distance_N = jnp.sqrt(jnp.sum(jnp.square(x_ND - old_D), axis=1))
        weight_N = 1 / jnp.maximum(distance_N, 1e-12)  # a row that the point is on pulls hard, not infinitely so
        new_D = jnp.sum(x_ND * weight_N[:, None], axis=0) / jnp.sum(weight_N)
        return i + 1, new_D, jnp.sqrt(jnp.sum(jnp.square(new_D - old_D))), jnp.mean(distance_N)

    mean_D = jnp.mean(x_ND, axis=0)
    start = (jnp.int32(0), mean_D, jnp.asarray(jnp.inf, x_ND.dtype), jnp.ones((), x_ND.dtype))
    return jax.lax.while_loop(go_on, move, start)[1]
