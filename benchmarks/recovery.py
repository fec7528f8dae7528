"""Which architectures find a known dictionary: all of them, on the same rows, by the project's own training loop.

    nice -n 19 python -m benchmarks.recovery         # writes benchmarks/RECOVERY.md; --help for less

Rows are sparse sums of 96 unit vectors in 48 dimensions, with several numbers of them firing and, once, firing in
groups. Each architecture has the options of `experiments/architectures.py` and one setting of its knob, chosen so that
its L0 comes near the true one: a pilot of one seed trains a ladder of knobs, the knob is read off it at the true L0
(linear in the logarithms; the nearest rung where the ladder does not reach), and all seeds train with that.
"""

import argparse
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import architectures
from gsae.activations.batches import Batches
from gsae.activations.recovery import firing_f1, match, mean_max_cosine_similarity
from gsae.activations.synthetic import SITE, Synthetic
from gsae.autoencoders.registry import ARCHITECTURES, make_options
from gsae.mesh import Mesh, make_mesh
from gsae.training.checkpoints import Checkpoints
from gsae.training.extraction import member_on_host
from gsae.training.groups import Group, Point, group_points
from gsae.training.logging import Logger
from gsae.training.loop import train
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, batch_sharding

DOCUMENT = Path(__file__).parent / "RECOVERY.md"
WIDTH, TRUE, FEATURES, BATCH, ROWS_AT_ONCE = 48, 96, 128, 256, 16384
RATE = 3e-3
SUPERBLOCKS = 8  # to train on; the one after them judges
RUNGS = 5  # of a ladder


@dataclasses.dataclass(frozen=True)
class Rows:
    """One kind of data: how many features fire in a row, and how firing is correlated within groups of eight."""

    active: float
    correlation: float = 0.0

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.active:g}" + (f", correlated {self.correlation:g}" if self.correlation else "")

    @functools.cache  # noqa: B019 - a few kinds of rows, for as long as the program runs
    def source(self, superblocks: int) -> Synthetic:
        """As many superblocks of them; more begin with the same."""
        rows = superblocks * ROWS_AT_ONCE
        how = {"seed": 0, "noise": 0.02, "correlation": self.correlation}
        return Synthetic(WIDTH, TRUE, self.active, rows, ROWS_AT_ONCE, **how)  # type: ignore[arg-type]


DATA = (Rows(2), Rows(4), Rows(8), Rows(4, correlation=0.5))


def options_of(name: str) -> Any:
    """Those of the experiment with every architecture."""
    sweep = architectures.get_config().sweep
    entry = next(entry for entry in sweep.values() if entry.architecture == name)
    return make_options(name, dict(entry.options))


def ladder(name: str, active: float) -> np.ndarray:
    """Knobs for a pilot: from half the true L0 where they are numbers of features, else around the experiment's."""
    entry = next(entry for entry in architectures.get_config().sweep.values() if entry.architecture == name)
    values = entry.sparsity_coefficients
    if not ARCHITECTURES[name].warms_up and min(values) >= 1:  # weights that rise by a recipe of their own are smaller
        return active * np.geomspace(0.5, 3, RUNGS)
    return np.geomspace(min(values) / 4, max(values) * 4, RUNGS)


def knob_at(knobs: np.ndarray, l0: np.ndarray, active: float) -> float:
    """The knob at which L0 would be the true one, between the two rungs around it; the nearest rung where none are."""
    gap = np.log(np.maximum(l0, 1e-3) / active)
    crossings = np.flatnonzero(np.sign(gap[:-1]) != np.sign(gap[1:]))
    if not len(crossings):
        return float(knobs[np.argmin(np.abs(gap))])
    i = min(crossings, key=lambda i: abs(gap[i]) + abs(gap[i + 1]))
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp(np.log(knobs[i]) + share * np.log(knobs[i + 1] / knobs[i])))


def trained(points: Sequence[Point], rows: Rows, steps: int, mesh: Mesh) -> list[Any]:
    """The points after training, for raw rows, in their order."""
    source = rows.source(SUPERBLOCKS)
    scale = float(1 / np.sqrt(source.statistics(SITE)["mean_squared_norm"]))
    schedules = Schedules(
        total_steps=steps,
        warmup_steps=steps // 20,
        decay="cosine",
        decay_start=steps // 2,
        sparsity_warmup_steps=steps // 10,
    )
    settings = StepSettings(
        batch_size=BATCH, schedules=schedules, input_scale=scale, dead_window_tokens=steps * BATCH // 20
    )
    groups: list[Group] = group_points(points)
    with tempfile.TemporaryDirectory() as workdir:
        logger = Logger(
            Path(workdir) / "logs", every=steps, total_steps=steps, tokens_per_step=BATCH, tensorboard=False, bar=False
        )
        with logger, Checkpoints(Path(workdir) / "checkpoints", every=0, settings="recovery") as checkpoints:
            states = train(
                groups,
                Batches(source, [SITE], BATCH, 0, sharding=batch_sharding(mesh)),
                steps=steps,
                settings={SITE: settings},
                mesh=mesh,
                checkpoints=checkpoints,
                logger=logger,
            )
    found = {
        point: member_on_host(states[group.name].autoencoder, index, mesh).rescaled(scale)
        for group in groups
        for index, point in enumerate(group.points)
    }
    return [found[point] for point in points]


