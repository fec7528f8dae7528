"""How well an autoencoder reconstructs activations: sums over tokens on the device, means and ratios on the host.

The device sums in float32 over at most a few thousand tokens; the host adds those sums in float64 and firings in int64.
Every metric is a function of means over all tokens that count, so the batch size changes nothing but rounding. What is
measured about a mean (FVU, centred gamma) is summed relative to a provisional shift, the mean of the first batch: sums
of squares around a point far from the mean would cancel.

Axes: N tokens, C of them in a chunk, M shards of tokens on a mesh, D activation width, F features.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gsae import mesh as axes
from gsae.autoencoders.linear import row_norms

CHUNK_BYTES = 4 << 20  # one [tokens, F] float32 array of a chunk: it stays in a CPU's cache (measured: twice as fast)
CHUNK_TOKENS = (256, 4096)  # fewest, most: enough rows for a matrix unit, few enough for float32 sums
OF_FEATURES = ("fired", "total")  # sums that each feature has of its own, [F]
FLOAT32_NOISE = 1e-6  # relative error of the device's sums, with a margin


def rows_at_once(width: int) -> int:
    """How many tokens of `width` float32 numbers each make a chunk: a power of two."""
    fewest, most = CHUNK_TOKENS
    return min(max(1 << (max(CHUNK_BYTES // (4 * width), 1).bit_length() - 1), fewest), most)


@partial(jax.jit, static_argnames="norms")
def reconstruct(
    autoencoder: Any, x_BTD: jax.Array, keep_BT: jax.Array, shift_D: jax.Array, norms: bool = False
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Encodes and decodes activations, in float32 and in chunks of tokens. Compiled once for each kind and size.

    Inside an explicit mesh of `gsae.mesh` (`one_member`) tokens are split over `data` and features over `feature`, as
    in training; B has to be a multiple of both together. The sums come back whole on every device.

    Args:
        autoencoder: one that takes raw activations (arrays are arguments of the program, not constants).
        x_BTD: activations.
        keep_BT: bool, the tokens that count.
        shift_D: the provisional shift of the centred sums; any point near the activations' mean.
        norms: whether the norms of every activation and its code are kept too, for `Sums.norms`.

    Returns:
        The reconstruction [B, T, D], also of tokens that do not count, and the sums that `Sums.add` takes.
    """
    x_BTD = _place(x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32)), axes.DATA, None, None)
    keep_BT = _place(keep_BT, axes.DATA, None)
    shards, parts = (_mesh_size(axis) for axis in (axes.DATA, axes.FEATURE))
    tokens, width = x_BTD.shape[0] * x_BTD.shape[1] // shards, x_BTD.shape[2]  # of one shard
    chunk = min(rows_at_once(autoencoder.W_dec.shape[0] // parts), tokens)
    padding = -tokens % chunk
    # Each shard cuts its own tokens into chunks: M shards, K chunks of C tokens.
    x_MND = _reshape(x_BTD, (shards, tokens, width), axes.DATA)
    keep_MN = _reshape(keep_BT, (shards, tokens), axes.DATA)
    x_MND, keep_MN = jnp.pad(x_MND, ((0, 0), (0, padding), (0, 0))), jnp.pad(keep_MN, ((0, 0), (0, padding)))
    x_KMCD = _reshape(x_MND, (shards, -1, chunk, width), axes.DATA).swapaxes(0, 1)
    keep_KMC = _reshape(keep_MN, (shards, -1, chunk), axes.DATA).swapaxes(0, 1)

    lengths_F = row_norms(autoencoder.W_dec)
    bias_squared = jnp.sum(jnp.square(autoencoder.b_dec))

    def one_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        x_MCD, keep_MC = inputs
        # Accelerators round the operands of float32 products by default: a metric must not see that.
        with jax.default_matmul_precision("highest"):
            f_MCF = autoencoder.encode(x_MCD)
            x_hat_MCD = autoencoder.decode(f_MCF)
        sums = _sums(x_MCD, x_hat_MCD, f_MCF, autoencoder.active(f_MCF), keep_MC, shift_D)
        if norms:
            code_MC = jnp.sqrt(jnp.sum(jnp.square(f_MCF * lengths_F), axis=-1) + bias_squared)
            both_MC2 = jnp.stack([jnp.sqrt(jnp.sum(jnp.square(x_MCD), axis=-1)), code_MC], axis=-1)
            sums["norms"] = jnp.where(keep_MC[..., None], both_MC2, jnp.nan)
        return x_hat_MCD, sums

    x_hat_KMCD, sums = jax.lax.map(one_chunk, (x_KMCD, keep_KMC))
    x_hat_MND = _reshape(x_hat_KMCD.swapaxes(0, 1), (shards, tokens + padding, width), axes.DATA)[:, :tokens]
    # Numbers of features are added up here, those of firings exactly, in int32; the other sums of chunks go to the host
    # one by one.
    of_features = {name: _place(sums.pop(name).sum((0, 1))) for name in OF_FEATURES}
    sums = {name: _place(value_KM) for name, value_KM in sums.items()}
    sums = {name: value_KM.reshape(-1, *value_KM.shape[2:]) for name, value_KM in sums.items()}
    x_hat_BTD = _place(_reshape(x_hat_MND, x_BTD.shape, axes.DATA), (axes.DATA, axes.FEATURE), None, None)
    return x_hat_BTD, sums | of_features


def _sums(x_MCD, x_hat_MCD, f_MCF, active_MCF, keep_MC, shift_D) -> dict[str, jax.Array]:
    """Over the C tokens of each shard."""

    def over_tokens(values):
        """Sum over the tokens that count; `where`, so that what is not finite elsewhere stays out."""
        keep = jnp.expand_dims(keep_MC, tuple(range(2, values.ndim)))
        return jnp.where(keep, values, 0).sum(1)

    def dot(a, b):
        return (a * b).sum(-1)

    y_MCD, y_hat_MCD = x_MCD - shift_D, x_hat_MCD - shift_D
    x_squared_MC, x_hat_squared_MC, x_dot_x_hat_MC = dot(x_MCD, x_MCD), dot(x_hat_MCD, x_hat_MCD), dot(x_MCD, x_hat_MCD)
    x_norm_MC, x_hat_norm_MC = jnp.sqrt(x_squared_MC), jnp.sqrt(x_hat_squared_MC)
    norms_MC = x_norm_MC * x_hat_norm_MC
    per_token = {
        "squared_error": dot(x_MCD - x_hat_MCD, x_MCD - x_hat_MCD),
        "x_squared": x_squared_MC,
        "x_hat_squared": x_hat_squared_MC,
        "x_dot_x_hat": x_dot_x_hat_MC,
        "x_norm": x_norm_MC,
        "x_hat_norm": x_hat_norm_MC,
        "cosine": jnp.where(norms_MC == 0, 0, x_dot_x_hat_MC / jnp.where(norms_MC == 0, 1, norms_MC)),
        "l1": jnp.abs(f_MCF).sum(-1),
        "y": y_MCD,
        "y_hat": y_hat_MCD,
        "y_squared": dot(y_MCD, y_MCD),
        "y_hat_squared": dot(y_hat_MCD, y_hat_MCD),
        "y_dot_y_hat": dot(y_MCD, y_hat_MCD),
    }
    fired_MF = (active_MCF & keep_MC[..., None]).sum(1, dtype=jnp.int32)
    counts = {"tokens": keep_MC.sum(1, dtype=jnp.int32), "fired": fired_MF}
    total_MF = over_tokens(jnp.abs(f_MCF))
    return {name: over_tokens(values) for name, values in per_token.items()} | counts | {"total": total_MF}


class Sums:
    """The sums of one autoencoder over all batches so far, in float64 and int64.

    Args:
        shift_D: the provisional shift that every batch was summed with.
    """

    def __init__(self, shift_D: np.ndarray):
        self.shift_D = np.asarray(shift_D, np.float64)
        self.totals: dict[str, np.ndarray] = {}
        self._norms: list[np.ndarray] = []

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds the sums of one batch (waits for the device)."""
        for name, value in sums.items():
            array = np.asarray(value)
            if name == "norms":
                rows_N2 = array.reshape(-1, 2)
                self._norms.append(rows_N2[~np.isnan(rows_N2[:, 0])])
                continue
            wide = array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)
            total = wide if name in OF_FEATURES else wide.sum(0)
            self.totals[name] = self.totals.get(name, 0) + total

    @property
    def density_F(self) -> np.ndarray:
        """The share of tokens on which each feature fires, float64 [F]."""
        return _ratio(self.totals["fired"], self.totals["tokens"])

    @property
    def strength_F(self) -> np.ndarray:
        """The mean of |f| where a feature fires, float64 [F]; nan where it never does."""
        return _ratio(self.totals["total"], self.totals["fired"])

    @property
    def norms_N2(self) -> np.ndarray:
        """Of every token that counts ||x||, and the norm of its code with the bias as one more atom: [N, 2]."""
        return np.concatenate(self._norms) if self._norms else np.zeros((0, 2), np.float32)

    def metrics(self) -> dict[str, float]:
        """The metrics of the reconstruction; nan where a denominator is zero. E is the mean over tokens that count.

        l0: E of the number of active features. l1: E||f||_1. gamma: E||x_hat||^2 / E[x_hat . x] (Rajamanoharan et al.
        2024, relative reconstruction bias; below 1 is shrinkage). gamma_centred: the same of x and x_hat minus the mean
        of each. fvu: E||x - x_hat||^2 / E||x - E x||^2. cosine: E[cos(x, x_hat)], 0 where one is zero. norm_ratio:
        E||x_hat|| / E||x||. input_norm: E||x||. mean_share: ||E x||^2 / E||x||^2. alive: the share of features that
        fired at least once in the `tokens` tokens. error_bound, where norms were kept: see `error_bound`.
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
            "input_norm": mean["x_norm"],
            "mean_share": _ratio(x_mean_D @ x_mean_D, mean["x_squared"]),
            "alive": (fired_F > 0).mean(),
            "tokens": tokens,
        }
        if self._norms:
            values["error_bound"] = error_bound(self.norms_N2, len(fired_F))
        return {name: float(value) for name, value in values.items()}


def error_bound(norms_N2: np.ndarray, features: int) -> float:
    r"""The median over tokens of epsilon_LBO (Lee et al., arXiv 2503.24277): how far codes are from the input's norm.

    .. math:: \frac{| \|x\|^2 - \|f\|^2 |}{(h - 1) \|f\|^2}

    f holds each activation times the norm of its vector, and the norm of b_dec as one more atom; h counts all F + 1.
    Were the atoms orthogonal to within epsilon, the ratio could not exceed it.

    Args:
        norms_N2: of every token ||x|| and ||f||.
        features: F.
    """
    x_N, f_N = np.square(np.asarray(norms_N2, np.float64)).T
    return float(np.median(_ratio(np.abs(x_N - f_N), features * f_N))) if len(x_N) else float("nan")


@jax.jit
def mean_of(x_BTD: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """The mean of the tokens that count, [D] float32: a good provisional shift."""
    kept = jnp.where(keep_BT[..., None], x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32)), 0)
    return kept.sum((0, 1)) / jnp.maximum(keep_BT.sum(), 1)


def _mesh_size(axis: str) -> int:
    """Over how many devices an axis of the surrounding explicit mesh goes; 1 without such a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.explicit_axes else 1


def _place(array: jax.Array, *spec: str | tuple[str, ...] | None) -> jax.Array:
    """The array split so over the surrounding explicit mesh; as it is without one."""
    explicit = axes.DATA in jax.sharding.get_abstract_mesh().explicit_axes
    return jax.sharding.reshard(array, PartitionSpec(*spec)) if explicit else array


def _reshape(array: jax.Array, shape: tuple[int, ...], first: str) -> jax.Array:
    """`jnp.reshape` whose first axis stays split over one of the mesh's; no number changes its device."""
    explicit = first in jax.sharding.get_abstract_mesh().explicit_axes
    spec = PartitionSpec(first, *(None,) * (len(shape) - 1)) if explicit else None
    return jnp.reshape(array, shape, out_sharding=spec)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator in float64, nan where the denominator is zero."""
    denominator = np.asarray(denominator, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator == 0, np.nan, np.asarray(numerator, np.float64) / denominator)[()]
