"""How well a gated (or standard) autoencoder and its JumpReLU form agree, on activations.

The comparison is one program of reductions. On an explicit mesh of `gsae.mesh` tokens are split over `data` and
features over `feature`, as everywhere: counts and maxima are what its devices tell each other, beside reconstructions.

Axes: B activations, D their width, F features, R runs of activations.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.errors import SettingError
from gsae.interop.conversion import thresholded_encoder

PAIRS = 400  # features that fire, kept for a figure
ENCODER = ("W_enc", "b_enc", "threshold")  # in what a JumpReLU form differs; features are the last axis of each
AT_ONCE = 1 << 24  # weights in one conversion, which takes 16 bytes a weight of the host


class Agreement(NamedTuple):
    """What came of it.

    Attributes:
        rows: activations encoded by both.
        latents: rows times features.
        differ: of these, how many fire in one and not in the other.
        largest: the largest difference of those that fire in both, as a share of the largest activation; nan where
            that is not finite.
        reconstruction: the largest difference of reconstructions of rows on which all agree, as a share of the largest
            number in them.
        above_zero: share of features with a threshold above zero: the gate decides, not the ReLU.
        pairs: activations that fire, [originals, converted]: of each feature the first in each of as many runs of
            rows as give enough, or some of these.
    """

    rows: int
    latents: int
    differ: int
    largest: float
    reconstruction: float
    above_zero: float
    pairs: tuple[list[float], list[float]]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()

    @classmethod
    def of(cls, compared: Mapping[str, Any], rows: int) -> "Agreement":
        """What `compare` found, fetched, on so many activations."""
        f_N, g_N = (np.ravel(compared[name]) for name in ("f_RF", "g_RF"))
        fired = np.flatnonzero(f_N > 0)
        chosen = fired[:: -(-len(fired) // PAIRS) or 1]
        features = compared["f_RF"].shape[1]
        return cls(
            rows=rows,
            latents=rows * features,
            differ=int(compared["differ"]),
            largest=_share(compared["largest"], compared["largest_of_all"]),
            reconstruction=_share(compared["reconstruction"], compared["reconstruction_of_all"]),
            above_zero=int(compared["above_zero"]) / features,
            pairs=(f_N[chosen].tolist(), g_N[chosen].tolist()),
        )


def agreement(autoencoder: Autoencoder, x_BD: Any) -> Agreement | None:
    """Encodes and decodes activations with both, on one device; None where `has_form` says no."""
    if not has_form(autoencoder):
        return None
    encoder = encoder_of_form(autoencoder, slice(0, autoencoder.W_dec.shape[0]))
    compared = compare(autoencoder, form(autoencoder, encoder), x_BD, np.arange(len(x_BD), dtype=np.int32))
    return Agreement.of(jax.device_get(compared), len(x_BD))


def has_form(autoencoder: Autoencoder) -> bool:
    """Whether there is a JumpReLU form to compare with: it has one, and is none already. Its numbers say nothing."""
    if isinstance(autoencoder, JumpReLU):
        return False
    try:
        thresholded_encoder(_features(autoencoder, 0, 0))
    except SettingError:
        return False
    return True


def form(autoencoder: Autoencoder, encoder: Mapping[str, Any]) -> JumpReLU:
    """The JumpReLU of arrays by the names of `ENCODER`, and of an autoencoder's decoder, wherever they all are."""
    decoder: dict[str, Any] = {"W_dec": autoencoder.W_dec, "b_dec": autoencoder.b_dec}
    return JumpReLU(**encoder, **decoder, options=JumpReLUOptions(log_threshold=False))


