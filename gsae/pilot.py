"""The pilot of a sweep with targets: a few steps with a few coefficients, side by side, to place the points'."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsae import artifacts, recipe
from gsae.job import Job
from gsae.mesh import fetch
from gsae.processes.waiting import wait_for_all
from gsae.states import initial_state
from gsae.training.groups import Point, group_points
from gsae.training.step import batch_sharding
from gsae.training.targets import place

RECORD = "pilot.json"  # by pilot's fingerprint: coefficients, and the L0 that each came to


def place_coefficients(job: Job, points: Sequence[Point], steps: int) -> dict[str, float]:
    """The coefficient with which each point with a target begins, by its name; runs the pilots that are missing.

    A pilot is of all that a point has but its seed and target: it is the same whatever else is in the sweep.

    Args:
        job: the run.
        points: of one round.
        steps: of that round; a pilot may be a share of it.
    """
    settings = job.config.training.target_l0
    length = recipe.in_steps(recipe.with_steps(job.config, steps), "target_l0.pilot")
    of_point = {point.name: _pilot_points(point, settings.pilot_coefficients, length) for point in points}
    of_point = {point.name: of_point[point.name] for point in points if point.target_l0}
    keys = {name: artifacts.fingerprint([job.training_identity(own) for own in pilot] + [length])
            for name, pilot in of_point.items()}  # fmt: skip
    known = _read(job)
    missing = {keys[name]: pilot for name, pilot in of_point.items() if keys[name] not in known}
    if missing:
        found = _run(job, missing, length)
        wait_for_all("pilot")  # all have read what one of them now writes
        known |= found
        if job.is_first:
            artifacts.write_json(job.workdir / RECORD, known)
    targets = {point.name: point.target_l0 for point in points}
    return {name: place(known[key]["coefficients"], known[key]["l0"], targets[name]) for name, key in keys.items()}


def _pilot_points(point: Point, coefficients: Sequence[float], steps: int) -> list[Point]:
    return [
        dataclasses.replace(point, sparsity_coefficient=coefficient, target_l0=0.0, seed=0, steps=steps)
        for coefficient in sorted(coefficients)
    ]


def _read(job: Job) -> dict[str, Any]:
    path = job.workdir / RECORD
    return json.loads(path.read_text()) if path.exists() else {}


def _run(job: Job, pilots: Mapping[str, Sequence[Point]], steps: int) -> dict[str, Any]:
    from gsae.activations.batches import Batches
    from gsae.training.checkpoints import Checkpoints
    from gsae.training.logging import Logger
    from gsae.training.loop import train

    settings = job.config.training
    points = list({point.name: point for pilot in pilots.values() for point in pilot}.values())
    groups = group_points(points, job.mesh.shape["sweep"])
    sites = tuple(dict.fromkeys(point.site for point in points))
    identity = artifacts.fingerprint([sorted(pilots), steps])
    folder = f"pilot-{identity[:12]}"
    print(f"train: a pilot of {steps} steps, {len(points)} points, places the coefficients of the targets")
    batches = Batches(
        job.activations, sites, settings.batch_size, job.config.seed, sharding=batch_sharding(job.mesh), meet=job.meet
    )
    with (
        Checkpoints(job.checkpoints_path / folder, every=settings.checkpoint_every, keep=1, settings=identity) as kept,
        Logger(
            job.workdir / "logs" / folder,
            every=job.config.logging.every,
            total_steps=steps,
            tokens_per_step=settings.batch_size,
            tensorboard=False,
        ) as logger,
    ):
        states = train(
            groups,
            batches,
            steps=steps,
            settings={site: recipe.pilot_settings(job.config, steps, job.input_scale(site)) for site in sites},
            mesh=job.mesh,
            checkpoints=kept,
            logger=logger,
            initialise=functools.partial(initial_state, job),
            producer=job.producer,
        )
    job.close_rows()
    l0 = {
        point.name: float(value)
        for group in groups
        for point, value in zip(group.points, fetch(states[group.name].mean_l0)[: len(group.points)], strict=True)
    }
    for point in points:
        print(f"  {point.name}: L0 {l0[point.name]:.3g}")
    return {
        key: {
            "coefficients": [point.sparsity_coefficient for point in pilot],
            "l0": [l0[point.name] for point in pilot],
        }
        for key, pilot in pilots.items()
    }


def found_coefficients(groups: Sequence[Any], states: Mapping[str, Any]) -> dict[str, float]:
    """The coefficients of all points with targets at present, by name; all processes call it together."""
    return {
        point.name: float(value)
        for group in groups
        if group.has_targets
        for point, value in zip(group.members, np.asarray(fetch(states[group.name].sparsity_coefficient)), strict=True)
    }
