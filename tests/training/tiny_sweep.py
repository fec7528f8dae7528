"""A sweep of two groups that trains in a second. Run as a program, it is what the tests kill.

python tiny_sweep.py WORKDIR [SECONDS TO SLEEP AFTER EVERY STEP [FROM WHICH STEP]]
"""

import sys
import time
from pathlib import Path

from jax.sharding import NamedSharding, PartitionSpec

from gsae import errors
from gsae import mesh as axes
from gsae.activations.batches import Batches
from gsae.activations.synthetic import SITE, Synthetic
from gsae.autoencoders.registry import architecture
from gsae.training.checkpoints import Checkpoints
from gsae.training.groups import Point, group_points
from gsae.training.logging import Logger
from gsae.training.loop import Resampling, train
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings

STEPS, EVERY, BATCH = 60, 10, 64
RESAMPLING = Resampling(steps=(30,), inputs=100)
POINTS = [
    Point(name, SITE, width, coefficient, 1e-2, 0, architecture(name).Options())
    for name, width in (("gated", 32), ("standard", 48))
    for coefficient in (0.1, 0.5, 30.0)  # the last kills features: something to resample
]


def run(workdir, *, mesh_sizes=(1, 1, 1), points=POINTS, on_step=None, **options):
    """Trains in `workdir`; `on_step` is called after every step but the last. Other options are those of `train`."""
    mesh = axes.make_mesh(*mesh_sizes)
    rows = NamedSharding(mesh, PartitionSpec(axes.AXES))
    batches = Batches(Synthetic(16, 24, 3.0, 2048, 512, seed=3), [SITE], BATCH, 5, sharding=rows)
    steps = options.pop("steps", STEPS)
    step_settings = StepSettings(
        batch_size=BATCH, schedules=Schedules(total_steps=STEPS, warmup_steps=5), dead_window_tokens=BATCH * 3
    )
    logger = Logger(workdir / "logs", every=3, total_steps=steps, tokens_per_step=BATCH, tensorboard=False, bar=False)
    checkpoints = Checkpoints(workdir / "checkpoints", every=options.pop("every", EVERY), settings="tiny")
    with logger, checkpoints:
        return train(
            group_points(points, mesh_sizes[0]),
            batches,
            steps=steps,
            settings={SITE: step_settings},
            mesh=mesh,
            checkpoints=checkpoints,
            logger=logger,
            resampling=options.pop("resampling", RESAMPLING),
            on_evaluate=on_step,
            evaluate_every=1,
            **options,
        )


if __name__ == "__main__":
    pause, first = (*sys.argv[2:], "0", "0")[:2]

    def wait(step, states):
        """Says so when it waits for the first time."""
        if step == int(first):
            print("waits", flush=True)
        time.sleep(float(pause) if step >= int(first) else 0)

    try:
        run(Path(sys.argv[1]), on_step=wait)
    except errors.Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.exit_code)
    print("finished")
