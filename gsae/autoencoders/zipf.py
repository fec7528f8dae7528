"""Zipf's law of firing: how often a feature would fire by its place among the others, without sorting them.

The law is Zipf and Mandelbrot's: the share of tokens on which the feature of rank r fires is min(1, c / (r + shift)^s),
with c such that k features fire on a token on average. Ranks come from counting densities in classes an eighth of an
octave wide, within which they are interpolated: on a mesh, sums over devices of `CLASSES` numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np

CLASSES, IN_OCTAVE = 256, 8  # of densities: from 2^-32 to 1
HALVINGS = 40  # of the range in which log c lies


def ranks(density_F: jax.Array) -> jax.Array:
    """The place of every feature by density, [F]: about 1 for the densest, F for those that never fire.

    Exact to how many features lie in a class of densities; equal densities have equal ranks.
    """
    height_F = jnp.log2(jnp.maximum(density_F, 1e-30)) * IN_OCTAVE + CLASSES
    height_F = jnp.clip(height_F, 0, CLASSES * (1 - 1e-6))
    classes_C1 = jnp.arange(CLASSES, dtype=height_F.dtype)[:, None]
    count_C1 = jnp.sum(jnp.floor(height_F) == classes_C1, axis=1, dtype=jnp.int32)[:, None]
    # Those of the classes above, and of the own class the part that lies above, itself included.
    return jnp.sum(count_C1 * jnp.clip(classes_C1 + 1 - height_F, 0, 1), axis=0) + 0.5


def law(rank: jax.Array, k: jax.Array, features: int, exponent: float, shift: float) -> jax.Array:
    """The share of tokens on which features of these ranks fire where k do on average; k from 0 to F."""
    every_F = jnp.arange(1, features + 1, dtype=rank.dtype)

    def at(log_c: jax.Array, rank: jax.Array) -> jax.Array:
        return jnp.minimum(1, jnp.exp(log_c - exponent * jnp.log(rank + shift)))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.sum(at(middle, every_F)) >= k
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    k = jnp.maximum(k, 1e-6).astype(rank.dtype)
    least = jnp.log(k) - jnp.log(jnp.sum(jnp.exp(-exponent * jnp.log(every_F + shift))))  # nothing at 1: no less than c
    most = exponent * jnp.log(jnp.asarray(features + shift, rank.dtype))
    _, log_c = jax.lax.fori_loop(0, HALVINGS, halve, (least, jnp.maximum(least, most)))
    return at(log_c, rank)


def expected(density_F: jax.Array, k: jax.Array, exponent: float, shift: float) -> jax.Array:
    """How densely each feature would fire by the law, given how all of them do, [F]; the sum is at most k.

    It is k unless some are at 1.
    """
    share_F = law(ranks(density_F), k, density_F.shape[0], exponent, shift)
    return jnp.minimum(1, share_F * k / jnp.sum(share_F))


def fit(density_F: np.ndarray, least: float = 1e-5) -> tuple[float, float]:
    """Exponent and shift of the law that densities of a trained dictionary follow, by least squares in the logarithms.

    Ranks are weighed evenly in log r. The tail, where densities are below `least`, is left out: the law does not hold
    there.

    Args:
        density_F: shares of tokens, as a run keeps them in `density.npy`.
        least: where the tail begins.

    Raises:
        ValueError: when fewer than eight features are denser than that.
    """
    density_F = np.sort(np.asarray(density_F, np.float64))[::-1]
    density_F = density_F[(density_F >= least) & (density_F < 1)]
    if len(density_F) < 8:
        raise ValueError(f"{len(density_F)} features fire on {least:g} of the tokens or more: too few to fit a law")
    rank_F = np.arange(1, len(density_F) + 1)
    best = (np.inf, 0.0, 0.0)
    for shift in [0.0, *np.geomspace(0.1, len(density_F), 400)]:
        slope, _, residual = _line(np.log(rank_F + shift), np.log(density_F), 1 / rank_F)
        best = min(best, (residual, -slope, float(shift)))
    return best[1], best[2]


def _line(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and weighted squared residual of the best line."""
    weight = weight / weight.sum()
    x_mean, y_mean = weight @ x, weight @ y
    slope = float(weight @ ((x - x_mean) * (y - y_mean)) / (weight @ (x - x_mean) ** 2))
    intercept = float(y_mean - slope * x_mean)
    return slope, intercept, float(weight @ (y - intercept - slope * x) ** 2)
