"""Gemma Scope's files: `params.npz`, a JumpReLU autoencoder in five float32 arrays, and nothing else."""

import io
from pathlib import Path

import numpy as np

from gsae import artifacts
from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import arrays64, build, has_unit_norm_decoder

WEIGHTS = "params.npz"
FILES = (WEIGHTS,)
ARRAYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def is_here(path: Path) -> bool:
    """Whether a directory looks like one of Gemma Scope's."""
    return (path / WEIGHTS).is_file()


def write(autoencoder: Autoencoder, path: Path) -> None:
    """Writes the file into an empty directory.

    Raises:
        SettingError: for another architecture, or decoder vectors whose norm is not one.
    """
    if not isinstance(autoencoder, JumpReLU):
        reason = (
            f"holds jumprelu autoencoders only, not a {type(autoencoder).__name__}; convert it with as = 'jumprelu'"
        )
        raise SettingError("format", "gemma_scope", reason)
    arrays = arrays64(autoencoder)
    if not has_unit_norm_decoder(arrays["W_dec"]):
        reason = "has decoder vectors of norm one, and these are free (RI-L1); fold their norms with unit_norm_decoder"
        raise SettingError("format", "gemma_scope", reason)
    arrays["threshold"] = np.maximum(np.asarray(autoencoder.theta, np.float64), 0)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: arrays[name].astype(np.float32) for name in ARRAYS})  # type: ignore[arg-type]
    artifacts.write_file(path / WEIGHTS, buffer.getvalue())


def read(path: Path) -> Autoencoder:
    """The autoencoder in a directory, or in the npz file itself.

    Raises:
        RunError: for anything but a JumpReLU autoencoder.
    """
    file = path / WEIGHTS if path.is_dir() else path
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: np.asarray(opened[name], np.float64) for name in opened.files}
    except Exception as error:  # zipfile and numpy raise many classes
        raise RunError(f"{file}: is no npz file of arrays ({error})") from error
    scale = arrays.pop("scaling_factor", None)
    if scale is not None and not np.allclose(scale, 1):
        raise RunError(f"{file}: has a scaling_factor other than one, which is nothing that can be represented here")
    if arrays.keys() != set(ARRAYS):
        raise RunError(f"{file}: holds {', '.join(sorted(arrays))}; Gemma Scope's have {', '.join(ARRAYS)}")
    arrays["threshold"] = np.maximum(arrays["threshold"], 0)  # the ReLU comes with the jump
    made = build(JumpReLU, JumpReLUOptions(log_threshold=False), arrays, file)
    return made.with_metadata({"imported_from": "gemma_scope"})
