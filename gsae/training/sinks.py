"""Where the numbers of a run are written: JSON lines, TensorBoard, Weights & Biases."""

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gsae import artifacts
from gsae.errors import RunError, SettingError

METRICS = "metrics.jsonl"
Values = dict[str, dict[str, float]]  # point name -> metric -> value
Timing = Mapping[str, float]


class Sink(Protocol):
    """Takes the numbers of one logged step at a time."""

    def write(self, step: int, tokens: int, points: Values, timing: Timing) -> None:
        """Keeps the numbers of the update that made it `step`."""

    def close(self) -> None:
        """Everything is written when this returns."""


class JsonLines:
    """`metrics.jsonl`: one line per logged step, on the disk's side of the process as soon as it is written.

    Args:
        directory: of the file; made if missing.
        step: updates made so far; lines about later ones are dropped.

    Raises:
        RunError: when the directory cannot be written or the file is not readable.
    """

    def __init__(self, directory: Path, step: int):
        self.path = directory / METRICS
        with artifacts.explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            cut_back(self.path, step)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, tokens: int, points: Values, timing: Timing) -> None:
        """Appends a line; JSON has no NaN and no infinity, they become null."""
        finite = {name: {metric: _finite(v) for metric, v in values.items()} for name, values in points.items()}
        line = {"step": step, "tokens": tokens, "points": finite, "timing": dict(timing)}
        with artifacts.explained(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Event files, without TensorFlow; viewers drop the events of steps after `step` that an earlier process wrote."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX import SummaryWriter  # only a run that trains pays for it

        with artifacts.explained(directory):
            self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def write(self, step: int, tokens: int, points: Values, timing: Timing) -> None:
        """One scalar per metric and point."""
        for tag, value in _flat(points, timing).items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Writes what is still held."""
        self._writer.close()


class WeightsAndBiases:
    """One Weights & Biases run per directory of logs; a resumed run goes on in it.

    Raises:
        SettingError: when the package is missing.
    """

    def __init__(self, directory: Path, project: str, settings: Mapping[str, Any]):
        require_wandb(project)
        wandb = importlib.import_module("wandb")
        identity = artifacts.fingerprint([str(directory.resolve()), dict(settings)])[:16]
        self._run = wandb.init(project=project, id=identity, resume="allow", config=dict(settings), dir=str(directory))

    def write(self, step: int, tokens: int, points: Values, timing: Timing) -> None:
        """One scalar per metric and point; steps that an earlier process logged already are ignored there."""
        self._run.log(_flat(points, timing), step=step)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


def require_wandb(project: str) -> None:
    """Refuses a Weights & Biases project where the package is missing; "" is no project.

    Raises:
        SettingError: then.
    """
    if project and importlib.util.find_spec("wandb") is None:
        allowed = "needs the package wandb: pip install 'gsae[wandb]'"
        raise SettingError("config.logging.wandb_project", project, allowed)


def cut_back(path: Path, step: int) -> None:
    """Drops the lines of a JSONL log that are about steps after `step`, and a last line that was not finished.

    Raises:
        RunError: when a line in between is not readable.
    """
    if not path.exists():
        return
    kept = 0  # bytes
    with path.open("rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}: line {number} is not readable ({error}); move the file away") from error
            kept += len(line)
        file.truncate(kept)
        os.fsync(file.fileno())


def _flat(points: Values, timing: Timing) -> dict[str, float]:
    flat = {f"timing/{name}": value for name, value in timing.items()}
    return flat | {f"{metric}/{name}": value for name, values in points.items() for metric, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
