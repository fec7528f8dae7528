"""How well an autoencoder reconstructs activations: sums over tokens on the device, means and ratios on the host.

The device sums in float32 over at most a few thousand tokens; the host adds those sums in float64 and firings in int64.
Every metric is a function of means over all tokens that count, so the batch size changes nothing but rounding. What is
measured about a mean (FVU, centred gamma) is summed relative to a provisional shift, the mean of the first batch: sums
of squares around a point far from the mean would cancel.

Axes: N tokens, D activation width, F features.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CHUNK_BYTES = 4 << 20  # one [tokens, F] float32 array of a chunk: it stays in a CPU's cache (measured: twice as fast)
CHUNK_TOKENS = (256, 4096)  # fewest, most: enough rows for a matrix unit, few enough for float32 sums
FLOAT32_NOISE = 1e-6  # relative error of the device's sums, with a margin


def rows_at_once(width: int) -> int:
    """How many tokens of `width` float32 numbers each make a chunk: a power of two."""
    fewest, most = CHUNK_TOKENS
    return min(max(1 << (max(CHUNK_BYTES // (4 * width), 1).bit_length() - 1), fewest), most)


@jax.jit
def reconstruct(
    autoencoder: Any, x_BTD: jax.Array, keep_BT: jax.Array, shift_D: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Encodes and decodes activations, in float32 and in chunks of tokens. Compiled once for each kind and size.

    Args:
        autoencoder: one that takes raw activations (arrays are arguments of the program, not constants).
        x_BTD: activations.
        keep_BT: bool, the tokens that count.
        shift_D: the provisional shift of the centred sums; any point near the activations' mean.

    Returns:
        The reconstruction [B, T, D], also of tokens that do not count, and the sums that `Sums.add` takes.
    """
    x_ND = x_BTD.reshape(-1, x_BTD.shape[-1]).astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
    keep_N, tokens = keep_BT.reshape(-1), x_ND.shape[0]
    features = jax.eval_shape(autoencoder.encode, x_ND[:1]).shape[-1]
    chunk = min(rows_at_once(features), tokens)
    padding = -tokens % chunk
    x_KCD = jnp.pad(x_ND, ((0, padding), (0, 0))).reshape(-1, chunk, x_ND.shape[-1])
    keep_KC = jnp.pad(keep_N, (0, padding)).reshape(-1, chunk)

    def one_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        x_CD, keep_C = inputs
        # Accelerators round the operands of float32 products by default: a metric must not see that.
        with jax.default_matmul_precision("highest"):
            f_CF = autoencoder.encode(x_CD)
            x_hat_CD = autoencoder.decode(f_CF)
        return x_hat_CD, _sums(x_CD, x_hat_CD, f_CF, autoencoder.active(f_CF), keep_C, shift_D)

    x_hat_KCD, sums = jax.lax.map(one_chunk, (x_KCD, keep_KC))
    sums["fired"] = sums["fired"].sum(0)  # exact in int32; the other sums of chunks go to the host one by one
    return x_hat_KCD.reshape(-1, x_ND.shape[-1])[:tokens].reshape(x_BTD.shape), sums


def _sums(x_CD, x_hat_CD, f_CF, active_CF, keep_C, shift_D) -> dict[str, jax.Array]:
    def over_tokens(values):
        """Sum over the tokens that count; `where`, so that what is not finite elsewhere stays out."""
        keep = keep_C.reshape(keep_C.shape + (1,) * (values.ndim - 1))
        return jnp.where(keep, values, 0).sum(0)

    def dot(a, b):
        return (a * b).sum(-1)

    y_CD, y_hat_CD = x_CD - shift_D, x_hat_CD - shift_D
    x_squared_C, x_hat_squared_C, x_dot_x_hat_C = dot(x_CD, x_CD), dot(x_hat_CD, x_hat_CD), dot(x_CD, x_hat_CD)
    x_norm_C, x_hat_norm_C = jnp.sqrt(x_squared_C), jnp.sqrt(x_hat_squared_C)
    norms_C = x_norm_C * x_hat_norm_C
    per_token = {
        "squared_error": dot(x_CD - x_hat_CD, x_CD - x_hat_CD),
        "x_squared": x_squared_C,
        "x_hat_squared": x_hat_squared_C,
        "x_dot_x_hat": x_dot_x_hat_C,
        "x_norm": x_norm_C,
        "x_hat_norm": x_hat_norm_C,
        "cosine": jnp.where(norms_C == 0, 0, x_dot_x_hat_C / jnp.where(norms_C == 0, 1, norms_C)),
        "l1": jnp.abs(f_CF).sum(-1),
        "y": y_CD,
        "y_hat": y_hat_CD,
        "y_squared": dot(y_CD, y_CD),
        "y_hat_squared": dot(y_hat_CD, y_hat_CD),
        "y_dot_y_hat": dot(y_CD, y_hat_CD),
    }
    counts = {"tokens": keep_C.sum(dtype=jnp.int32), "fired": (active_CF & keep_C[:, None]).sum(0, dtype=jnp.int32)}
    return {name: over_tokens(values) for name, values in per_token.items()} | counts


