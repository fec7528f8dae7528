"""A whole run in seconds: the front-door experiment on a few documents, with small sizes. Used by several tests."""

import inspect
import sys
from pathlib import Path

from ml_collections import ConfigDict

from experiments import pareto_sweep

MODULES = ("argparse", "ast", "bdb", "calendar", "cmd", "csv", "doctest", "dis", "enum", "shutil", "tarfile", "zipfile")
SETTINGS = {
    "mesh.sweep": 1,
    "mesh.data": 1,
    "mesh.feature": 1,
    "text.source": "files",
    "text.context_length": 64,
    "text.held_out_fraction": 0.2,
    "activations.rows": 8192,
    "activations.superblock_rows": 2048,
    "sae.width": 64,
    "sweep.gated.sparsity_coefficients": (0.1, 0.4),
    "sweep.standard.sparsity_coefficients": (0.05, 0.2),
    "training.steps": 24,
    "training.batch_size": 256,
    "training.warmup": "4 steps",
    "training.decay_start": "4 steps",
    "training.sparsity_warmup": "8 steps",
    "training.dead_window": "1024 tokens",
    "training.resampling.at": ("50%",),
    "training.resampling.inputs": 512,
    "training.resampling.rewarmup": "4 steps",
    "training.checkpoint_every": 6,
    "evaluation.tokens": 2048,
    "evaluation.error_bound": True,
    "evaluation.every": 10,
    "evaluation.quick_tokens": 512,
    "evaluation.bootstrap_samples": 50,
    "logging.every": 4,
}


def documents(directory: Path) -> Path:
    """The sources of some modules as text files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        __import__(name)
        (directory / f"{name}.txt").write_text(inspect.getsource(sys.modules[name]))
    return directory


def configuration(directory: Path, **changes) -> ConfigDict:
    """The settings of a tiny run on the documents in `directory`; `changes` use __ for the dots."""
    config = pareto_sweep.get_config()
    settings = SETTINGS | {"text.paths": (str(directory),)}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(settings)
    return config


def flags(directory: Path, **changes) -> list[str]:
    """The same, as overrides on the command line."""
    settings = SETTINGS | {"text.paths": (str(directory),)}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return ["--config=experiments/pareto_sweep.py", *(f"--config.{name}={value}" for name, value in settings.items())]