def encoder_of_form(autoencoder: Autoencoder, features: slice) -> dict[str, np.ndarray]:
    """What `form` takes, for features from `start` to `stop` of an autoencoder in the host's memory; float32."""
    at_once = max(AT_ONCE // autoencoder.W_dec.shape[1], 1)
    starts = range(features.start, features.stop, at_once)
    made = [thresholded_encoder(_features(autoencoder, at, min(at + at_once, features.stop))) for at in starts]
    return {name: np.concatenate([part[name].astype(np.float32) for part in made], axis=-1) for name in ENCODER}


def _features(autoencoder: Autoencoder, start: int, stop: int) -> Autoencoder:
    """Some of its features, one after the other."""
    parts: dict[str, Any] = {}
    for name, axis in autoencoder.feature_axes.items():
        if axis is not None:
            parts[name] = getattr(autoencoder, name)[(slice(None),) * axis + (slice(start, stop),)]
    return autoencoder.replace(**parts)


@jax.jit
def compare(autoencoder: Any, converted: Any, x_BD: jax.Array, row_B: jax.Array) -> dict[str, jax.Array]:
    """What `Agreement.of` takes, from an autoencoder and its form.

    Args:
        autoencoder: one that takes raw activations; on a mesh, as `partition_specs` says.
        converted: its form, with its features in the same order.
        x_BD: activations; on a mesh, B over `data`.
        row_B: int32, their numbers from 0, below zero for those that do not count; split alike.
    """
    x_BD = x_BD.astype(jnp.promote_types(x_BD.dtype, jnp.float32))
    with jax.default_matmul_precision("highest"):  # accelerators round the operands by default
        f_BF, g_BF = autoencoder.encode(x_BD), converted.encode(x_BD)
        x_hat_BD, y_hat_BD = autoencoder.decode(f_BF), converted.decode(g_BF)
    counts_B1 = row_B[:, None] >= 0
    f_BF, g_BF = jnp.where(counts_B1, f_BF, 0), jnp.where(counts_B1, g_BF, 0)
    both_BF = (f_BF > 0) & (g_BF > 0)
    differ_B = jnp.sum((f_BF > 0) != (g_BF > 0), axis=1, dtype=jnp.int32)
    agree_B1 = counts_B1 & (differ_B == 0)[:, None]
    f_RF, g_RF = _first_in_runs(f_BF, g_BF, both_BF, row_B)
    return {
        "differ": jnp.sum(differ_B),
        "largest": jnp.max(jnp.where(both_BF, jnp.abs(f_BF - g_BF), 0)),
        "largest_of_all": jnp.max(jnp.abs(f_BF)),
        "reconstruction": jnp.max(jnp.where(agree_B1, jnp.abs(x_hat_BD - y_hat_BD), 0)),
        "reconstruction_of_all": jnp.max(jnp.where(counts_B1, jnp.abs(x_hat_BD), 0)),
        "above_zero": jnp.sum(converted.theta > 0, dtype=jnp.int32),
        "f_RF": f_RF,
        "g_RF": g_RF,
    }


def _first_in_runs(f_BF, g_BF, both_BF, row_B) -> tuple[jax.Array, jax.Array]:
    """In each run of rows the first activation of each feature, [R, F]; zero where it has none.

    Found by reductions alone: where it is, and then the sum of all that stand there.
    """
    rows, runs = jnp.max(row_B) + 1, -(-PAIRS // f_BF.shape[1])

    def first(run: jax.Array) -> tuple[jax.Array, jax.Array]:
        here_BF = both_BF & (row_B * runs // rows == run)[:, None]
        row_F = jnp.min(jnp.where(here_BF, row_B[:, None], rows), axis=0)
        is_first_BF = here_BF & (row_B[:, None] == row_F)
        return jnp.sum(jnp.where(is_first_BF, f_BF, 0), axis=0), jnp.sum(jnp.where(is_first_BF, g_BF, 0), axis=0)

    return jax.lax.map(first, jnp.arange(runs))


def _share(difference: Any, of: Any) -> float:
    return float(difference / np.maximum(of, np.finfo(np.float32).tiny)) if np.isfinite(of) else float("nan")
