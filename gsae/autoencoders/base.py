"""What all architectures share: how parameters are declared, and the operations that follow from the declarations."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.struct
import jax
import jax.numpy as jnp

from gsae.autoencoders import linear
from gsae.autoencoders.context import Context
from gsae.errors import SettingError

RECONSTRUCTION_SCALES = ("sum", "width", "width_and_norm")


def parameter(*, feature_axis: int | None, trained: bool = True, optional: bool = False, scalar: bool = False) -> Any:
    """Declares an array of an architecture.

    Args:
        feature_axis: which axis of it is F, if any; sharding, resampling and the optimiser's resets follow from it.
        trained: whether a gradient moves it; other arrays are visible to `encode` and saved, but not differentiated.
        optional: whether options can leave it out; it is None then.
        scalar: one number for the whole autoencoder.
    """
    default = None if optional else dataclasses.MISSING
    metadata = {"feature_axis": feature_axis, "trained": trained, "scalar": scalar}
    return flax.struct.field(metadata=metadata, default=default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Settings that every architecture has.

    Attributes:
        reconstruction_scale: "sum" for per-example sums of squares, "width" to divide them by D, as the paper's code
            does, "width_and_norm" to divide them by D and by the batch's mean norm of what is reconstructed, as it does
            for the baselines on Pythia and Gemma.
        decoder_transpose_init: start from W_enc = W_dec^T, or from unit encoder vectors of their own.
    """

    reconstruction_scale: str = "sum"
    decoder_transpose_init: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise SettingError(f"config.sae.{field.name}", value, "must be True or False")
        if self.reconstruction_scale not in RECONSTRUCTION_SCALES:
            allowed = "must be one of " + ", ".join(RECONSTRUCTION_SCALES)
            raise SettingError("config.sae.reconstruction_scale", self.reconstruction_scale, allowed)

    def error_scale(self, target_BD: jax.Array) -> jax.Array | float:
        """What the squared-error terms of the loss are multiplied by, given what is reconstructed."""
        if self.reconstruction_scale == "sum":
            return 1.0
        if self.reconstruction_scale == "width":
            return 1.0 / target_BD.shape[-1]
        target_BD = target_BD.astype(jnp.promote_types(target_BD.dtype, jnp.float32))
        return 1.0 / (target_BD.shape[-1] * jnp.mean(jnp.sqrt(jnp.sum(jnp.square(target_BD), axis=-1))))

    def check_split(self, features: int, parts: int) -> None:
        """Refuses a number of features, or of devices that they are split over, that the options cannot have.

        Raises:
            SettingError: naming the setting.
        """

    def variant(self) -> str:
        """What sets the architecture apart from its plain form, in words, "" for nothing.

        Not the loss's scale and the start: a different unit of lambda, and another way to the same kind.
        """
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Settings of the architectures with an L1 penalty.

    Attributes:
        ri_l1: reparametrisation-invariant L1: the penalty of a feature is weighted by the norm of its decoder vector,
            which is then free (no unit-norm constraint).
    """

    ri_l1: bool = False

    def variant(self) -> str:
        """What sets it apart from the plain form, in words."""
        return "RI-L1" if self.ri_l1 else ""


class _FeatureAxes:
    """`feature_axes` of a class (all its arrays) and of an instance (those that its options leave it)."""

    def __get__(self, instance: Any, owner: type) -> Mapping[str, int | None]:
        return {
            field.name: field.metadata["feature_axis"]
            for field in dataclasses.fields(owner)
            if "feature_axis" in field.metadata and (instance is None or getattr(instance, field.name) is not None)
        }


class Autoencoder:
    """Base of the architectures: frozen dataclasses of arrays, written for one member, and pure functions on them."""

    # Of two architectures with the same arrays, each needs a class of options of its own: jax (jaxlib 0.10) takes trees
    # of two classes for equal whose other contents are, and now and then runs the program of one on the other.
    Options: ClassVar[type[CommonOptions]] = Options
    STARTS_FROM: ClassVar[type["Autoencoder"] | None] = None  # whose trained weights it begins with, if any
    feature_axes = _FeatureAxes()
    # Where a loaded one comes from (site, language model ...): plain values. No part of the pytree: the
    # very object that was loaded has it, copies (`replace`, jax's transformations) have none.
    metadata: ClassVar[Mapping[str, Any]] = {}

    # Whether the sparsity coefficient rises from 0 while it warms up: not where it is a number of features.
    warms_up: ClassVar[bool] = True
    # Whether activations have signs: a feature fires where f is not zero, and fits its vector or the opposite of it.
    signed: ClassVar[bool] = False

    # Whether activations have a bound, so that lengths are the decoder vectors'. What of a dictionary is looked at then
    # (`evaluation.dictionary`) is looked at for every point of such a run.
    bounded: ClassVar[bool] = False

    W_enc: jax.Array
    W_dec: jax.Array
    b_dec: jax.Array
    options: Any

    @classmethod
    def feature_parts(cls, features: int, options: Any) -> tuple[int, ...]:
        """How many features the parts have that its products see: all of them at once, unless it says otherwise."""
        return (features,)

    @classmethod
    def no_target_l0(cls, options: Any) -> str:
        """Why no sparsity coefficient can be found for a wanted L0; "" where more of it means fewer active features."""
        if cls.STARTS_FROM is not None:
            return "it begins with trained weights, and their L0 is its L0"
        return "" if cls.warms_up else "no coefficient decides its L0"

    def trained_fields(self) -> tuple[str, ...]:
        """The names of the arrays that gradients move; those that the options leave out are not among them."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return tuple(field.name for field in fields if field.name in self.feature_axes and field.metadata["trained"])

    def unit_norm_fields(self) -> tuple[str, ...]:
        """The arrays whose vectors along the feature axis are held at unit L2 norm."""
        return () if self.options.ri_l1 else ("W_dec",)

    def encoders(self) -> tuple[jax.Array, ...]:
        """The arrays [D, F] whose columns are encoder vectors: their mean norm is what revived ones start from."""
        return tuple(getattr(self, name) for name, axis in self.feature_axes.items() if axis == 1)

    def partition_specs(self) -> Self:
        """The same tree with, for every array of one member, where it lives on the mesh (no `sweep` axis)."""
        scalars = {field.name for field in dataclasses.fields(self) if field.metadata.get("scalar")}  # type: ignore[arg-type]
        specs = {
            name: linear.partition_spec(axis, 2 if name.startswith("W_") else 1 - (name in scalars))
            for name, axis in self.feature_axes.items()
        }
        return self.replace(**specs)

    def operands(self, x: jax.Array, context: Context | None) -> tuple[jax.Array, str]:
        """x as an array of at least the parameters' precision, and the compute dtype: the context's, or theirs."""
        dtype = self.W_enc.dtype
        x = jnp.asarray(x)
        return x.astype(jnp.promote_types(x.dtype, dtype)), context.compute_dtype if context else dtype.name

    def sparsity_penalty(self, f_BF: jax.Array) -> jax.Array:
        """Mean over the batch of ||f||_1, or under RI-L1 of sum_i f_i ||d_i||, for f >= 0."""
        if not self.options.ri_l1:
            return jnp.sum(f_BF) / f_BF.shape[0]
        return jnp.sum(jnp.sum(f_BF, axis=0) * linear.row_norms(self.W_dec)) / f_BF.shape[0]

    def active(self, f: jax.Array) -> jax.Array:
        """Which features fire: bool, the shape of f."""
        return jnp.abs(f) > 0 if self.signed else f > 0

    def fired(self, f_BF: jax.Array) -> jax.Array:
        """In how many rows of a batch (below 2^24) each feature is active: int32 [F].

        The sign of |f| is what `active` says, as a number: XLA's CPU backend adds it up while it reads f, where it
        would write a whole [B, F] array of converted booleans first.
        """
        return jnp.sum(jnp.sign(jnp.abs(f_BF) if self.signed else f_BF), axis=0).astype(jnp.int32)

    def decode(self, f: jax.Array) -> jax.Array:
        """x_hat = f W_dec + b_dec: [..., F] -> [..., D]."""
        return linear.decode(jnp.asarray(f, self.W_dec.dtype), self.W_dec) + self.b_dec

    def calibration_rows(self) -> int:
        """How many rows, about, `calibrate` wants to see; 0: it is not called."""
        return 0

    def calibrate(self, x_ND: jax.Array) -> Self:
        """A fresh one after it has seen a sample of what it will train on: here, the same.

        Traced, and called once before the first update; not on resuming, and not where `STARTS_FROM` gives the
        weights. Every array keeps its shape, dtype and sharding.

        Args:
            x_ND: float32 rows, scaled as in training, over `data` on a mesh; their order means nothing.
        """
        return self

    def after_update(self, stats: Mapping[str, jax.Array]) -> Self:
        """What happens outside the optimiser after each update (thresholds, rules of their own): here, nothing."""
        return self

    def revive(self, dead_F: jax.Array, directions_FD: jax.Array, encoder_scale: jax.Array) -> Self:
        """Gives dead features new vectors, and every number of their own (biases, gains) its `initial_value`.

        Args:
            dead_F: bool [F].
            directions_FD: unit vectors [F, D], read where dead: the new decoder vectors.
            encoder_scale: scalar: the new encoder vectors are the directions times this.
        """
        return self.replace(
            **{
                name: self._revived(name, axis, dead_F, directions_FD, encoder_scale)
                for name, axis in self.feature_axes.items()
                if axis is not None
            }
        )

    def _revived(self, name, axis, dead_F, directions_FD, encoder_scale):
        old = getattr(self, name)
        if name == "W_dec":
            return jnp.where(dead_F[:, None], directions_FD, old).astype(old.dtype)
        if axis == 1:
            return jnp.where(dead_F, directions_FD.T * encoder_scale, old).astype(old.dtype)
        return jnp.where(dead_F, self.initial_value(name), old).astype(old.dtype)

    def initial_value(self, name: str) -> float:
        """What an array without D holds at the start, and again for a feature that is revived."""
        return 0.0

    def rescaled(self, scale: float) -> Self:
        """For raw activations x, the one that was trained on x * scale.

        (x s - b) W + c = s [(x - b / s) W + c / s], and ReLU and step commute with a positive factor. So dividing every
        bias by s gives f = f_trained / s: the same features fire, x_hat = x_hat_trained / s, and W_dec keeps its norms.
        Gains (r_mag) multiply the product, not the bias, and stay.

        Raises:
            ValueError: when scale is not positive.
        """
        if not scale > 0:
            raise ValueError(f"scale = {scale!r}: must be positive")
        biases = [name for name in self.feature_axes if name.startswith("b_")]
        return self.replace(**{name: getattr(self, name) / scale for name in biases})

    def plain(self) -> "Autoencoder":
        """The same function as other tools know it: of a plain class, where only training differs. Here, itself."""
        return self

    def replace(self, **changes: Any) -> Self:
        """A copy with other arrays (from flax.struct)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def with_metadata(self, metadata: Mapping[str, Any]) -> Self:
        """This autoencoder, saying where it comes from."""
        if metadata:
            object.__setattr__(self, "metadata", dict(metadata))  # frozen: for arrays; this is none
        return self

    @classmethod
    def initialise(cls, key: jax.Array, activation_width: int, features: int, options: Any) -> Self:
        """A fresh one, float32."""
        raise NotImplementedError

    @classmethod
    def starting_from(cls, trained: "Autoencoder", options: Any) -> Self:
        """The one that begins as `trained` (of the class `STARTS_FROM`) left off."""
        raise NotImplementedError

    def encode(self, x: jax.Array, context: Context | None = None) -> jax.Array:
        """Feature activations: [..., D] -> [..., F]."""
        raise NotImplementedError

    def loss(self, batch: Mapping[str, jax.Array], context: Context) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The training loss of a batch {"x": [B, D], "target"?: [B, D]}, a scalar, and statistics by name."""
        raise NotImplementedError


def unit_vectors(key: jax.Array, features: int, activation_width: int) -> jax.Array:
    """Random unit vectors, float32 [F, D]."""
    vectors_FD = jax.random.normal(key, (features, activation_width), jnp.float32)
    return vectors_FD / linear.row_norms(vectors_FD)[:, None]


def initial_weights(key, activation_width: int, features: int, options: CommonOptions) -> tuple[jax.Array, jax.Array]:
    """W_enc [D, F] and W_dec [F, D]: unit decoder vectors; encoder vectors the same, or unit vectors of their own."""
    decoder_key, encoder_key = jax.random.split(key)
    W_dec_FD = unit_vectors(decoder_key, features, activation_width)
    if options.decoder_transpose_init:
        return W_dec_FD.T, W_dec_FD
    return unit_vectors(encoder_key, features, activation_width).T, W_dec_FD
