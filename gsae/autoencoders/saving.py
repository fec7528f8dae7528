"""Trained autoencoders on disk: `weights.safetensors` (the arrays, by the paper's names) and `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from gsae import artifacts
from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.registry import architecture, architecture_name, make_options
from gsae.errors import RunError, SettingError

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
FORMAT = 1  # of config.json; a reader refuses what it does not know


def save(autoencoder: Autoencoder, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Publishes one autoencoder (not a stack of them) as the directory `path`, whole or not at all.

    Args:
        autoencoder: what `load` will give back, bit for bit.
        path: the directory; an older one is replaced.
        metadata: plain values (JSON) about where it comes from: site, language model, sparsity coefficient, steps ...
    """
    arrays = {name: np.asarray(jax.device_get(getattr(autoencoder, name))) for name in autoencoder.feature_axes}
    features, activation_width = arrays["W_dec"].shape
    config = {
        "format": FORMAT,
        "architecture": architecture_name(autoencoder),
        "activation_width": activation_width,
        "features": features,
        "options": asdict(autoencoder.options),
        "metadata": dict(metadata),
    }
    with artifacts.publish(Path(path), {"kind": "autoencoder"}) as directory:
        safetensors.numpy.save_file(arrays, directory / WEIGHTS)
        artifacts.write_json(directory / CONFIG, config)


def load(path: str | Path) -> Autoencoder:
    """The autoencoder that `save` wrote, with its metadata; every byte is compared with its digest first.

    Raises:
        RunError: where there is no such directory, a file is missing or altered, or its contents are not understood.
    """
    on_host = load_on_host(path)
    return jax.tree.map(jnp.asarray, on_host).with_metadata(on_host.metadata)


def load_on_host(path: str | Path) -> Autoencoder:
    """The same with NumPy arrays, for one that no single device may be able to hold. Raises as `load` does."""
    path = Path(path)
    artifacts.verify(path)
    config = read_config(path)
    try:
        cls = architecture(config["architecture"])
        options = make_options(config["architecture"], config["options"])
    except (SettingError, KeyError) as error:
        raise RunError(f"{path / CONFIG}: not understood by this version of gsae ({error})") from error
    arrays = safetensors.numpy.load_file(path / WEIGHTS)
    expected = _expected(cls, config, options)
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        raise RunError(f"{path / WEIGHTS}: holds {found}, {CONFIG} means {expected}")
    fields: dict[str, Any] = dict(arrays)
    return cls(**fields | {"options": options}).with_metadata(config["metadata"])


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `save` was told about the autoencoder; raises as `read_config` does."""
    return read_config(path)["metadata"]


def read_config(path: str | Path) -> dict[str, Any]:
    """config.json of a saved autoencoder: architecture, options, widths, metadata.

    Raises:
        RunError: when it is missing, unreadable or of another format.
    """
    file = Path(path) / CONFIG
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise RunError(f"{file}: not the configuration of an autoencoder in format {FORMAT}")
    return config


def _expected(cls: type[Autoencoder], config: Mapping[str, Any], options: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every array that a fresh autoencoder with this configuration has."""
    fresh = jax.eval_shape(
        lambda key: cls.initialise(key, config["activation_width"], config["features"], options), jax.random.key(0)
    )
    return {name: getattr(fresh, name).shape for name in fresh.feature_axes}
