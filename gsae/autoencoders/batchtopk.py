"""BatchTopK sparse autoencoders (Bussmann et al. 2024, arXiv 2412.06410): k features a token, averaged over a batch."""

from collections.abc import Mapping
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.selection import largest_of_all
from gsae.autoencoders.topk import SelectingOptions, TopK

MEMORY = 0.99  # share of the threshold that an update leaves; ours (the authors average over batches after training)


@flax.struct.dataclass
class BatchTopK(TopK):
    """While it trains, f = ReLU(z) where it is among the k B largest of the whole batch, over all devices.

    Afterwards f = ReLU(z) where z > threshold, one number for all features: a token is encoded alone.
    """

    # []: a running mean of the least f that a batch keeps; 0 before the first one. Never None.
    threshold: jax.Array = parameter(feature_axis=None, trained=False, optional=True, scalar=True)

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: SelectingOptions) -> Self:
        """As `TopK`; the threshold is that of the first batch, once there was one."""
        return super().initialise(key, activation_width, features, options).replace(threshold=jnp.float32(0))

    def selected(self, z: jax.Array, k: jax.Array) -> jax.Array:
        """f of a batch's pre-activations [B, F], B k of which are kept."""
        positive = jax.nn.relu(z)
        return jnp.where(largest_of_all(positive, k * (z.size // z.shape[-1])), positive, 0)

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]; by the threshold, unless it trains."""
        if context is not None and context.train:
            return super().encode(x, context)
        z = self.preactivations(x, context)
        return jnp.where(z > self.threshold, jax.nn.relu(z), 0)

    def observed(self, f_BF: jax.Array) -> dict[str, jax.Array]:
        """The least f that was kept; infinite where nothing was."""
        return {"least_kept": jnp.min(jnp.where(f_BF > 0, f_BF, jnp.inf))}

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Keeps k, and moves the threshold towards the least f that this batch kept."""
        least, old = stats["least_kept"], self.threshold
        moved = jnp.where(old > 0, MEMORY * old + (1 - MEMORY) * least, least)
        threshold = jnp.where(jnp.isfinite(least), moved, old).astype(old.dtype)
        return super().after_update(stats).replace(threshold=threshold)

    def rescaled(self, scale: float) -> Self:
        """As for every architecture; the threshold is in the units of f, which is divided by the scale."""
        return super().rescaled(scale).replace(threshold=self.threshold / scale)
