"""One decoder-only transformer. Families differ by `Settings`, not by copies of this file.

Axes: B sequences, T positions, D width, N heads, H head width, V vocabulary, W the width of a site.
Norms, attention logits and softmax are computed in at least float32, whatever the parameters' dtype.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.language_models.attention_blocks import attend_in_blocks
from gsae.language_models.sites import NAMES, Site

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes one family and size of model differ from another. Sizes are counts of numbers."""

    num_layers: int
    width: int
    num_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    context_length: int
    rotary_width: int  # how many of a head's numbers are rotated by position
    rotary_base: float
    parallel_residual: bool  # attention and MLP both read the layer's input
    norm_epsilon: float
    activation: str  # one of ACTIVATIONS
    attention_bias: bool
    tied_embeddings: bool


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in at least float32; returns the dtype of its input."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """The normalised input, of the input's shape."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


def _linear(inputs: int, outputs: int, bias: bool, deviation: float, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=nnx.initializers.normal(deviation), rngs=rngs)


def rotate(x_BTNH: jax.Array, rotary_width: int, base: float) -> jax.Array:
    """Rotary position embedding of each head's first `rotary_width` numbers, paired half against half.

    Source: Su et al. 2021, RoFormer, section 3.4.2, in the layout of GPT-NeoX.
    """
    if rotary_width == 0:
        return x_BTNH
    wide = jnp.promote_types(x_BTNH.dtype, jnp.float32)
    frequencies = base ** (-jnp.arange(0, rotary_width, 2, dtype=wide) / rotary_width)
    angles = jnp.arange(x_BTNH.shape[1], dtype=wide)[:, None] * frequencies
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    left, right, rest = jnp.split(x_BTNH, [rotary_width // 2, rotary_width], axis=-1)
    rotated = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate([*(part.astype(x_BTNH.dtype) for part in rotated), rest], axis=-1)


class Attention(nnx.Module):
    """Causal multi-head self-attention, in two halves: up to the heads' outputs z, and the output projection."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs):
        self.settings = settings
        heads = settings.num_heads * settings.head_width
        self.qkv = _linear(settings.width, 3 * heads, settings.attention_bias, 0.02, rngs)
        self.out = _linear(
            heads, settings.width, settings.attention_bias, 0.02 / (2 * settings.num_layers) ** 0.5, rngs
        )

    def heads(self, h_BTD: jax.Array) -> jax.Array:
        """z [B, T, N * H] of the normalised stream."""
        s = self.settings
        qkv = self.qkv(h_BTD).reshape(*h_BTD.shape[:2], 3, s.num_heads, s.head_width)
        q_BTNH, k_BTNH, v_BTNH = (qkv[:, :, i] for i in range(3))
        q_BTNH, k_BTNH = (rotate(x, s.rotary_width, s.rotary_base) for x in (q_BTNH, k_BTNH))
        z_BTNH = attend_in_blocks(q_BTNH, k_BTNH, v_BTNH, scale=s.head_width**-0.5)
        return z_BTNH.reshape(*h_BTD.shape[:2], -1)


class MLP(nnx.Module):
    """Two linear maps around a nonlinearity, in two halves: up to the neurons, and the output projection."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs):
        self.activation = settings.activation
        self.up = _linear(settings.width, settings.mlp_width, True, 0.02, rngs)
        self.down = _linear(settings.mlp_width, settings.width, True, 0.02 / (2 * settings.num_layers) ** 0.5, rngs)

    def neurons(self, h_BTD: jax.Array) -> jax.Array:
        """The neurons after the nonlinearity, [B, T, mlp_width]."""
        return ACTIVATIONS[self.activation](self.up(h_BTD))


class Block(nnx.Module):
    """One layer: attention and MLP around the residual stream, every site passing through `tap`."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs):
        self.parallel = settings.parallel_residual
        self.attention_norm = LayerNorm(settings.width, settings.norm_epsilon)
        self.mlp_norm = LayerNorm(settings.width, settings.norm_epsilon)
        self.attention = Attention(settings, rngs)
        self.mlp = MLP(settings, rngs)

    def __call__(
        self, h_BTD: jax.Array, capture: Collection[str] = (), replace: Mapping[str, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The stream after the layer, and the captured sites by name."""
        replacements, captured = replace or {}, {}

        def tap(name: str, value: jax.Array) -> jax.Array:
            if name in replacements:
                value = replacements[name].astype(value.dtype)
            if name in capture:
                captured[name] = value
            return value

        pre_BTD = tap("resid_pre", h_BTD)
        z = tap("attn_z", self.attention.heads(self.attention_norm(pre_BTD)))
        mid_BTD = tap("resid_mid", pre_BTD + tap("attn_out", self.attention.out(z)))
        neurons = tap("mlp_act", self.mlp.neurons(self.mlp_norm(pre_BTD if self.parallel else mid_BTD)))
        post_BTD = tap("resid_post", mid_BTD + tap("mlp_out", self.mlp.down(neurons)))
        return post_BTD, captured


class Transformer(nnx.Module):
    """A decoder-only language model whose named sites can be read and replaced by arrays."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs):
        self.settings = settings
        shape = (settings.vocabulary, settings.width)
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        self.layers = nnx.List([Block(settings, rngs) for _ in range(settings.num_layers)])
        self.final_norm = LayerNorm(settings.width, settings.norm_epsilon)
        if not settings.tied_embeddings:
            self.unembedding = _linear(settings.width, settings.vocabulary, False, 0.02, rngs)

    def site_width(self, name: str) -> int:
        """How many numbers a site holds per token."""
        if name not in NAMES:
            raise ValueError(f"{name!r} is no site's name; the names are {', '.join(NAMES)}")
        s = self.settings
        return {"attn_z": s.num_heads * s.head_width, "mlp_act": s.mlp_width}.get(name, s.width)

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """The residual stream h [B, T, D] that enters layer 0."""
        return jnp.take(self.embedding[...], tokens_BT, axis=0)

    def blocks(
        self,
        h_BTD: jax.Array,
        start: int,
        stop: int,
        *,
        capture: Collection[Site] = (),
        replace: Mapping[Site, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[Site, jax.Array]]:
        """Runs layers start to stop - 1.

        Args:
            h_BTD: the residual stream that enters layer `start`.
            start: first layer, counted from 0.
            stop: one after the last layer; nothing later is computed.
            capture: sites to give back; they must lie in these layers.
            replace: arrays [B, T, W] put in place of sites before anything downstream reads them. A site that is
                captured as well gives the replacement.

        Returns:
            The stream that leaves layer stop - 1, and the captured arrays [B, T, W].
        """
        replacements = replace or {}
        if not 0 <= start <= stop <= self.settings.num_layers:
            raise ValueError(f"layers {start} to {stop}: the model has layers 0 to {self.settings.num_layers}")
        for site in {*capture, *replacements}:
            if not start <= site.layer < stop:
                raise ValueError(f"site {site} is not in layers {start} to {stop - 1}")
        captured: dict[Site, jax.Array] = {}
        for layer in range(start, stop):
            names = {site.name for site in capture if site.layer == layer}
            arrays = {site.name: array for site, array in replacements.items() if site.layer == layer}
            h_BTD, found = self.layers[layer](h_BTD, names, arrays)
            captured |= {Site(layer, name): array for name, array in found.items()}
        return h_BTD, captured

    def unembed(self, h_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] of the stream that leaves the last layer (final norm included)."""
        normed_BTD = self.final_norm(h_BTD)
        if self.settings.tied_embeddings:
            return normed_BTD @ self.embedding[...].T
        return self.unembedding(normed_BTD)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """Logits [B, T, V] of token ids [B, T]."""
        return self.unembed(self.blocks(self.embed(tokens_BT), 0, self.settings.num_layers)[0])
