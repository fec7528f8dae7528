"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.4.2) and the ways to stretch it to longer texts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from gsae.language_models.settings import Llama3Scaling, RotarySettings, YarnScaling


def frequencies(settings: RotarySettings) -> np.ndarray:
    """Radians per position of each rotated pair, [width / 2] in float64."""
    plain = settings.base ** (-np.arange(0, settings.width, 2) / settings.width)
    scaling = settings.scaling
    if scaling is None:
        return plain
    if isinstance(scaling, Llama3Scaling):
        turns = scaling.original_length * plain / (2 * math.pi)
        kept = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    elif isinstance(scaling, YarnScaling):
        kept = _yarn_kept(settings, scaling)
    else:
        kept = np.zeros_like(plain)
    kept = np.clip(kept, 0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn_kept(settings: RotarySettings, scaling: YarnScaling) -> np.ndarray:
    """How much of each pair's frequency stays; below 0 is none, above 1 all (Peng et al. 2023, section 3.2)."""

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_length / (2 * math.pi * times)
        return settings.width * math.log(wavelength) / (2 * math.log(settings.base))

    low, high = pair_that_turns(scaling.fast), pair_that_turns(scaling.slow)
    if scaling.whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, settings.width - 1)
    return 1 - (np.arange(settings.width // 2) - low) / max(high - low, 1e-3)


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, settings: RotarySettings) -> jax.Array:
    """Each head's first `width` numbers turned by their position; angles are computed in at least float32.

    Args:
        x_BTNH: queries or keys.
        positions_BT: the position of each token; B may be 1.
        settings: how to rotate.
    """
    wide = jnp.promote_types(x_BTNH.dtype, jnp.float32)
    angles = positions_BT[..., None].astype(wide) * jnp.asarray(frequencies(settings), wide)
    amplitude = settings.scaling.amplitude if isinstance(settings.scaling, YarnScaling) else 1.0
    cos, sin = (amplitude * f(angles)[:, :, None] for f in (jnp.cos, jnp.sin))
    turned, rest = jnp.split(x_BTNH, [settings.width], axis=-1)
    if settings.interleaved:
        left, right = turned[..., ::2], turned[..., 1::2]
    else:
        left, right = jnp.split(turned, 2, axis=-1)
    parts = [(left * cos - right * sin).astype(x_BTNH.dtype), (right * cos + left * sin).astype(x_BTNH.dtype)]
    if settings.interleaved:
        turned = jnp.stack(parts, axis=-1).reshape(turned.shape)
        return jnp.concatenate([turned, rest], axis=-1)
    return jnp.concatenate([*parts, rest], axis=-1)
