"""Quality beside dictionary_learning: its gated trainer and ours on the same batches. Needs the extra `parity`.

    python benchmarks/quality.py [--steps=1500 --seeds=3 --workdir=DIR]

Same loss, activations (`attn_z.1` of the bundled model, scaled to unit mean squared norm), batches in the same order,
width, sparsity coefficients, learning rate and its schedule, Adam; no resampling. Each draws its own initial parameters
from the seed, so that the seeds show the noise. All are judged by the same held-out text in the same program: theirs
come in through `gsae.load`, from the file that they save. Their training runs in a process of its own, as their users'
does; ours is a sweep in one program, with the settings of `gsae.main`. A few minutes on 2 idle cores.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

COEFFICIENTS = (0.1, 0.3, 0.8)
RATE, WIDTH, BATCH, SITE = 2e-3, 256, 256, "attn_z.1"
WARMUP, SPARSITY_WARMUP, DECAY_START = 0.05, 0.1, 0.75  # shares of the steps
OURS, THEIRS = "gsae", "dictionary_learning"


def configuration(steps: int, seeds: int) -> Any:
    """The front door's settings with what both trainers can do alike."""
    from experiments import pareto_sweep

    config = pareto_sweep.get_config()
    del config.sweep["standard"]
    config.update_from_flattened_dict(
        {
            "activations.rows": 65_536 * min(max(steps * BATCH // 65_536, 1), 20),
            "activations.superblock_rows": 65_536,
            "sae.width": WIDTH,
            "sweep.gated.sites": (SITE,),
            "sweep.gated.sparsity_coefficients": COEFFICIENTS,
            "sweep.gated.learning_rates": (RATE,),
            "sweep.gated.seeds": tuple(range(seeds)),
            "training.steps": steps,
            "training.batch_size": BATCH,
            "training.warmup": f"{round(WARMUP * steps)} steps",
            "training.sparsity_warmup": f"{round(SPARSITY_WARMUP * steps)} steps",
            "training.decay": "linear",
            "training.decay_start": f"{round(DECAY_START * steps)} steps",
            "training.resampling.at": (),
            "training.checkpoint_every": 0,
            "evaluation.baseline": "gated",
            "evaluation.tokens": 51_200,
            "evaluation.every": 0,
            "logging.tensorboard": False,
        }
    )
    return config


def train_theirs(rows: Path, scale: float, steps: int, seeds: int, made: Path) -> None:
    """All points with their trainer, one after the other, in this process; the seconds are left in `made`."""
    import torch
    from dictionary_learning.trainers.gdm import GatedSAETrainer

    batches = np.load(rows, mmap_mode="r")
    seconds = 0.0
    for coefficient, seed in itertools.product(COEFFICIENTS, range(seeds)):
        trainer = GatedSAETrainer(
            steps=steps,
            activation_dim=batches.shape[-1],
            dict_size=WIDTH,
            layer=1,
            lm_name="bundled",
            lr=RATE,
            l1_penalty=coefficient,
            warmup_steps=round(WARMUP * steps),
            sparsity_warmup_steps=round(SPARSITY_WARMUP * steps),
            decay_start=round(DECAY_START * steps),
            seed=seed,
            device="cpu",
        )
        began = time.perf_counter()
        for step in range(steps):
            trainer.update(step, torch.from_numpy(np.array(batches[step])))
        seconds += time.perf_counter() - began
        trainer.ae.scale_biases(1 / scale)  # for raw activations, as its own training ends
        directory = made / f"{coefficient}-{seed}"
        directory.mkdir()
        torch.save(trainer.ae.state_dict(), directory / "ae.pt")
        (directory / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {}}))
    (made / "seconds.json").write_text(json.dumps(seconds))


