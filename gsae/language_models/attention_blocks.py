"""Causal attention in blocks of queries: the logits of all pairs of positions never exist at once.

Each block of queries takes an exact softmax over the keys that it can see, so nothing is approximated and nothing is
rescaled afterwards. Where gradients are wanted a block is computed again, not kept. Axes as in the transformer:
B sequences, T positions, N heads, K heads of keys and values, G = N / K, H head width; Q queries of a block, S keys.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

SECTIONS = 8  # causality is used between them: of the masked half of all pairs, 7/8 are not computed
# Bytes of one block's logits, all sequences and heads together, and its fewest queries. On a CPU blocks should stay
# near the cache (one core, B N T = 96 * 256, milliseconds at 32, 64, 128, 256 queries: 58, 49, 54, 77); elsewhere the
# products should be large.
LOGITS_BYTES, FEWEST_QUERIES = {"cpu": 8 << 20}, {"cpu": 64}
LOGITS_BYTES_ELSEWHERE, FEWEST_QUERIES_ELSEWHERE = 256 << 20, 128


def attend_in_blocks(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    seen_BT: jax.Array | None = None,
    block: int | None = None,
) -> jax.Array:
    """The heads' outputs z [B, T, N, H]; logits and softmax are computed in at least float32.

    Memory beside operands and result: 4 B N Q T bytes. Only keys that some query of a block may see are multiplied,
    up to the grain of blocks and sections.

    Args:
        q_BTNH: queries.
        k_BTKH: keys; head n reads those of key head n * K // N.
        v_BTKH: values.
        scale: factor of the product of a query and a key.
        window: a position sees itself and window - 1 before it; None: all before it.
        soft_cap: logits become cap * tanh(logits / cap).
        seen_BT: false for keys that nobody sees (padding). A query that sees no key gives an arbitrary finite z.
        block: Q; by default as many as `LOGITS_BYTES` allows; or all, where cuDNN has a kernel for the operands.
    """
    if block is None and soft_cap is None and seen_BT is None and _cudnn_takes(q_BTNH):
        local = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTNH, k_BTKH, v_BTKH, scale=scale, is_causal=True, local_window_size=local, implementation="cudnn"
        )
    sequences, length, heads, width = q_BTNH.shape
    block = min(block or _queries_at_once(sequences * heads, length), length)
    padding = -length % block
    if padding:  # queries beyond the end are cut off again, and nobody looks ahead to keys there
        pad = functools.partial(jnp.pad, pad_width=((0, 0), (0, padding), (0, 0), (0, 0)))
        q_BTNH, k_BTKH, v_BTKH = pad(q_BTNH), pad(k_BTKH), pad(v_BTKH)
        seen_BT = seen_BT if seen_BT is None else jnp.pad(seen_BT, ((0, 0), (0, padding)))
    blocks = (length + padding) // block
    q_CBQKGH = q_BTNH.reshape(sequences, blocks, block, k_BTKH.shape[2], -1, width).swapaxes(0, 1)
    q_CBQKGH = q_CBQKGH * jnp.asarray(scale, q_BTNH.dtype) if _exact(scale) else q_CBQKGH
    attend = functools.partial(
        _attend_block, k_BTKH, v_BTKH, seen_BT, scale=1.0 if _exact(scale) else scale, window=window, soft_cap=soft_cap
    )
    parts, at_once = [], math.ceil(blocks / SECTIONS)
    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        body: Callable[..., jax.Array] = functools.partial(attend, keys=last * block)
        body = jax.checkpoint(body) if blocks > 1 else body
        if last - first == 1:
            parts.append(body(q_CBQKGH[first], first * block)[None])
        else:
            starts = jnp.arange(first, last) * block
            parts.append(jax.lax.map(lambda args, body=body: body(*args), (q_CBQKGH[first:last], starts)))
    z_CBQKGH = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return z_CBQKGH.swapaxes(0, 1).reshape(sequences, -1, heads, width)[:, :length]


def attend_from(
    q_B1NH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    at: jax.Array,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> jax.Array:
    """The heads' outputs z [B, 1, N, H] of one position, `at`, which sees itself and those before it among S.

    The other arguments as in `attend_in_blocks`. With a window only so many keys are multiplied.
    """
    sequences, _, heads, width = q_B1NH.shape
    q_B1KGH = q_B1NH.reshape(sequences, 1, k_BSKH.shape[2], -1, width)
    z_B1KGH = _attend_block(
        k_BSKH, v_BSKH, None, q_B1KGH, at, keys=k_BSKH.shape[1], scale=scale, window=window, soft_cap=soft_cap
    )
    return z_B1KGH.reshape(sequences, 1, heads, width)


def _cudnn_takes(q_BTNH: jax.Array) -> bool:
    """Whether cuDNN's flash attention is here and made for such heads (the conditions of jax's own checks)."""
    device = jax.local_devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    recent = tuple(int(part) for part in device.compute_capability.split(".")) >= (8, 0)
    width = q_BTNH.shape[-1]
    return recent and q_BTNH.dtype in (jnp.bfloat16, jnp.float16) and width <= 128 and width % 8 == 0


def _exact(scale: float) -> bool:
    """Whether multiplying by it rounds nothing: then queries are scaled, not the many more logits."""
    return math.frexp(scale)[0] == 0.5


def _queries_at_once(rows: int, length: int) -> int:
    # A plan traces for devices that are not here; they are then those of the surrounding mesh.
    around = jax.sharding.get_abstract_mesh().abstract_device
    platform = around.platform if around else jax.default_backend()
    fewest = FEWEST_QUERIES.get(platform, FEWEST_QUERIES_ELSEWHERE)
    fitting = LOGITS_BYTES.get(platform, LOGITS_BYTES_ELSEWHERE) // (4 * rows * length)
    return max(fewest, fitting // fewest * fewest)


def _attend_block(k_BTKH, v_BTKH, seen_BT, q_BQKGH, start, *, keys, scale, window, soft_cap):
    """z [B, Q, K, G, H] of the queries from position `start` on, which see no key from position `keys` on."""
    block = q_BQKGH.shape[1]
    span = keys if window is None else min(keys, block + window - 1)
    first = jnp.maximum(start + block - span, 0) if span < keys else 0

    def some(array, axis=1):
        whole = jax.lax.slice_in_dim(array, 0, keys, axis=axis)
        return jax.lax.dynamic_slice_in_dim(whole, first, span, axis=axis) if span < keys else whole

    wide = jnp.promote_types(q_BQKGH.dtype, jnp.float32)
    logits = jnp.einsum("BQKGH,BSKH->BKGQS", q_BQKGH, some(k_BTKH), preferred_element_type=wide)
    logits = logits if scale == 1.0 else logits * scale
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    distance_QS = (start + jnp.arange(block))[:, None] - (first + jnp.arange(span))
    visible = distance_QS >= 0
    if window is not None:
        visible &= distance_QS < window
    if seen_BT is not None:
        visible = visible & some(seen_BT)[:, None, None, None, :]
    logits = jnp.where(visible, logits, jnp.finfo(wide).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    totals_BQKG1 = jnp.moveaxis(weights.sum(axis=-1, keepdims=True), 3, 1)
    # Divided after the product: z has S / H times fewer numbers than the weights.
    z_BQKGH = jnp.einsum("BKGQS,BSKH->BQKGH", weights.astype(v_BTKH.dtype), some(v_BTKH), preferred_element_type=wide)
    return (z_BQKGH / totals_BQKG1).astype(v_BTKH.dtype)
