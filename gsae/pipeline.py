"""The stages of a run: tokenise, harvest, train, evaluate, report. Each can be resumed, each can be run alone.

What a stage makes is published whole (`artifacts.py`) with the plain values and the fingerprints of what it was made
from; a stage that finds its artifact there, made from the same, has nothing to do.
"""

import contextlib
import functools
import json
import platform
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsae import artifacts, equivalence, recipe, rounds, schema
from gsae.config import Config
from gsae.dashboards import PAGE, write_dashboards
from gsae.errors import RunError, SettingError
from gsae.job import Job
from gsae.pilot import found_coefficients, place_coefficients
from gsae.processes.terminal import LOG
from gsae.processes.waiting import wait_for_all
from gsae.rounds import Round, Task, earlier_rounds
from gsae.tokenise import tokenise
from gsae.training.allocator import keep_freed_memory
from gsae.training.extraction import member_on_host, member_on_mesh
from gsae.training.groups import Group, Point
from gsae.training.sinks import METRICS
from gsae.training.step import GroupState, batch_sharding

DICTIONARY = "dictionary.npz"  # of a point, beside its row
# Of config.evaluation, beside the text.
JUDGED_BY = ("tokens", "skip_tokens", "zero_ablation", "bootstrap_samples", "error_bound")
NORMS_KEPT = 1000  # tokens of each point, for a plot


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
        job.prepare()
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
            initialise=job.go_on(record, part)
            if part.begin
            else functools.partial(job.initial_state, coefficients=placed),
            begin=part.begin,
            producer=job.producer,
        )
    if job.producer:
        print(f"live: {job.producer.describe()}")
    costs = {point: job.cost(group) for group in groups for point in group.points}
    coefficients = found_coefficients(groups, states)
    for point, take, status in job.members(groups, states, member_on_host):
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
    members = {point.name: (point, take, status) for point, take, status in job.members(groups, states, member_on_mesh)}
    for result in _evaluated(job, members, tokens=evaluation.quick_tokens, bootstrap_samples=0, progress=False):
        point, _, status = members[result.name]
        now = {"steps": step, "status": status}
        now |= {"sparsity_coefficient": coefficients[point.name]} if point.target_l0 else {}
        rows.append({**recipe.describe(job.config, point), **result.metrics, **now})
    if jax.process_index() == 0:
        draw_frontier(job.workdir / "frontier.png", rows)


def _finished_rows(job: Job, without: Collection[str]) -> list[dict[str, Any]]:
    paths = [job.evaluation_path(point) for point in job.points if point.name not in without]
    return [json.loads((path / "row.json").read_text()) for path in paths if artifacts.read_manifest(path) is not None]


