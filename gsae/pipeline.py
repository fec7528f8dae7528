"""The stages of a run: tokenise, harvest, train, evaluate, report. Each can be resumed, each can be run alone.

What a stage makes is published whole (`artifacts.py`) with the plain values and the fingerprints of what it was made
from; a stage that finds its artifact there, made from the same, has nothing to do.
"""

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gsae import aiming, artifacts, recipe, schema
from gsae.config import Config
from gsae.errors import SettingError
from gsae.job import Job
from gsae.judge import evaluate, judged, tokens_before_those_apart
from gsae.pilot import found_coefficients, place_coefficients
from gsae.preparation import prepare
from gsae.processes.terminal import LOG
from gsae.processes.waiting import wait_for_all
from gsae.rounds import Round, Task, earlier_rounds
from gsae.show import report
from gsae.states import cost, go_on, initial_state
from gsae.states import members as members_of
from gsae.tokenise import tokenise
from gsae.training.allocator import keep_freed_memory
from gsae.training.extraction import member_on_host, member_on_mesh
from gsae.training.groups import Group
from gsae.training.step import GroupState, batch_sharding


def run(
    config: Config,
    workdir: Path,
    *,
    stage: str = "all",
    command: str = "",
    started: float | None = None,
    fresh: bool | None = None,
) -> None:
    """Runs one stage, or all of them in order. Of several processes, all call this alike.

    Args:
        config: a checked configuration.
        workdir: where everything is kept; made if need be.
        stage: "all", or the only one to run; the ones before it must be finished.
        command: how the user started this, for the report.
        started: `time.monotonic()` when the program started; the time until now is counted as start-up.
        fresh: whether the workdir is new; None where it is if it is not there.

    Raises:
        SettingError: when a setting is wrong; nothing is left behind in a new workdir.
        RunError: when the run cannot go on.
        Interrupted: after a signal, with the state saved.
    """
    fresh, current = not workdir.exists() if fresh is None else fresh, "start-up"
    begun = time.monotonic() if started is None else started
    job = Job(config, workdir, command)
    if jax.default_backend() == "cpu":
        keep_freed_memory()  # before anything large is allocated
    try:
        prepare(job)
        job.took(current, time.monotonic() - begun)
        for current, work in STAGES.items():
            if stage in ("all", current):
                begun = time.monotonic()
                LOG.info("%s begins", current)
                try:
                    work(job)
                    wait_for_all(current)  # nobody reads what another process has not finished
                finally:
                    job.took(current, time.monotonic() - begun)
        print(job.time_budget())
    except SettingError:
        early = current in ("start-up", "tokenise", "harvest")  # later, there is work to lose
        if fresh and early and jax.process_index() == 0:
            shutil.rmtree(workdir, ignore_errors=True)
        raise


def harvest(job: Job) -> None:
    """Activations of the training part at every site of the sweep, in superblocks on disk; nothing if they are live."""
    from gsae.activations.harvest import harvest as harvest_rows

    if job.config.activations.source == "rows":
        return _import_rows(job)
    if job.config.activations.source == "live":
        print("harvest: nothing to do (config.activations.source = 'live': rows are made while the sweep trains)")
        return
    harvest_rows(
        job.language_model,
        job.tokens("train"),
        job.harvested_sites,
        job.activations_path,
        devices=job.language_model_devices,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **recipe.rows(job.config),
    )


def _import_rows(job: Job) -> None:
    """Rows from elsewhere into two stores, to train on and to judge by, unless they are there."""
    from gsae.activations.row_import import import_tables
    from gsae.evaluation.held_out_rows import choose_rows

    settings, made = job.config.activations, job.rows_are_imported
    if settings.paths and (settings.store or not made):  # the workdir's own are what its config.json says
        if jax.process_index() == 0:
            import_tables(job.rows.of(job.sites), job.store_path, **recipe.imported_rows(job.config))
        wait_for_all("imported")
    elif not settings.paths:
        recipe.check_imported(job.config, job.activations.identity.dtype, job.activations.superblock_rows)
    evaluation = job.config.evaluation
    choose_rows(job.held_out, evaluation.tokens, evaluation.skip_tokens)  # that some are left is known now, not later
    tokens_before_those_apart(job)


def train(job: Job) -> None:
    """The points that are not there yet, side by side on the same batches; then the weights, for raw activations."""
    record, tasks = job.tasks()
    for task in tasks:
        targets = [point for point in task.round.points if point.target_l0 and not task.round.begin]
        _train_round(job, record, task, place_coefficients(job, targets, task.round.steps))


