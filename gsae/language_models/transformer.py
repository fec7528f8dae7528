"""One decoder-only transformer. Families differ by `Settings`, not by copies of this file.

Axes: B sequences, T positions, D width, N heads, H head width, V vocabulary, W the width of a site.
Norms, attention logits and softmax are computed in at least float32, whatever the parameters' dtype.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from gsae.language_models.attention import Attention, Cache
from gsae.language_models.mlp import MLP
from gsae.language_models.norms import Norm
from gsae.language_models.parameters import norm_names
from gsae.language_models.settings import Settings
from gsae.language_models.sites import Site, site_width

Replacement = jax.Array | Callable[[jax.Array], jax.Array]  # an array, or what makes it from the site's activation


class Block(nnx.Module):
    """One layer: attention and MLP around the residual stream, every site passing through `tap`."""

    def __init__(self, settings: Settings, layer: int, rngs: nnx.Rngs):
        self.settings = settings
        names = norm_names(settings)
        if "attention_norm" in names:
            self.attention_norm = Norm(settings.norm, settings.width)
        if "attention_post_norm" in names:
            self.attention_post_norm = Norm(settings.norm, settings.width)
        if "mlp_norm" in names:
            self.mlp_norm = Norm(settings.norm, settings.width)
        if "mlp_post_norm" in names:
            self.mlp_post_norm = Norm(settings.norm, settings.width)
        deviation = 0.02 / (2 * settings.num_layers) ** 0.5  # Radford et al. 2019: by the number of residual sums
        self.attention = Attention(settings.attention[layer], settings.width, deviation, rngs)
        if settings.mlp is not None:
            self.mlp = MLP(settings.mlp, settings.width, deviation, rngs)

    def __call__(
        self,
        h_BTD: jax.Array,
        positions_BT: jax.Array,
        seen_BT: jax.Array | None,
        capture: Collection[str] = (),
        replace: Mapping[str, Replacement] | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array], Cache]:
        """The stream after the layer, the captured sites by name, the keys and values of `Attention.heads`."""
        replacements, captured = replace or {}, {}

        def tap(name: str, value: jax.Array) -> jax.Array:
            if name in replacements:
                new = replacements[name]
                value = (new(value) if callable(new) else new).astype(value.dtype)
            if name in capture:
                captured[name] = value
            return value

        s = self.settings
        pre_BTD = tap("resid_pre", h_BTD)
        read_BTD = self.attention_norm(pre_BTD) if s.pre_norm else pre_BTD
        z_BTW, cache = self.attention.heads(read_BTD, positions_BT, seen_BT, cache)
        out_BTD = self.attention.out(tap("attn_z", z_BTW))
        mid_BTD = pre_BTD + tap("attn_out", self.attention_post_norm(out_BTD) if s.post_norm else out_BTD)
        mid_BTD = tap("resid_mid", mid_BTD)
        if s.mlp is None:
            return tap("resid_post", mid_BTD), captured, cache
        if not s.shared_norm:
            read_BTD = pre_BTD if s.parallel_residual else mid_BTD
            read_BTD = self.mlp_norm(read_BTD) if s.pre_norm else read_BTD
        out_BTD = self.mlp.down(tap("mlp_act", self.mlp.neurons(read_BTD)))
        post_BTD = mid_BTD + tap("mlp_out", self.mlp_post_norm(out_BTD) if s.post_norm else out_BTD)
        return tap("resid_post", post_BTD), captured, cache


class Transformer(nnx.Module):
    """A decoder-only language model whose named sites can be read and replaced by arrays."""

    def __init__(self, settings: Settings, rngs: nnx.Rngs):
        self.settings = settings

        def table(rows: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, settings.width)))

        self.embedding = table(settings.vocabulary)
        if settings.learned_positions:
            self.positions = table(settings.context_length)
        self.layers = nnx.List([Block(settings, layer, rngs) for layer in range(settings.num_layers)])
        self.final_norm = Norm(settings.norm, settings.width)
        if not settings.tied_embeddings:
            initial = nnx.initializers.normal(0.02)
            self.unembedding = nnx.Linear(
                settings.width, settings.vocabulary, use_bias=False, kernel_init=initial, rngs=rngs
            )
        if settings.unembedding_bias:
            self.unembedding_bias = nnx.Param(jnp.zeros(settings.vocabulary))

    def site_width(self, name: str) -> int:
        """How many numbers a site holds per token."""
        return site_width(self.settings, name)

    def embed(self, tokens_BT: jax.Array, positions_BT: jax.Array | None = None) -> jax.Array:
        """The residual stream h [B, T, D] that enters layer 0; positions count from 0 where none are given."""
        h_BTD = jnp.take(self.embedding[...], tokens_BT, axis=0)
        if self.settings.embedding_scale != 1:
            # In the parameters' dtype, as the models were trained: Gemma's factor is rounded with them.
            h_BTD = h_BTD * jnp.asarray(self.settings.embedding_scale, h_BTD.dtype)
        if self.settings.learned_positions:
            if tokens_BT.shape[1] > self.settings.context_length and positions_BT is None:
                raise ValueError(f"{tokens_BT.shape[1]} tokens: the model has {self.settings.context_length} positions")
            h_BTD = h_BTD + jnp.take(self.positions[...], _positions(tokens_BT, positions_BT), axis=0)
        return h_BTD

    def blocks(
        self,
        h_BTD: jax.Array,
        start: int,
        stop: int,
        *,
        capture: Collection[Site] = (),
        replace: Mapping[Site, Replacement] | None = None,
        positions_BT: jax.Array | None = None,
        seen_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[Site, jax.Array]]:
        """Runs layers start to stop - 1.

        Args:
            h_BTD: the residual stream that enters layer `start`.
            start: first layer, counted from 0.
            stop: one after the last layer; nothing later is computed.
            capture: sites to give back; they must lie in these layers.
            replace: arrays [B, T, W], or functions that make them of the site's own, put in place of sites before
                anything downstream reads them. A site that is captured as well gives the replacement.
            positions_BT: the position of each token; without, they count from 0.
            seen_BT: false for tokens that no other token sees (padding, on either side); without, all are seen.
                What padding itself computes means nothing.

        Returns:
            The stream that leaves layer stop - 1, and the captured arrays [B, T, W].
        """
        h_BTD, captured, _ = self._run(
            h_BTD, range(start, stop), capture, replace or {}, _positions(h_BTD, positions_BT), seen_BT
        )
        return h_BTD, captured

    def read(
        self, tokens_BT: jax.Array, *, replace: Mapping[Site, Replacement] | None = None
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Runs all layers over the beginning of a text, or over one whose end is padding.

        Args:
            tokens_BT: token ids; T is how many positions `read_on` can use.
            replace: as in `blocks`.

        Returns:
            The stream [B, T, D] after the last layer, and each layer's keys and values.
        """
        h_BTD, layers = self.embed(tokens_BT), range(self.settings.num_layers)
        h_BTD, _, caches = self._run(h_BTD, layers, (), replace or {}, _positions(h_BTD, None), None)
        return h_BTD, caches

    def read_on(
        self,
        tokens_B: jax.Array,
        at: jax.Array,
        caches: Sequence[Cache],
        *,
        replace: Mapping[Site, Replacement] | None = None,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Runs all layers over one token more of every sequence: what `read` gives there, without the others again.

        Args:
            tokens_B: token ids.
            at: their position, a scalar.
            caches: each layer's keys and values of the positions before; others are not looked at.
            replace: as in `blocks`, of this position alone.

        Returns:
            The stream [B, 1, D] after the last layer, and the caches with this position in them.
        """
        positions_11 = jnp.reshape(at, (1, 1))
        h_B1D = self.embed(tokens_B[:, None], positions_11)
        h_B1D, _, caches = self._run(
            h_B1D, range(self.settings.num_layers), (), replace or {}, positions_11, None, caches
        )
        return h_B1D, caches

    def _run(
        self,
        h_BTD: jax.Array,
        layers: range,
        capture: Collection[Site],
        replace: Mapping[Site, Replacement],
        positions_BT: jax.Array,
        seen_BT: jax.Array | None,
        caches: Sequence[Cache] = (),
    ) -> tuple[jax.Array, dict[Site, jax.Array], tuple[Cache, ...]]:
        """Some layers: the stream that leaves them, the captured sites, each one's keys and values."""
        if not 0 <= layers.start <= layers.stop <= self.settings.num_layers:
            asked, most = f"layers {layers.start} to {layers.stop}", self.settings.num_layers
            raise ValueError(f"{asked}: the model has layers 0 to {most}")
        for site in {*capture, *replace}:
            if site.layer not in layers:
                raise ValueError(f"site {site} is not in layers {layers.start} to {layers.stop - 1}")
            self.site_width(site.name)  # raises for a site that the model does not have
        captured: dict[Site, jax.Array] = {}
        after = []
        for layer in layers:
            names = {site.name for site in capture if site.layer == layer}
            here = {site.name: new for site, new in replace.items() if site.layer == layer}
            cache = caches[layer] if caches else None
            h_BTD, found, cache = self.layers[layer](h_BTD, positions_BT, seen_BT, names, here, cache)
            captured |= {Site(layer, name): array for name, array in found.items()}
            after.append(cache)
        return h_BTD, captured, tuple(after)

    def unembed(self, h_BTD: jax.Array) -> jax.Array:
        """Logits [B, T, V] of the stream that leaves the last layer (final norm included)."""
        normed_BTD = self.final_norm(h_BTD)
        if self.settings.tied_embeddings:
            logits_BTV = normed_BTD @ self.embedding[...].T
        else:
            logits_BTV = self.unembedding(normed_BTD)
        if self.settings.unembedding_bias:
            logits_BTV = logits_BTV + self.unembedding_bias[...]
        if self.settings.final_soft_cap is not None:
            logits_BTV = self.settings.final_soft_cap * jnp.tanh(logits_BTV / self.settings.final_soft_cap)
        return logits_BTV

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array | None = None, seen_BT: jax.Array | None = None
    ) -> jax.Array:
        """Logits [B, T, V] of token ids [B, T]; the other arguments as in `blocks`."""
        h_BTD = self.embed(tokens_BT, positions_BT)
        h_BTD, _ = self.blocks(h_BTD, 0, self.settings.num_layers, positions_BT=positions_BT, seen_BT=seen_BT)
        return self.unembed(h_BTD)


def _positions(x_BT: jax.Array, positions_BT: jax.Array | None) -> jax.Array:
    """The given positions, or 0, 1, 2, ... for every sequence, [1, T]."""
    return jnp.arange(x_BT.shape[1])[None] if positions_BT is None else positions_BT