def run(workdir: Path, steps: int, seeds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of both, as results.csv has them, and what the training of each took, in seconds."""
    import gsae
    from gsae import config as schema
    from gsae.activations.batches import Batches
    from gsae.evaluation.evaluate import Member, evaluate
    from gsae.job import Job
    from gsae.pipeline import run as run_stage

    settings = schema.parse(configuration(steps, seeds))
    for stage in ("tokenise", "harvest", "train"):
        run_stage(settings, workdir / "run", stage=stage)
    job = Job(settings, workdir / "run", "")
    scale = job.input_scale(SITE)
    batches = Batches(job.activations, (SITE,), BATCH, settings.seed)
    rows = [np.asarray(batch[SITE]["x"], np.float32) * np.float32(scale) for batch in batches.stream(0, steps)]
    np.save(workdir / "rows.npy", np.stack(rows))
    made = workdir / "theirs"
    made.mkdir()
    child = multiprocessing.get_context("spawn").Process(
        target=train_theirs, args=(workdir / "rows.npy", scale, steps, seeds, made)
    )
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"dictionary_learning's training ended with exit code {child.exitcode}")
    members, about = [], {}
    for point in job.points:
        about[point.name] = (OURS, point.sparsity_coefficient, point.seed)
        members.append(Member(point.name, SITE, gsae.load(job.autoencoder_path(point))))
    for coefficient, seed in itertools.product(COEFFICIENTS, range(seeds)):
        name = f"{coefficient}-{seed}"
        about[name] = (THEIRS, coefficient, seed)
        members.append(Member(name, SITE, gsae.load(made / name)))
    tokens = settings.evaluation.tokens
    results = evaluate(job.language_model, job.held_out, members, tokens=tokens, batch_size=8, bootstrap_samples=0)
    keys = ("architecture", "sparsity_coefficient", "seed")
    table = [dict(zip(keys, about[result.name], strict=True)) | result.metrics for result in results]
    job.seconds = json.loads((workdir / "run" / "seconds.json").read_text())
    return table, {OURS: job.seconds["train"], THEIRS: json.loads((made / "seconds.json").read_text())}


def main() -> None:
    """Prints both frontiers, how they compare, and the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, help="kept if given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows, seconds = run(arguments.workdir or Path(temporary), arguments.steps, arguments.seeds)
    print("\n".join(report(rows, seconds, arguments.steps, arguments.seeds)))


def report(rows: list[dict[str, Any]], seconds: dict[str, float], steps: int, seeds: int) -> list[str]:
    """Lines: both frontiers, how they compare seed by seed, and the time."""
    from gsae.evaluation.frontier import compare

    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    lines = [
        f"{machine}; python benchmarks/quality.py --steps={steps} --seeds={seeds}",
        f"{SITE}, {WIDTH} features, {steps} steps of {BATCH} rows; mean ± standard deviation over {seeds} seeds\n",
        "| lambda | | L0 | loss recovered | FVU | gamma | alive |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for coefficient, kind in itertools.product(COEFFICIENTS, (OURS, THEIRS)):
        some = [row for row in rows if (row["sparsity_coefficient"], row["architecture"]) == (coefficient, kind)]
        cells = []
        for name, digits in (("l0", 2), ("loss_recovered", 4), ("fvu", 4), ("gamma", 3), ("alive", 3)):
            values = np.asarray([row[name] for row in some])
            cells.append(f"{values.mean():.{digits}f} ± {deviation(values):.{digits}f}")
        lines.append(f"| {coefficient} | {kind} | {' | '.join(cells)} |")
    pairs = [[row for row in rows if row["seed"] == seed] for seed in range(seeds)]
    ratios = np.exp([compare(pair, baseline=THEIRS, other=OURS).area for pair in pairs])
    error = deviation(ratios) / np.sqrt(seeds)
    verdict = "on or above theirs" if ratios.mean() > 1 - 2 * error else "below theirs"
    return [
        *lines,
        "\nL0 of dictionary_learning / gsae at equal loss recovered, over the range of both frontiers, by seed: "
        + ", ".join(f"{ratio:.3f}" for ratio in ratios),
        f"mean {ratios.mean():.3f} ± {error:.3f}: our frontier is {verdict}, within two standard errors",
        f"training of all points: gsae {seconds[OURS]:.0f} s, compilation included; dictionary_learning "
        f"{seconds[THEIRS]:.0f} s ({seconds[THEIRS] / seconds[OURS]:.1f} times as long)",
    ]


def deviation(values: np.ndarray) -> float:
    """The standard deviation of a sample; 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
