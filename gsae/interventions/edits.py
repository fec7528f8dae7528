"""What becomes of features: taken away, held, pushed. Any number of edits is two arrays, which one program serves."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Edit(NamedTuple):
    """What becomes of a feature's activation f: times f plus `plus`, at every position."""

    feature: int
    times: float
    plus: float


def ablate(feature: int) -> Edit:
    """f = 0."""
    return Edit(feature, 0.0, 0.0)


def clamp(feature: int, value: float) -> Edit:
    """f = value, wherever the feature would fire or not."""
    return Edit(feature, 0.0, value)


def steer(feature: int, amount: float) -> Edit:
    """f + amount: the activation moves by amount times the feature's decoder vector."""
    return Edit(feature, 1.0, amount)


def combined(edits: Sequence[Edit], features: int) -> tuple[jax.Array, jax.Array]:
    """All edits as two arrays [F]: f becomes times * f + plus. Later ones see what earlier ones made.

    Raises:
        ValueError: for a feature that does not exist.
    """
    times_F, plus_F = np.ones(features, np.float32), np.zeros(features, np.float32)
    for edit in edits:
        if not 0 <= edit.feature < features:
            raise ValueError(f"feature {edit.feature}: the autoencoder has features 0 to {features - 1}")
        times_F[edit.feature] *= edit.times
        plus_F[edit.feature] = plus_F[edit.feature] * edit.times + edit.plus
    return jnp.asarray(times_F), jnp.asarray(plus_F)
