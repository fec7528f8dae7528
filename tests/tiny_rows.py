"""A whole run on rows from elsewhere in seconds: rows of a known dictionary, in files. Used by several tests."""

from pathlib import Path

import numpy as np
import tiny_run
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from gsae.activations.synthetic import SITE, Synthetic

WIDTH = 16


def truth() -> Synthetic:
    """20,000 rows of 16 numbers, of 24 features of which 2 fire at a time."""
    return Synthetic(WIDTH, 24, 2.0, 20_000, 4_000, seed=1, noise=0.01)


def write(directory: Path) -> Path:
    """Two sites, `own.site` and its negative `other`, in several safetensors files."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = truth()
    for k in range(rows.num_superblocks):
        x = rows.read(SITE, k) + 0.5  # a mean that is not zero
        save_file({"own.site": x, "other": -x}, directory / f"{k}.safetensors")
    return directory


def changes(directory: Path) -> dict[str, object]:
    """What a tiny run on the rows in `directory` has other than `tiny_run`, with __ for the dots."""
    return {
        "activations__source": "rows",
        "activations__paths": (str(directory),),
        "activations__rows": 0,
        "activations__dtype": "float32",
        "language_model__name": "",
        "sae__width": 32,
        "sweep__gated__sites": ("own.site",),
        "sweep__standard__sites": ("own.site",),
        "evaluation__tokens": 1500,
    }


def configuration(directory: Path, **more) -> ConfigDict:
    """The settings of such a run."""
    return tiny_run.configuration(Path(), **(changes(directory) | more))


def reconstructed(x: np.ndarray, sae) -> float:
    """The fraction of the variance of x that the autoencoder leaves unexplained."""
    error = np.asarray(sae.decode(sae.encode(x))) - x
    return float(np.square(error).sum() / np.square(x - x.mean(0)).sum())
