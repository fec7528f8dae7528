"""Sparsity coefficients for a wanted L0: placed by a short pilot, then moved by the L0 that is measured.

L0 falls nearly as a power of the coefficient, so everything happens between their logarithms. There the training is
a slow system that a proportional-integral controller keeps at its set point: docs/sweeps.md has the reasoning.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gsae.training.schedules import Schedules

UNKNOWN = -1.0  # mean L0 of a member that has not been updated yet
STRENGTH = 100.0  # sum of the integral gains of all steps: an error shrinks by exp(-STRENGTH * |slope|) on the whole
LARGEST_GAIN = 0.01  # of a step, however few there are
DAMPING = 2.0  # proportional gain: log(coefficient) for each unit of log L0
REACH = 0.3  # the largest error that counts: what is far off is still on its way, and is waited for
FASTEST_MEAN, MEAN_TO_GAIN = 0.02, 4.0  # rate of the moving mean of L0: 50 steps, or more where the gain is smaller
BEYOND = 10.0  # by no larger factor does the pilot's line leave its points, and a coefficient the place that it gave
LARGEST_RATIO = 2.0  # of L0 on held-out text and on training rows, either way: more than this is no sampling
STEEPEST, FLATTEST = -2.0, -0.25  # d log L0 / d log coefficient, where the pilot has none that can be right


@dataclasses.dataclass(frozen=True)
class Control:
    """How coefficients follow L0 in a run, the same for all members.

    Attributes:
        begin, end: the steps between which they move.
        damped_from: the step from which the change of L0 counts too: before, it comes from the warm-up.
    """

    begin: int
    damped_from: int
    end: int

    @classmethod
    def of(cls, schedules: Schedules) -> "Control":
        """From the half of the sparsity warm-up on."""
        warmup = schedules.sparsity_warmup_steps
        return cls(warmup // 2, warmup, schedules.adjust_until)

    @property
    def gain(self) -> float:
        """The integral gain of a step: longer runs have smaller learning rates, and answer in more steps."""
        return min(STRENGTH / max(self.end - self.begin, 1), LARGEST_GAIN)

    def mean_l0(self, mean: jax.Array, l0: jax.Array) -> jax.Array:
        """The moving mean of L0 after one more batch."""
        rate = jnp.float32(min(FASTEST_MEAN, MEAN_TO_GAIN * self.gain))
        return jnp.where(mean < 0, l0, mean + rate * (l0 - mean)).astype(jnp.float32)

    def adjusted(
        self,
        coefficient: jax.Array,
        before: jax.Array,
        mean: jax.Array,
        aim: jax.Array,
        step: jax.Array,
        placed: jax.Array,
        speed: jax.Array | float = 1.0,
    ) -> jax.Array:
        """The sparsity coefficient after a step: larger where L0 is above its aim; as it was outside of the control.

        log c <- log c + speed * clip(gain * e + DAMPING * (e - e_before), +- gain * REACH), e = log(mean / aim),
        and c stays within a factor of `BEYOND` of where the pilot placed it: where L0 is out of reach at the peak of
        the learning rate it would run away, and not be back when it has come into reach at the end.

        Args:
            coefficient: float32, before warm-up.
            before, mean: moving mean of L0 before and after this step's batch.
            aim: L0 of training rows that is wanted.
            step: int32, updates made before this one.
            placed: where the pilot placed the coefficient.
            speed: share of its usual speed with which the member learns, after a resampling event below 1.
        """
        error, error_before = (jnp.log(jnp.maximum(value, 1e-3) / aim) for value in (mean, before))
        change = jnp.where((before > 0) & (step >= self.damped_from), error - error_before, 0)
        bound = self.gain * REACH
        move = speed * jnp.clip(self.gain * error + DAMPING * change, -bound, bound)
        moves = (step >= self.begin) & (step < self.end)
        moved = jnp.clip(coefficient * jnp.exp(move), placed / BEYOND, placed * BEYOND)
        return jnp.where(moves, moved, coefficient).astype(jnp.float32)


def held_out_ratio(held_out: float, training: float, last: float) -> float:
    """L0 on held-out tokens over that on training rows; as it was last where either is not known."""
    if not (held_out > 0 and training > 0 and math.isfinite(held_out) and math.isfinite(training)):
        return last
    return min(max(held_out / training, 1 / LARGEST_RATIO), LARGEST_RATIO)


def place(coefficients: Sequence[float], l0: Sequence[float], target: float) -> float:
    """The coefficient at which L0 should be `target`, on the line through the pilot's points, both logarithmic.

    Beyond its points the line goes on as it ended, by a factor of `BEYOND` at most. Points without active features say
    nothing, nor do those that do not fit the longest line on which L0 falls: a pilot that came apart, say.

    Args:
        coefficients: of the pilot, ascending.
        l0: what each came to; NaN or 0 where nothing is active or it broke.
        target: L0 that is wanted.
    """
    points = [(math.log(c), math.log(n)) for c, n in zip(coefficients, l0, strict=True) if n > 0 and math.isfinite(n)]
    falling = _falling(points)
    wanted = math.log(target)
    if not falling:
        return math.sqrt(coefficients[0] * coefficients[-1])
    if len(falling) == 1:
        return _bounded(math.exp(falling[0][0] + falling[0][1] - wanted), coefficients)  # as 1 / L0
    i = next((i for i, (_, y) in enumerate(falling[1:-1]) if y <= wanted), len(falling) - 2)
    (x, y), (further, lower) = falling[i], falling[i + 1]
    slope = min(max((lower - y) / (further - x), STEEPEST), FLATTEST)
    found = math.exp(x + (wanted - y) / slope if wanted > lower else further + (wanted - lower) / slope)
    return _bounded(found, coefficients)


def _falling(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The most of the points, in their order, whose second numbers fall."""
    lines: list[list[tuple[float, float]]] = []  # the longest that ends with each point
    for point in points:
        before = max((line for line in lines if line[-1][1] > point[1]), key=len, default=[])
        lines.append([*before, point])
    return max(lines, key=len, default=[])


def _bounded(coefficient: float, coefficients: Sequence[float]) -> float:
    return min(max(coefficient, min(coefficients) / BEYOND), max(coefficients) * BEYOND)
