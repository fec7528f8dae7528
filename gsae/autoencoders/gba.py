"""Group Bias Adaptation (Chen et al., arXiv 2506.14002): biases moved by a rule towards target firing frequencies.

No sparsity term: every `every` updates, the biases of features that fired more often than their group's target go down,
those of silent ones go up. The reconstruction alone trains the rest. The targets of the groups fall geometrically.

Ours: the sparsity coefficient is the sum of all features' targets, so that it is the most that L0 settles at (the paper
names the first group's target); b_dec gets its gradient from the decoder alone, because through the encoder it grows
until it undoes the biases; inputs have unit mean squared norm over the data where the paper gives each unit norm; gains
are exp(log_gain), so that activations are not negative; features stand in groups by index, in blocks.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from gsae.autoencoders import base, linear
from gsae.autoencoders.base import parameter
from gsae.autoencoders.context import Context
from gsae.autoencoders.statistics import mean_squared_norm, reconstruction_statistics
from gsae.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GBAOptions(base.CommonOptions):
    """Settings of Group Bias Adaptation; defaults are the paper's where nothing else is said.

    Attributes:
        groups: K, with a target each.
        frequency_span: the first group's target over the last one's. The paper's targets go from 0.1 or 0.5 to 0.001.
        every: updates between two moves of the biases.
        step_down, step_up: how far a bias moves, as shares of the largest pre-activation since the last move: the
            feature's own on the way down, the mean of its group's on the way up.
        silent: a feature that fires on a smaller share of the rows is silent.
        least_bias: where biases stop on the way down; on the way up it is 0.
        jump: pass on (x - b_dec) w without the bias where a feature fires ("JumpReLU" in the paper), which takes the
            threshold out of the magnitude.
    """

    groups: int = 10
    frequency_span: float = 100.0
    every: int = 50
    step_down: float = 0.01
    step_up: float = 0.01
    silent: float = 1e-6
    least_bias: float = -1.0
    jump: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decoder_transpose_init:
            raise SettingError("config.sae.decoder_transpose_init", False, "must be True: the encoder is the decoder")
        for name in ("groups", "every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingError(f"config.sae.{name}", value, "must be a whole number from 1")
        for name, least, most in (
            ("frequency_span", 1, math.inf),
            ("step_down", 0, 1),
            ("step_up", 0, 1),
            ("silent", 0, 1),
            ("least_bias", -math.inf, 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, float | int) or not least <= value <= most:
                raise SettingError(f"config.sae.{name}", value, f"must be a number from {least} to {most}")


@flax.struct.dataclass
class GBA(base.Autoencoder):
    """y = (x - b_dec) W_dec^T + b_enc, f = exp(log_gain) ReLU(y), x_hat = f W_dec + b_dec, unit rows of W_dec."""

    Options = GBAOptions
    warms_up: ClassVar[bool] = False

    W_dec: jax.Array = parameter(feature_axis=0)  # [F, D]
    b_dec: jax.Array = parameter(feature_axis=None)  # [D]
    log_gain: jax.Array = parameter(feature_axis=0)  # [F]
    b_enc: jax.Array = parameter(feature_axis=0, trained=False)  # [F]: moved by the rule
    share: jax.Array = parameter(feature_axis=0, trained=False)  # [F]: of rows on which it fired, summed over batches
    largest: jax.Array = parameter(feature_axis=0, trained=False)  # [F]: the largest y, 0 if none was positive
    batches: jax.Array = parameter(feature_axis=None, trained=False, scalar=True)  # []: since the last move, as above
    options: GBAOptions = flax.struct.field(pytree_node=False, default=GBAOptions())

    @property
    def W_enc(self) -> jax.Array:  # type: ignore[override]
        """The decoder, transposed: no array of its own."""
        return self.W_dec.T

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: GBAOptions) -> Self:
        """Unit decoder vectors, everything else zero; float32."""
        zeros_F = jnp.zeros(features, jnp.float32)
        return cls(
            W_dec=base.initial_weights(key, activation_width, features, options)[1],
            b_dec=jnp.zeros(activation_width, jnp.float32),
            log_gain=zeros_F,
            b_enc=zeros_F,
            share=zeros_F,
            largest=zeros_F,
            batches=jnp.float32(0),
            options=options,
        )

    def unit_norm_fields(self) -> tuple[str, ...]:
        """W_dec, encoder and decoder in one."""
        return ("W_dec",)

    def encoders(self) -> tuple[jax.Array, ...]:
        """The decoder's transpose."""
        return (self.W_enc,)

    def activations(self, y: jax.Array) -> jax.Array:
        """f of y: [..., F] -> [..., F]."""
        magnitude = jnp.where(y > 0, jax.nn.relu(y - self.b_enc), 0) if self.options.jump else jax.nn.relu(y)
        return jnp.exp(self.log_gain) * magnitude

    def preactivations(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """y: [..., D] -> [..., F]."""
        x, compute_dtype = self.operands(x, context)
        return linear.encode(x, stop_gradient(self.b_dec), self.W_enc, compute_dtype) + self.b_enc

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        return self.activations(self.preactivations(x, context))

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """||x - x_hat||^2, summed over an example, averaged over the batch; with its statistics.

        Five products of B D F multiplications with its gradient.
        """
        x_BD = batch["x"]
        target_BD = batch.get("target", x_BD)
        y_BF = self.preactivations(x_BD, context)
        f_BF = self.activations(y_BF)
        x_hat_BD = linear.decode(f_BF, self.W_dec, context.compute_dtype) + self.b_dec
        reconstruction = self.options.error_scale(target_BD) * mean_squared_norm(target_BD - x_hat_BD)
        fired_F, nothing = self.fired(f_BF), jnp.zeros_like(reconstruction)
        stats = reconstruction_statistics(target_BD, x_hat_BD, fired_F)
        stats |= {"reconstruction": reconstruction, "sparsity": nothing, "auxiliary": nothing}
        seen = {"share": fired_F.astype(y_BF.dtype) / y_BF.shape[0], "largest": jnp.max(y_BF, axis=0)}
        return reconstruction, stats | seen | {"k": context.sparsity_coefficient}

    def targets(self, k: jax.Array) -> jax.Array:
        """The firing frequency allowed to each feature, [F]: k in sum, where none would exceed 1."""
        last = max(self.options.groups - 1, 1)
        fall_F = jnp.exp(-math.log(self.options.frequency_span) / last * self._group())
        return jnp.minimum(1, k * fall_F / jnp.sum(fall_F))

    def _group(self) -> jax.Array:
        features = self.W_dec.shape[0]
        return jnp.arange(features) * self.options.groups // features

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """Counts, and moves the biases when it is time to."""
        seen = {
            "share": self.share + stats["share"],
            "largest": jnp.maximum(self.largest, stats["largest"]),
            "batches": self.batches + 1,
        }
        due = seen["batches"] >= self.options.every
        moved_F = self._moved(seen["share"] / seen["batches"], seen["largest"], self.targets(stats["k"]))
        changed = {name: jnp.where(due, 0, value) for name, value in seen.items()}
        changed |= {"b_enc": jnp.where(due, moved_F, self.b_enc)}
        return self.replace(**{name: value.astype(getattr(self, name).dtype) for name, value in changed.items()})

    def _moved(self, frequency_F: jax.Array, largest_F: jax.Array, target_F: jax.Array) -> jax.Array:
        """The biases after a move: down where a feature fired too often, up where it is silent."""
        options, largest_F = self.options, jnp.maximum(largest_F, 0)
        member_KF = self._group() == jnp.arange(options.groups)[:, None]
        total_K = jnp.sum(jnp.where(member_KF, largest_F, 0), axis=1)
        firing_K = jnp.sum(member_KF & (largest_F > 0), axis=1)
        mean_K = total_K / jnp.maximum(firing_K, 1)
        mean_F = jnp.sum(jnp.where(member_KF, mean_K[:, None], 0), axis=0)
        down_F = jnp.maximum(self.b_enc - options.step_down * largest_F, options.least_bias)
        up_F = jnp.minimum(self.b_enc + options.step_up * mean_F, 0)
        silent_F = frequency_F < options.silent
        return jnp.where(frequency_F > target_F, down_F, jnp.where(silent_F, up_F, self.b_enc))
