"""How well a gated (or standard) autoencoder and its JumpReLU form agree, on activations."""

from typing import Any, NamedTuple

import numpy as np

from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.jumprelu import JumpReLU
from gsae.errors import SettingError
from gsae.interop.conversion import as_jumprelu

PAIRS = 400  # features that fire, kept for a figure


class Agreement(NamedTuple):
    """What came of it.

    Attributes:
        rows: activations encoded by both.
        latents: rows times features.
        differ: of these, how many fire in one and not in the other.
        largest: the largest difference of those that fire in both, as a share of the largest activation.
        reconstruction: the largest difference of reconstructions of rows on which all agree, as a share of the largest
            number in them.
        above_zero: share of features with a threshold above zero: the gate decides, not the ReLU.
        pairs: activations that fire, [originals, converted].
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


def agreement(autoencoder: Autoencoder, x_BD: Any) -> Agreement | None:
    """Encodes and decodes activations with both; None where there is no JumpReLU form, or it is one already."""
    if isinstance(autoencoder, JumpReLU):
        return None
    try:
        converted = as_jumprelu(autoencoder)
    except SettingError:
        return None
    encoded_BF, again_BF = autoencoder.encode(x_BD), converted.encode(x_BD)
    f_BF, g_BF = np.asarray(encoded_BF), np.asarray(again_BF)
    same_BF = (f_BF > 0) == (g_BF > 0)
    both_BF = (f_BF > 0) & (g_BF > 0)
    kept_B = same_BF.all(1)
    x_hat_BD, y_hat_BD = np.asarray(autoencoder.decode(encoded_BF)), np.asarray(converted.decode(again_BF))
    where = np.flatnonzero(both_BF)
    chosen = where[:: max(len(where) // PAIRS, 1)][:PAIRS]
    return Agreement(
        rows=len(f_BF),
        latents=f_BF.size,
        differ=int((~same_BF).sum()),
        largest=_share(np.abs(f_BF - g_BF)[both_BF], f_BF),
        reconstruction=_share(np.abs(x_hat_BD - y_hat_BD)[kept_B], x_hat_BD),
        above_zero=float(np.mean(np.asarray(converted.theta) > 0)),
        pairs=(f_BF.flat[chosen].tolist(), g_BF.flat[chosen].tolist()),
    )


def _share(differences: np.ndarray, of: np.ndarray) -> float:
    return float(differences.max(initial=0) / max(np.abs(of).max(), np.finfo(np.float32).tiny))
