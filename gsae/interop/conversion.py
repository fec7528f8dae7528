"""The same function of activations in other parameters. Computed in float64, rounded once.

Axes: D activation width, F features.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.batchtopk import BatchTopK
from gsae.autoencoders.gated import Gated, GatedOptions
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.autoencoders.rescaled import RescaledStandard
from gsae.autoencoders.standard import Standard
from gsae.autoencoders.topk import TopK
from gsae.errors import RunError, SettingError

UNIT_NORM = 1e-3  # how far from one the norm of a decoder vector that is held at one may be, rounding included
Arrays = dict[str, np.ndarray]


def arrays64(autoencoder: Autoencoder, but: Collection[str] = ()) -> Arrays:
    """The arrays of an autoencoder in float64, by our names, but for some."""
    return {
        name: np.asarray(jax.device_get(getattr(autoencoder, name)), np.float64)
        for name in autoencoder.feature_axes
        if name not in but
    }


def as_gated(autoencoder: Autoencoder) -> Gated:
    """The gated autoencoder that computes the same, to the last bit of its parameters.

    A standard autoencoder whose magnitudes were learnt anew is a tied gated one: the old biases are the gate's.

    Raises:
        SettingError: where there is none.
    """
    if isinstance(autoencoder, Gated):
        return autoencoder
    if not isinstance(autoencoder, RescaledStandard):
        raise SettingError("as", "gated", f"no conversion of a {type(autoencoder).__name__} is known")
    arrays = arrays64(autoencoder)
    arrays["b_gate"] = arrays.pop("b_enc")
    options = GatedOptions(ri_l1=not has_unit_norm_decoder(arrays["W_dec"]))
    return build(Gated, options, arrays).with_metadata(autoencoder.metadata)


def as_others_know_it(autoencoder: Autoencoder) -> Autoencoder:
    """As an autoencoder of the plain class that computes the same: how it was trained is no part of other formats."""
    return autoencoder.plain().with_metadata(autoencoder.metadata)


def as_jumprelu(autoencoder: Autoencoder) -> JumpReLU:
    """The JumpReLU autoencoder that computes the same features and reconstructions, to rounding.

    A gated one is on where pi_gate > 0, which is pi_mag > b_mag - exp(r_mag) b_gate, and its ReLU needs pi_mag > 0
    (Rajamanoharan et al. 2024, 2404.16014, appendix E); a standard one has the threshold 0. A latent within rounding of
    its threshold may differ. One that selects over a batch while it trains, and by a threshold afterwards, has it here
    too.

    Raises:
        SettingError: for an untied gated one, whose gate and magnitudes see different directions, and for one that
            keeps the k largest, which no threshold does.
    """
    plain = as_others_know_it(autoencoder)
    if isinstance(plain, JumpReLU):
        return plain
    decoder = {name: np.asarray(jax.device_get(getattr(plain, name))) for name in ("W_dec", "b_dec")}
    made = thresholded_encoder(plain) | decoder
    return build(JumpReLU, JumpReLUOptions(log_threshold=False), made).with_metadata(autoencoder.metadata)


def thresholded_encoder(autoencoder: Autoencoder) -> Arrays:
    """W_enc, b_enc and threshold of the JumpReLU that computes the same, float64; its decoder is the autoencoder's own.

    Features stay in the order in which they are stored, and each follows from its own numbers alone: the arrays may be
    those of some features.

    Raises:
        SettingError: as `as_jumprelu`.
    """
    arrays = arrays64(autoencoder, but=("W_dec",))
    if isinstance(autoencoder, RescaledStandard):
        arrays["b_gate"] = arrays.pop("b_enc")  # a gated one: `as_gated`
    if isinstance(autoencoder, Standard):
        gain_F, bias_F, theta_F = np.ones_like(arrays["b_enc"]), arrays["b_enc"], np.zeros_like(arrays["b_enc"])
    elif isinstance(autoencoder, Gated | RescaledStandard):
        if "W_mag" in arrays:
            reason = "one threshold a feature cannot say what an untied gated autoencoder's two encoders do"
            raise SettingError("as", "jumprelu", reason)
        gain_F, bias_F = np.exp(arrays.get("r_mag", np.zeros_like(arrays["b_mag"]))), arrays["b_mag"]
        theta_F = np.maximum(0, bias_F - gain_F * arrays["b_gate"])
    elif isinstance(autoencoder, BatchTopK):
        gain_F, bias_F = np.ones_like(arrays["b_enc"]), arrays["b_enc"]
        theta_F = np.broadcast_to(np.maximum(0.0, arrays["threshold"]), bias_F.shape)  # one, or one of each feature
    elif isinstance(autoencoder, TopK):
        reason = f"a {type(autoencoder).__name__} keeps each token's k largest features; no threshold does"
        raise SettingError("as", "jumprelu", reason)
    else:
        raise SettingError("as", "jumprelu", f"no conversion of a {type(autoencoder).__name__} is known")
    W_enc_DF = arrays["W_enc"] * gain_F
    return {"W_enc": W_enc_DF, "b_enc": bias_F - arrays["b_dec"] @ W_enc_DF, "threshold": theta_F}


def with_unit_norm_decoder(autoencoder: Autoencoder) -> Autoencoder:
    """The same reconstructions from decoder vectors of norm one: features are multiplied by the old norms.

    Raises:
        SettingError: when a decoder vector is zero, and where features are selected by what they are compared to.
    """
    if isinstance(autoencoder, TopK):
        reason = "would change which features are the largest, or reach the threshold"
        raise SettingError("unit_norm_decoder", True, reason)
    arrays = arrays64(autoencoder)
    norms_F = np.linalg.norm(arrays["W_dec"], axis=1)
    if not np.all(norms_F > 0):
        reason = f"{int((norms_F == 0).sum())} decoder vectors are zero and have no direction"
        raise SettingError("unit_norm_decoder", True, reason)
    if "log_threshold" in arrays:
        arrays["log_threshold"] += np.log(norms_F)
    scaled = {name: arrays[name] * norms_F for name in ("W_enc", "W_mag", "b_enc", "b_gate", "b_mag", "threshold")
              if name in arrays}  # fmt: skip
    arrays |= scaled | {"W_dec": arrays["W_dec"] / norms_F[:, None]}
    return build(type(autoencoder), autoencoder.options, arrays).with_metadata(autoencoder.metadata)


def has_unit_norm_decoder(W_dec_FD: np.ndarray) -> bool:
    """Whether every decoder vector has norm one, but for rounding."""
    return bool(np.all(np.abs(np.linalg.norm(np.asarray(W_dec_FD, np.float64), axis=1) - 1) < UNIT_NORM))


def build(cls: type[Any], options: Any, arrays: Mapping[str, np.ndarray], source: str | Path = "arrays") -> Any:
    """An autoencoder of float32 arrays by our names.

    Raises:
        RunError: when their shapes do not belong together, or a number is not finite; `source` is what is blamed.
    """
    if arrays["W_enc"].ndim != 2:
        raise RunError(f"{source}: the encoder has shape {arrays['W_enc'].shape}, not [D, F]")
    activation_width, features = arrays["W_enc"].shape
    scalars = {field.name for field in dataclasses.fields(cls) if field.metadata.get("scalar")}
    for name, array in arrays.items():
        expected: tuple[int, ...] = {0: (features,), 1: (activation_width, features), None: (activation_width,)}[
            cls.feature_axes[name]
        ]
        expected = (features, activation_width) if name == "W_dec" else () if name in scalars else expected
        if array.shape != expected:
            raise RunError(f"{source}: {name} has shape {array.shape}; with W_enc {(activation_width, features)} it "
                           f"must have {expected}")  # fmt: skip
        if not np.all(np.isfinite(array)):
            raise RunError(f"{source}: {name} holds numbers that are not finite")
    return cls(**{name: jnp.asarray(np.asarray(array, np.float32)) for name, array in arrays.items()}, options=options)
