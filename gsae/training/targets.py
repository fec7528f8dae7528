"""Sparsity coefficients for a wanted L0: placed by a short pilot, then moved by the L0 that is measured.

L0 falls nearly as a power of the coefficient, so everything happens between their logarithms.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

UNKNOWN = -1.0  # mean L0 of a member that has not been updated yet
RATE = 0.02  # of the moving mean of L0: about 50 steps, in which the noise of single batches goes
STRENGTH = 30.0  # of the control over the whole time that it has: an error shrinks by exp(-STRENGTH * |slope|)
MOST = 0.02  # a step moves log(coefficient) by no more than this
STEEPEST, FLATTEST = -2.0, -0.25  # d log L0 / d log coefficient, where the pilot has none that can be right


def mean_l0(mean: jax.Array, l0: jax.Array) -> jax.Array:
    """The moving mean of L0 after one more batch."""
    return jnp.where(mean < 0, l0, mean + jnp.float32(RATE) * (l0 - mean)).astype(jnp.float32)


def adjusted(
    coefficient: jax.Array, mean: jax.Array, target: jax.Array, step: jax.Array, begin: int, end: int
) -> jax.Array:
    """The sparsity coefficient after a step: larger where L0 is above its target; as it was outside of the control.

    Args:
        coefficient: float32, before warm-up.
        mean: moving mean of L0.
        target: L0 that is wanted.
        step: int32, updates made before this one.
        begin, end: the steps between which it moves.
    """
    gain = min(STRENGTH / max(end - begin, 1), MOST)
    error = jnp.clip(jnp.log(jnp.maximum(mean, 1e-3) / target), -1, 1)
    moves = (step >= begin) & (step < end)
    return jnp.where(moves, coefficient * jnp.exp(gain * error), coefficient).astype(jnp.float32)


def place(coefficients: Sequence[float], l0: Sequence[float], target: float) -> float:
    """The coefficient at which L0 should be `target`, on the line through the pilot's points, both logarithmic.

    Beyond its points the line goes on as it ended. Points without active features say nothing.

    Args:
        coefficients: of the pilot, ascending.
        l0: what each came to; NaN or 0 where nothing is active or it broke.
        target: L0 that is wanted.
    """
    points = [(math.log(c), math.log(n)) for c, n in zip(coefficients, l0, strict=True) if n > 0 and math.isfinite(n)]
    falling = [point for i, point in enumerate(points) if all(point[1] < before[1] for before in points[:i])]
    wanted = math.log(target)
    if not falling:
        return math.sqrt(coefficients[0] * coefficients[-1])
    if len(falling) == 1:
        return math.exp(falling[0][0] + falling[0][1] - wanted)  # as 1 / L0
    i = next((i for i, (_, y) in enumerate(falling[1:-1]) if y <= wanted), len(falling) - 2)
    (x, y), (further, lower) = falling[i], falling[i + 1]
    slope = min(max((lower - y) / (further - x), STEEPEST), FLATTEST)
    return math.exp(x + (wanted - y) / slope if wanted > lower else further + (wanted - lower) / slope)
