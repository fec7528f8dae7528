"""LayerNorm and RMSNorm."""

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.language_models.settings import NormSettings


class Norm(nnx.Module):
    """Normalises over the last axis, in at least float32; returns the dtype of its input."""

    def __init__(self, settings: NormSettings, width: int):
        self.settings = settings
        if settings.scale:
            self.scale = nnx.Param(jnp.full(width, 1.0 - settings.offset))
        if settings.bias:
            self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The normalised input, of the input's shape."""
        normed = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.settings.kind == "layer":
            normed = normed - normed.mean(-1, keepdims=True)
        normed = normed * jax.lax.rsqrt(jnp.square(normed).mean(-1, keepdims=True) + self.settings.epsilon)
        if self.settings.scale:
            normed = normed * (self.scale[...].astype(normed.dtype) + self.settings.offset)
        if self.settings.bias:
            normed = normed + self.bias[...]
        return normed.astype(x.dtype)
