"""The numbers of a run while it trains, on the terminal and in files, without making the device wait.

Metrics are handed over as they come from the program and read after the next step was dispatched.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gsae.mesh import fetch
from gsae.training.sinks import JsonLines, Sink, TensorBoard, Timing, Values, WeightsAndBiases, require_wandb

Seconds = dict[str, float]


class Logger:
    """Where the metrics of all points go, every so many steps.

    `metrics.jsonl` has one line per logged step: `step` (updates made), `tokens`, `points` (by name, every metric; null
    where it is not finite) and `timing` (tokens_per_second, shares of the time that was waited, seconds since this
    process began to train, flop_utilisation where the peak is known). All but `timing` follow from the settings: a
    resumed run writes the lines that an uninterrupted one would.

    Args:
        directory: of the logs; made if missing.
        every: steps between two lines.
        total_steps: length of the run.
        tokens_per_step: B.
        tensorboard: whether to write event files to `<directory>/tensorboard`.
        wandb_project: a Weights & Biases project; "" for none.
        settings: plain values that Weights & Biases keeps beside the run.
        bar: whether to show progress on stderr.

    Raises:
        SettingError: when a project is given and the package wandb is missing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every: int,
        total_steps: int,
        tokens_per_step: int,
        tensorboard: bool = True,
        wandb_project: str = "",
        settings: Mapping[str, Any] | None = None,
        bar: bool = True,
    ):
        require_wandb(wandb_project)
        self.directory, self.every, self.total_steps = Path(directory), every, total_steps
        self.tokens_per_step = tokens_per_step
        self._tensorboard, self._wandb_project, self._settings = tensorboard, wandb_project, settings or {}
        self._first_process = jax.process_index() == 0  # the only one that writes
        self._shows_bar = bar and self._first_process
        self._open = contextlib.ExitStack()
        self._sinks: list[Sink] = []
        self._pending: tuple[int, Any] | None = None
        self._frozen: set[str] = set()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.close()

    def start(
        self,
        step: int,
        names: Mapping[str, Sequence[str]],
        flops_per_step: float = 0.0,
        peak: float | None = None,
        waiting: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        """Cuts the logs back to `step` updates, opens them and starts the clock.

        Args:
            step: updates made so far.
            names: for every group, the names of its points, in the order of its metrics.
            flops_per_step: of all groups together.
            peak: FLOP/s of the machine; None where it is not known.
            waiting: by the name in `timing`, clocks of the seconds for which somebody has waited; shares are logged.
        """
        self._names, self._flops, self._peak = names, flops_per_step, peak
        if self._first_process:
            self._add(JsonLines(self.directory, step))
            if self._tensorboard:
                self._add(TensorBoard(self.directory / "tensorboard", step))
            if self._wandb_project:
                self._add(WeightsAndBiases(self.directory, self._wandb_project, self._settings))
        self._bar = self._open.enter_context(
            tqdm(
                total=self.total_steps,
                initial=step,
                unit="step",
                desc="train",
                disable=not self._shows_bar,
                dynamic_ncols=True,
                mininterval=0.5 if sys.stderr.isatty() else 10,  # a bar in a file is a line each time
            )
        )
        self._began = self._last_time = time.perf_counter()
        self._last_step, self._paused = step, 0.0
        self._waiting = waiting or {}
        self._last_waited, self._paused_waiting = self._waited(), dict.fromkeys(self._waiting, 0.0)

    def due(self, step: int) -> bool:
        """Whether the metrics of the update that made it `step` are to be kept."""
        return step % self.every == 0 or step == self.total_steps

    def hand_over(self, step: int, metrics: Any) -> None:
        """Takes the metrics {group: {name: [S]}} of the update that made it `step`, still on the device."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Reads and writes what was handed over, if anything was; waits for the device."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        points = self._by_point(fetch(metrics))
        timing = self._timing(step)
        for sink in self._sinks:
            sink.write(step, step * self.tokens_per_step, points, timing)
        self._show(step, points, timing)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training: it counts neither in tokens per second nor as waiting."""
        began, waited = time.perf_counter(), self._waited()
        yield
        self._paused += time.perf_counter() - began
        for name, seconds in self._waited().items():
            self._paused_waiting[name] += seconds - waited[name]

    def say(self, line: str) -> None:
        """One line on stderr that leaves the bar whole."""
        tqdm.write(line, file=sys.stderr)

    def _add(self, sink: Sink) -> None:
        self._sinks.append(sink)
        self._open.callback(sink.close)

    def _by_point(self, metrics: Mapping[str, Mapping[str, np.ndarray]]) -> Values:
        return {
            name: {metric: float(values[index]) for metric, values in metrics[group].items()}
            for group, names in self._names.items()
            for index, name in enumerate(names)
        }

    def _waited(self) -> Seconds:
        return {name: clock() for name, clock in self._waiting.items()}

    def _timing(self, step: int) -> dict[str, float]:
        """Rates since the last line; pauses left out."""
        now, waited = time.perf_counter(), self._waited()
        elapsed = max(now - self._last_time - self._paused, 1e-9)
        steps = step - self._last_step
        timing = {
            "tokens_per_second": steps * self.tokens_per_step / elapsed,
            **{name: self._waited_since(name, seconds) / elapsed for name, seconds in waited.items()},
            "seconds": now - self._began,
        }
        if self._peak:
            timing["flop_utilisation"] = steps * self._flops / elapsed / self._peak
        self._last_time, self._last_step, self._paused = now, step, 0.0
        self._last_waited, self._paused_waiting = waited, dict.fromkeys(waited, 0.0)
        return timing

    def _waited_since(self, name: str, seconds: float) -> float:
        return seconds - self._last_waited[name] - self._paused_waiting[name]

    def _show(self, step: int, points: Values, timing: Timing) -> None:
        for name, values in points.items():
            if not values.get("active", 1.0) and name not in self._frozen:
                self._frozen.add(name)
                self.say(f"step {step}: {name} is not finite any more; it stays as it last was, the others go on")
        active = [values for name, values in points.items() if name not in self._frozen]
        text = f"{tqdm.format_sizeof(timing['tokens_per_second'])} tokens/s"
        text += "".join(f", {name.replace('_', ' ')} {timing[name]:.0%}" for name in self._waiting)
        self._bar.set_postfix_str(f"{text}, loss {_range(active, 'loss')}, L0 {_range(active, 'l0')}", refresh=False)
        self._bar.update(step - self._bar.n)


def _range(points: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [point[metric] for point in points if metric in point]
    return f"{min(values):.3g} to {max(values):.3g}" if values else "-"
