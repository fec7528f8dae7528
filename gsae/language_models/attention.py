"""Causal self-attention: projections, norms and positions around `attend_in_blocks`.

Axes: B sequences, T positions, S positions of a cache, N heads, K heads of keys and values, H head width, D width.
"""

from typing import NamedTuple

import jax
from flax import nnx

from gsae.language_models.attention_blocks import attend_from, attend_in_blocks
from gsae.language_models.norms import Norm
from gsae.language_models.rotary import rotate
from gsae.language_models.settings import AttentionSettings


class Cache(NamedTuple):
    """A layer's keys and values of all positions, rotated and normalised as they are attended to."""

    k_BSKH: jax.Array
    v_BSKH: jax.Array


class Attention(nnx.Module):
    """Causal self-attention, in two halves: up to the heads' outputs z, and the output projection `out`."""

    def __init__(self, settings: AttentionSettings, width: int, out_deviation: float, rngs: nnx.Rngs):
        self.settings = settings

        def linear(inputs: int, outputs: int, bias: bool, deviation: float = 0.02) -> nnx.Linear:
            initial = nnx.initializers.normal(deviation)
            return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=initial, rngs=rngs)

        queries, keys = (heads * settings.head_width for heads in (settings.heads, settings.key_heads))
        self.q = linear(width, queries, settings.qkv_bias)
        self.k = linear(width, keys, settings.qkv_bias)
        self.v = linear(width, keys, settings.qkv_bias)
        if settings.query_key_norm is not None:
            together = settings.norm_over_heads
            self.q_norm = Norm(settings.query_key_norm, queries if together else settings.head_width)
            self.k_norm = Norm(settings.query_key_norm, keys if together else settings.head_width)
        self.out = linear(queries, width, settings.out_bias, out_deviation)

    def heads(
        self, h_BTD: jax.Array, positions_BT: jax.Array, seen_BT: jax.Array | None, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache]:
        """z [B, T, N * H] of what attention reads, the heads one after the other, and the keys and values.

        With a cache, h_BTD is one position of every sequence, [B, 1, D], at the position that `positions_BT` [1, 1]
        says: its key and value are put into the cache, and it sees those of no later position.
        """
        s = self.settings
        q, k, v = self.q(h_BTD), self.k(h_BTD), self.v(h_BTD)
        if s.query_key_norm is not None and s.norm_over_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q_BTNH, k_BTKH, v_BTKH = (x.reshape(*x.shape[:2], -1, s.head_width) for x in (q, k, v))
        if s.query_key_norm is not None and not s.norm_over_heads:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        if s.rotary is not None:
            q_BTNH, k_BTKH = (rotate(x, positions_BT, s.rotary) for x in (q_BTNH, k_BTKH))
        if cache is None:
            new = Cache(k_BTKH, v_BTKH)
            z_BTNH = attend_in_blocks(
                q_BTNH, *new, scale=s.scale, window=s.window, soft_cap=s.soft_cap, seen_BT=seen_BT
            )
        else:
            at = positions_BT[0, 0]
            new = Cache(
                *(
                    jax.lax.dynamic_update_slice_in_dim(old, x, at, 1)
                    for old, x in zip(cache, (k_BTKH, v_BTKH), strict=True)
                )
            )
            z_BTNH = attend_from(q_BTNH, *new, at, scale=s.scale, window=s.window, soft_cap=s.soft_cap)
        return z_BTNH.reshape(*h_BTD.shape[:2], -1), new