def judged(autoencoder: Any, rows: Rows) -> dict[str, float]:
    """What it found, and how it fires on rows that it never saw."""
    source = rows.source(SUPERBLOCKS + 1)
    f_RF = np.asarray(autoencoder.encode(source.read(SITE, SUPERBLOCKS)))
    fires_RF = np.asarray(autoencoder.active(f_RF))
    learned_FD, signed = np.asarray(autoencoder.W_dec), autoencoder.signed
    return {
        "l0": float(fires_RF.sum(1).mean()),
        "similarity": mean_max_cosine_similarity(source.dictionary, learned_FD, signed),
        "f1": firing_f1(source.codes(SUPERBLOCKS), fires_RF, match(source.dictionary, learned_FD, signed)),
        "alive": float(fires_RF.any(0).mean()),
    }


def measure(name: str, rows: Rows, seeds: int, steps: int, mesh: Mesh) -> list[str]:
    """One line of the table."""
    options = options_of(name)

    def point(knob: float, seed: int) -> Point:
        return Point(name, SITE, FEATURES, float(knob), RATE, seed, options)

    knobs = ladder(name, rows.active)
    pilot = trained([point(knob, 0) for knob in knobs], rows, steps, mesh)
    knob = knob_at(knobs, np.array([judged(one, rows)["l0"] for one in pilot]), rows.active)
    results = [judged(one, rows) for one in trained([point(knob, seed) for seed in range(seeds)], rows, steps, mesh)]

    def column(metric: str, form: str) -> str:
        values = [result[metric] for result in results]
        spread = f" ({min(values):{form}} to {max(values):{form}})" if seeds > 1 else ""
        return f"{np.mean(values):{form}}{spread}"

    shown = [column("l0", ".2f"), column("similarity", ".3f"), column("f1", ".3f"), column("alive", ".2f")]
    return [rows.name, name, f"{knob:.3g}", *shown]


HEAD = ("true L0", "architecture", "knob", "L0", "mean max cosine", "firing F1", "alive")


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines)]


def document(lines: Sequence[Sequence[str]], seeds: int, steps: int, seconds: float) -> str:
    """The text of RECOVERY.md."""
    frozen = [name for name, kind in ARCHITECTURES.items() if kind.STARTS_FROM]
    about = [
        "# Recovery of a known dictionary",
        "",
        "Written by `python -m benchmarks.recovery`; its docstring says what is compared and how each knob is chosen.",
        f"{TRUE} true unit vectors in {WIDTH} dimensions, {FEATURES} features, half-normal magnitudes, normal noise of",
        f"0.02; {steps:,} steps of {BATCH} rows, learning rate {RATE:g} with cosine decay from half of them on,",
        f"{seeds} seeds of the initial weights: means with ranges. Judged on {ROWS_AT_ONCE:,} others.",
        f"No resampling. It took {seconds / 60:.0f} minutes on a machine with {os.cpu_count()} cores.",
        "",
        "Mean max cosine: over true vectors, the cosine with the nearest learned one (its size, where features are",
        "signed). Firing F1: of the features matched one to one by cosine. Small magnitudes cannot be told from noise,",
        "so that F1 stays below 1. The knob is the sparsity coefficient, or the number of features.",
        *(
            [f"{', '.join(frozen)} begins with another's dictionary and firing, and is that one here."]
            if frozen
            else []
        ),
    ]
    return "\n".join([*about, "", *table(lines), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the table."""
    fresh = [name for name, kind in ARCHITECTURES.items() if not kind.STARTS_FROM]
    parser = argparse.ArgumentParser(description="Which architectures find a known dictionary.")
    parser.add_argument("--architectures", nargs="+", choices=fresh, default=fresh, help="which; all that start afresh")
    parser.add_argument("--seeds", type=int, default=3, help="of the initial weights (3)")
    parser.add_argument("--steps", type=int, default=1500, help="updates (1500)")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=range(len(DATA)), help="which kinds of data, from 0 (all)"
    )
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="the file to write")
    given = parser.parse_args(arguments)
    mesh, started = make_mesh(1, 1, 1), time.monotonic()
    lines: list[list[str]] = []
    for rows in (DATA[index] for index in given.rows):
        for name in given.architectures:
            lines.append(measure(name, rows, given.seeds, given.steps, mesh))
            print(" | ".join(lines[-1]), flush=True)
    seconds = time.monotonic() - started
    given.out.write_text(document(lines, given.seeds, given.steps, seconds), encoding="utf-8")
    print("\n".join(table(lines)))
    print(f"{given.out}: written after {seconds:.0f} s")


if __name__ == "__main__":
    main()