class Sums:
    """The sums of one autoencoder over all batches so far, in float64 and int64.

    Args:
        shift_D: the provisional shift that every batch was summed with.
    """

    def __init__(self, shift_D: np.ndarray):
        self.shift_D = np.asarray(shift_D, np.float64)
        self.totals: dict[str, np.ndarray] = {}

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds the sums of one batch (waits for the device)."""
        for name, value in sums.items():
            array = np.asarray(value)
            wide = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)
            total = wide if name == "fired" else wide.sum(0)
            self.totals[name] = self.totals.get(name, 0) + total

    @property
    def density_F(self) -> np.ndarray:
        """The share of tokens on which each feature fires, float64 [F]."""
        return _ratio(self.totals["fired"], self.totals["tokens"])

    def metrics(self) -> dict[str, float]:
        """The metrics of the reconstruction; nan where a denominator is zero. E is the mean over tokens that count.

        l0: E of the number of active features. l1: E||f||_1. gamma: E||x_hat||^2 / E[x_hat . x] (Rajamanoharan et al.
        2024, relative reconstruction bias; below 1 is shrinkage). gamma_centred: the same of x and x_hat minus the mean
        of each. fvu: E||x - x_hat||^2 / E||x - E x||^2. cosine: E[cos(x, x_hat)], 0 where one is zero. norm_ratio:
        E||x_hat|| / E||x||. mean_share: ||E x||^2 / E||x||^2. alive: the share of features that fired at least once in
        the `tokens` tokens.
        """
        tokens = self.totals["tokens"]
        mean = {name: _ratio(total, tokens) for name, total in self.totals.items()}
        y_mean_D, y_hat_mean_D = mean["y"], mean["y_hat"]
        variance = mean["y_squared"] - y_mean_D @ y_mean_D
        x_hat_variance = mean["y_hat_squared"] - y_hat_mean_D @ y_hat_mean_D
        covariance = mean["y_dot_y_hat"] - y_mean_D @ y_hat_mean_D
        if x_hat_variance <= FLOAT32_NOISE * mean["y_hat_squared"]:
            covariance = 0.0  # a constant reconstruction: rounding over rounding would look like a number
        x_mean_D = self.shift_D + y_mean_D
        fired_F = self.totals["fired"]
        values = {
            "l0": _ratio(fired_F.sum(), tokens),
            "l1": mean["l1"],
            "gamma": _ratio(mean["x_hat_squared"], mean["x_dot_x_hat"]),
            "gamma_centred": _ratio(x_hat_variance, covariance),
            "fvu": _ratio(mean["squared_error"], variance),
            "cosine": mean["cosine"],
            "norm_ratio": _ratio(mean["x_hat_norm"], mean["x_norm"]),
            "mean_share": _ratio(x_mean_D @ x_mean_D, mean["x_squared"]),
            "alive": (fired_F > 0).mean(),
            "tokens": tokens,
        }
        return {name: float(value) for name, value in values.items()}


@jax.jit
def mean_of(x_BTD: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """The mean of the tokens that count, [D] float32: a good provisional shift."""
    kept = jnp.where(keep_BT[..., None], x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32)), 0)
    return kept.sum((0, 1)) / jnp.maximum(keep_BT.sum(), 1)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator in float64, nan where the denominator is zero."""
    denominator = np.asarray(denominator, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator == 0, np.nan, np.asarray(numerator, np.float64) / denominator)[()]
