"""Gemma Scope's files: a JumpReLU autoencoder in five float32 arrays.

The first ones (Gemma 2) are `params.npz` and nothing else; this is what is written. The second (Gemma 3) are
`params.safetensors`, the same arrays with names in small letters, beside a config.json that says what they read.
"""

import io
import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from gsae import artifacts
from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.jumprelu import JumpReLU, JumpReLUOptions
from gsae.errors import RunError, SettingError
from gsae.interop.conversion import Arrays, arrays64, build, has_unit_norm_decoder

WEIGHTS = "params.npz"
SECOND, CONFIG = "params.safetensors", "config.json"  # of Gemma Scope 2
FILES = (WEIGHTS, SECOND, CONFIG)
ARRAYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def is_here(path: Path) -> bool:
    """Whether a directory looks like one of Gemma Scope's."""
    return (path / WEIGHTS).is_file() or (path / SECOND).is_file()


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
    """The autoencoder in a directory, or in the file itself.

    Raises:
        RunError: for anything but a JumpReLU autoencoder.
    """
    file = path if path.is_file() else path / (WEIGHTS if (path / WEIGHTS).is_file() else SECOND)
    if file.suffix == ".npz":
        arrays, about = _first(file), {}
    else:
        arrays, about = _second(file), _what_it_reads(file.parent / CONFIG)
    if arrays.keys() != set(ARRAYS):
        raise RunError(f"{file}: holds {', '.join(sorted(arrays))}; Gemma Scope's have {', '.join(ARRAYS)}")
    arrays["threshold"] = np.maximum(arrays["threshold"], 0)  # the ReLU comes with the jump
    made = build(JumpReLU, JumpReLUOptions(log_threshold=False), arrays, file)
    return made.with_metadata({"imported_from": "gemma_scope", **about})


def _first(file: Path) -> Arrays:
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: np.asarray(opened[name], np.float64) for name in opened.files}
    except Exception as error:  # zipfile and numpy raise many classes
        raise RunError(f"{file}: is no npz file of arrays ({error})") from error
    scale = arrays.pop("scaling_factor", None)
    if scale is not None and not np.allclose(scale, 1):
        raise RunError(f"{file}: has a scaling_factor other than one, which is nothing that can be represented here")
    return arrays


def _second(file: Path) -> Arrays:
    try:
        arrays = safetensors.numpy.load_file(file)
    except Exception as error:  # safetensors raises classes of its own
        raise RunError(f"{file}: cannot be read ({error})") from error
    if "affine_skip_connection" in arrays:
        raise RunError(f"{file}: is a transcoder with an affine connection, which cannot be represented here")
    if any(array.ndim > 2 for array in arrays.values()):
        raise RunError(f"{file}: is of several layers (a crosscoder or its like), which cannot be represented here")
    ours = {name.lower(): name for name in ARRAYS}
    return {ours.get(name, name): np.asarray(array, np.float64) for name, array in arrays.items()}


def _what_it_reads(file: Path) -> dict[str, str]:
    """What config.json says, where there is one: some directories have none."""
    if not file.is_file():
        return {}
    try:
        config = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file}: cannot be read ({error})") from error
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise RunError(f"{file}: architecture = {config['architecture']!r}; what can be read is 'jump_relu'")
    reads, writes = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if writes not in (None, reads):
        raise RunError(f"{file}: is of a transcoder, from {reads} to {writes}, which cannot be represented here")
    found = {"language_model": config.get("model_name"), "hook": reads}
    return {name: str(value) for name, value in found.items() if value}