def _train_round(job: Job, record: Sequence[Round], task: Task, placed: Mapping[str, float]) -> None:
    """The points of one round, from the first of its steps or from where a killed process left them."""
    from gsae.activations.batches import Batches
    from gsae.autoencoders.saving import save
    from gsae.training.checkpoints import Checkpoints
    from gsae.training.logging import Logger
    from gsae.training.loop import train as train_groups

    part = task.round
    config = recipe.with_steps(job.config, part.steps)
    settings, groups = config.training, job.groups_of(part)
    sites = tuple(dict.fromkeys(point.site for point in part.points))
    if part.number > 1:
        print(f"train: round {part.number}, {len(part.points)} points, from step {part.begin} to {part.steps}")
    batches = Batches(
        job.activations, sites, settings.batch_size, config.seed, sharding=batch_sharding(job.mesh), meet=job.meet
    )
    with (
        # Closed whatever happens, Ctrl-C while the statistics are made included: it would finish its superblock first.
        contextlib.closing(job.producer) if job.producer else contextlib.nullcontext(),
        Checkpoints(
            job.round_path(job.checkpoints_path, part),
            every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            settings=part.fingerprint,
        ) as checkpoints,
        Logger(
            job.round_path(job.workdir / "logs", part),
            every=config.logging.every,
            total_steps=settings.steps,
            tokens_per_step=settings.batch_size,
            tensorboard=config.logging.tensorboard,
            wandb_project=config.logging.wandb_project,
            settings=schema.plain(config),
        ) as logger,
    ):
        states = train_groups(
            groups,
            batches,
            steps=settings.steps,
            settings={site: recipe.step_settings(config, job.input_scale(site)) for site in sites},
            mesh=job.mesh,
            checkpoints=checkpoints,
            logger=logger,
            resampling=recipe.resampling(config),
            on_evaluate=functools.partial(_look, job, groups),
            evaluate_every=config.evaluation.every,
            initialise=go_on(job, record, part)
            if part.begin
            else functools.partial(initial_state, job, coefficients=placed),
            begin=part.begin,
            producer=job.producer,
            before=aiming.corrections(job, groups, recipe.in_steps(config, "target_l0.adjust_until")),
        )
    if job.producer:
        print(f"live: {job.producer.describe()}")
    costs = {point: cost(job, group) for group in groups for point in group.points}
    coefficients = found_coefficients(groups, states)
    for point, take, status in members_of(job, groups, states, member_on_host):
        if point.name not in task.missing:
            continue
        about = {**recipe.describe(config, point), **recipe.origin(config), "input_scale": job.input_scale(point.site)}
        about |= {**costs[point], "status": status, "training": part.identities[point.name]}
        if point.target_l0:
            about |= {"sparsity_coefficient": coefficients[point.name], "target_l0": point.target_l0}
        if part.begin:
            about["extended_from"] = [earlier.steps for earlier in earlier_rounds(record, part, point.name)]
        autoencoder = take()
        if autoencoder is not None:  # in process 0
            save(autoencoder, job.autoencoder_path(point), about)
    job.close_rows()


def _look(job: Job, groups: Sequence[Group], step: int, states: Mapping[Any, GroupState]) -> None:
    """A quick evaluation while it trains: redraws frontier.png, with the points that were finished before."""
    from gsae.reports.plots import draw_frontier

    rows = _finished_rows(job, {point.name for group in groups for point in group.points})
    evaluation, coefficients = job.config.evaluation, found_coefficients(groups, states)
    members = {
        point.name: (point, take, status) for point, take, status in members_of(job, groups, states, member_on_mesh)
    }
    for result in judged(job, members, tokens=evaluation.quick_tokens, bootstrap_samples=0, progress=False):
        point, _, status = members[result.name]
        now = {"steps": step, "status": status}
        now |= {"sparsity_coefficient": coefficients[point.name]} if point.target_l0 else {}
        rows.append({**recipe.describe(job.config, point), **result.metrics, **now})
    if jax.process_index() == 0:
        draw_frontier(job.workdir / "frontier.png", rows)


def _finished_rows(job: Job, without: Collection[str]) -> list[dict[str, Any]]:
    paths = [job.evaluation_path(point) for point in job.points if point.name not in without]
    return [json.loads((path / "row.json").read_text()) for path in paths if artifacts.read_manifest(path) is not None]


STAGES: dict[str, Callable[[Job], None]] = {
    "tokenise": tokenise,
    "harvest": harvest,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