def evaluate(job: Job) -> None:
    """Every point on held-out text or rows; each result is kept as soon as it is there."""
    from gsae.autoencoders.saving import load_on_host, read_metadata

    settings = job.config.evaluation
    made_from = {
        "tokens": job.held_out.fingerprint,
        "settings": {name: getattr(settings, name) for name in JUDGED_BY},
    }
    if job.looks_at_dictionaries:
        made_from["dictionaries"] = True
    members, digests, known = {}, {}, {}
    for point in job.points:
        path = job.autoencoder_path(point)
        manifest = artifacts.read_manifest(path)
        if manifest is None:
            raise RunError(f"{path}: has not been made yet; run --stage=train first")
        digests[point.name] = {**made_from, "weights": manifest["files"]}
        if not _is_evaluated(job, point, digests[point.name]):
            members[point.name] = (point, functools.partial(load_on_host, path), read_metadata(path)["status"])
            known[point.name] = _of_metadata(read_metadata(path))

    def keep(result: Any) -> None:
        if jax.process_index() > 0:  # every process has the same
            return
        point, _, status = members[result.name]
        row = {**recipe.describe(job.config, point), **known[point.name], **result.metrics, "status": status}
        with artifacts.publish(job.evaluation_path(point), {"made_from": digests[point.name]}) as folder:
            artifacts.write_json(folder / "row.json", _plain(row))
            np.save(folder / "density.npy", result.density)
            if job.looks_at_dictionaries:
                found: dict[str, Any] = _dictionary(job, members[result.name], result)
                np.savez(folder / DICTIONARY, **found)
            if settings.error_bound:
                np.save(folder / "norms.npy", result.norms[:: -(-len(result.norms) // NORMS_KEPT)])

    tokens, samples = settings.tokens, settings.bootstrap_samples
    error_bound = settings.error_bound
    _evaluated(
        job, members, tokens=tokens, bootstrap_samples=samples, progress=True, error_bound=error_bound, on_result=keep
    )
    if settings.pursuit:
        _pursue(job, digests)
    equivalence.measure(job)  # last: one process does it, and the others have no collective to wait in


def _dictionary(job: Job, member: tuple[Point, Callable[[], Any], str], result: Any) -> dict[str, Any]:
    """What the decoder vectors of a point are to each other, by name."""
    from gsae.evaluation.dictionary import look

    W_dec_FD, input_norm = np.asarray(member[1]().W_dec), result.metrics["input_norm"]
    return look(W_dec_FD, result.density, result.strength, input_norm, seed=job.config.seed).arrays()


def _of_metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of results.csv that only the training knew."""
    found = {name: about.get(name) for name in ("flops_a_step", "products_a_step")}
    if about.get("target_l0"):
        found |= {name: about[name] for name in ("sparsity_coefficient", "target_l0")}
    if "extended_from" in about:
        found["extended_from"] = " ".join(map(str, about["extended_from"]))
    return found


def _pursue(job: Job, digests: Mapping[str, Any]) -> None:
    """Every point of a plain kind once more, its codes found by pursuit: one row for each cap on L0."""
    from gsae.autoencoders.saving import load_on_host
    from gsae.evaluation.pursuit import with_caps

    settings = job.config.evaluation
    how = {"pursuit": list(settings.pursuit), "tokens": settings.pursuit_tokens}
    for point in job.points:
        about = recipe.describe(job.config, point)
        made_from = {**digests[point.name], **how}
        if about["variant"] or about["starts_from"] or _is_made(job.pursuit_path(point), made_from):
            continue
        autoencoder = load_on_host(job.autoencoder_path(point))
        members = {
            f"{point.name} at {cap}": (point, functools.partial(_itself, member), "ok")
            for cap, member in with_caps(autoencoder, settings.pursuit).items()
        }
        tokens = min(settings.pursuit_tokens, settings.tokens or settings.pursuit_tokens)
        results = _evaluated(job, members, tokens=tokens, bootstrap_samples=0, progress=False)
        rows = [
            _plain({**about, **result.metrics, "target_l0": cap, "status": "ok"})
            for cap, result in zip(settings.pursuit, results, strict=True)
        ]
        if jax.process_index() > 0:  # every process has the same
            continue
        with artifacts.publish(job.pursuit_path(point), {"made_from": made_from}) as folder:
            artifacts.write_json(folder / "rows.json", {"rows": rows})


def _itself(member: Any) -> Any:
    return member


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json(value) for name, value in row.items()}


def _is_evaluated(job: Job, point: Point, made_from: Mapping[str, Any]) -> bool:
    return _is_made(job.evaluation_path(point), made_from)


def _is_made(path: Path, made_from: Mapping[str, Any]) -> bool:
    manifest = artifacts.read_manifest(path)
    return manifest is not None and manifest["made_from"] == made_from


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that does not exist is null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _evaluated(
    job: Job,
    members: Mapping[str, tuple[Point, Callable[[], Any], str]],
    *,
    tokens: int,
    bootstrap_samples: int,
    progress: bool,
    **how: Any,
) -> Sequence[Any]:
    from gsae.evaluation.evaluate import evaluate as evaluate_members
    from gsae.evaluation.held_out_rows import evaluate_rows
    from gsae.evaluation.members import Member

    settings = job.config.evaluation
    judged = [Member(name, point.site, take) for name, (point, take, _) in members.items()]
    if not job.has_language_model:
        return evaluate_rows(
            job.held_out, judged, rows=tokens, skip_rows=settings.skip_tokens, mesh=job.mesh, progress=progress, **how
        )
    return evaluate_members(
        job.language_model,
        job.held_out,
        judged,
        tokens=tokens,
        batch_size=settings.sequences_at_once,
        mesh=job.mesh,
        skip_tokens=settings.skip_tokens,
        zero_convention=settings.zero_ablation,
        bootstrap_samples=bootstrap_samples,
        seed=job.config.seed,
        progress=progress,
        **how,
    )


def report(job: Job) -> None:
    """The table on the terminal, results.csv, the figures and report.html; one process makes them."""
    if jax.process_index() == 0:
        _report(job)
    if job.config.evaluation.dashboards:
        wait_for_all("results")  # what is wrong with them is said before the others start to look
        _show_features(job)


def _report(job: Job) -> None:
    from gsae.reports.report import write_report

    rows, densities, dictionaries, norms, pursued = [], {}, {}, {}, []
    for point in job.points:
        path = job.evaluation_path(point)
        if artifacts.read_manifest(path) is None:
            raise RunError(f"{path}: has not been made yet; run --stage=evaluate first")
        artifacts.verify(path)
        rows.append(json.loads((path / "row.json").read_text()))
        densities[point.name] = np.load(path / "density.npy")
        if (path / DICTIONARY).exists():
            dictionaries[point.name] = dict(np.load(path / DICTIONARY))
        if job.config.evaluation.error_bound:
            norms[point.name] = np.load(path / "norms.npy")
        if job.config.evaluation.pursuit and artifacts.read_manifest(job.pursuit_path(point)) is not None:
            artifacts.verify(job.pursuit_path(point))
            pursued += json.loads((job.pursuit_path(point) / "rows.json").read_text())["rows"]
    logs = [job.round_path(job.workdir / "logs", r) / METRICS for r in rounds.read(job.workdir)]
    shown = write_report(
        job.workdir,
        rows=rows,
        pursued=pursued,
        densities=densities,
        dictionaries=dictionaries,
        norms=norms,
        baseline=job.config.evaluation.baseline,
        config=schema.plain(job.config),
        command=job.command,
        versions=versions(),
        seconds_per_stage=job.seconds,
        metrics_logs=logs,
        features_page=PAGE if job.config.evaluation.dashboards else "",
        equivalence=equivalence.read(job),
    )
    print(shown)


def _show_features(job: Job) -> None:
    """features.html: what features of every finished point respond to, on the text that it is judged on."""
    from gsae.autoencoders.saving import load_on_host

    results = (json.loads((job.evaluation_path(point) / "row.json").read_text()) for point in job.points)
    rows = {row["point"]: row for row in results if row["status"] == "ok"}
    settings, sites = job.config.evaluation, {point.name: point.site for point in job.points}
    write_dashboards(
        job.workdir / PAGE,
        title=job.workdir.resolve().name,
        language_model=job.language_model,
        token_store=job.held_out,
        rows=rows,
        autoencoders={
            point.name: functools.partial(load_on_host, job.autoencoder_path(point))
            for point in job.points
            if point.name in rows
        },
        sites=sites,
        features=settings.dashboards,
        tokens=settings.tokens,
        batch_size=settings.sequences_at_once,
        mesh=job.mesh,
        skip_tokens=settings.skip_tokens,
        seed=job.config.seed,
    )


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    packages = ("gsae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


STAGES: dict[str, Callable[[Job], None]] = {
    "tokenise": tokenise,
    "harvest": harvest,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}
