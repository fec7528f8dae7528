"""The stage that reports: the table on the terminal, results.csv, the figures, report.html, the page of features."""

import functools
import json
import platform
from importlib import metadata

import jax
import numpy as np

from gsae import artifacts, equivalence, rounds, schema
from gsae.dashboards import PAGE, write_dashboards
from gsae.errors import RunError
from gsae.job import Job
from gsae.judge import DICTIONARY
from gsae.processes.waiting import wait_for_all
from gsae.training.sinks import METRICS


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
    found = {"python": platform.python_version()}
    for name in ("gsae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found
