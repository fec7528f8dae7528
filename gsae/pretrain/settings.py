"""The typed schema of `experiments/pretrain_bundled.py`, and the command line that overrides it."""

import argparse
import ast
import contextlib
import dataclasses
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsae.errors import SettingError
from gsae.schema import anything, fraction, group, not_negative, positive, section, setting, share

DESCRIPTION = "Trains a small language model and writes it as a Hugging Face directory."


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices that share the rows of a batch."""

    data: int = positive()


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The split of the text."""

    held_out_fraction: float = fraction()


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Sizes of the GPT-NeoX model."""

    vocabulary: int = setting("must be between 257 (all bytes, a separator) and 65536", lambda v: 257 <= v <= 65536)
    context_length: int = setting("must be at least 2 tokens", lambda value: value >= 2)
    num_layers: int = positive()
    width: int = positive()
    num_heads: int = positive()
    mlp_width: int = positive()
    rotary_fraction: float = share()
    parallel_residual: bool = anything()


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The optimiser and its schedule. The length may change until the decay begins; checkpoints see to it."""

    steps: int = positive(operational=True)
    decay_steps: int = positive(operational=True)
    batch_size: int = positive()
    peak_learning_rate: float = positive()
    warmup_steps: int = not_negative()
    weight_decay: float = not_negative()
    beta1: float = share()
    beta2: float = fraction()
    gradient_clip: float = positive()


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
    """When something is said."""

    loss_every_steps: int = positive(operational=True)
    evaluate_every_steps: int = positive(operational=True)
    evaluation_tokens: int = positive(operational=True)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """When the state is saved."""

    every_steps: int = positive(operational=True)
    kept: int = positive(operational=True)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything in `experiments/pretrain_bundled.py`."""

    seed: int = not_negative()
    mesh: MeshSettings = group()
    text: TextSettings = group()
    model: ModelSettings = group()
    training: TrainingSettings = group()
    logging: LoggingSettings = group()
    checkpoints: CheckpointSettings = group()


def parse(config: Any) -> Settings:
    """The checked settings of a config object.

    Raises:
        SettingError: for a setting that is unknown, missing, of the wrong type, out of range or at odds with another.
    """
    settings: Settings = section(Settings, config, "config")
    model, training = settings.model, settings.training
    if model.width % model.num_heads:
        raise SettingError("config.model.num_heads", model.num_heads, f"must divide config.model.width = {model.width}")
    if int(model.width // model.num_heads * model.rotary_fraction) % 2:
        allowed = f"must rotate an even part of a head's {model.width // model.num_heads} numbers"
        raise SettingError("config.model.rotary_fraction", model.rotary_fraction, allowed)
    if training.batch_size % settings.mesh.data:
        allowed = f"must be a multiple of config.mesh.data = {settings.mesh.data}"
        raise SettingError("config.training.batch_size", training.batch_size, allowed)
    least = training.warmup_steps + training.decay_steps
    if training.steps < least:
        allowed = f"must be at least config.training.warmup_steps + config.training.decay_steps = {least}"
        raise SettingError("config.training.steps", training.steps, allowed)
    return settings


def configuration(arguments: Sequence[str]) -> tuple[Settings, Path]:
    """The settings and the workdir of a command line."""
    parser = argparse.ArgumentParser(prog="gsae.pretrain", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "--config", required=True, help="file with get_config(); --config.a.b=value overrides a setting"
    )
    parser.add_argument("--workdir", default="runs/pretrain_bundled", help="checkpoints, logs, the model")
    known, overrides = parser.parse_known_args(arguments)
    try:
        config = runpy.run_path(known.config)["get_config"]()
    except (OSError, KeyError) as error:
        raise SettingError("--config", known.config, f"must be a Python file with get_config() ({error!r})") from error
    for override in overrides:
        name, equals, value = override.removeprefix("--").partition("=")
        if not override.startswith("--config.") or not equals:
            raise SettingError("command line", override, "is not understood; settings are given as --config.name=value")
        with contextlib.suppress(SyntaxError, ValueError):  # a text; whether it may be one, the schema says
            value = ast.literal_eval(value)
        try:
            with config.unlocked(), config.ignore_type():
                config.update_from_flattened_dict({name: value}, strip_prefix="config.")
        except (KeyError, AttributeError) as error:
            raise SettingError(name, value, f"unknown setting; config has {', '.join(config)}") from error
    return parse(config), Path(known.workdir)
