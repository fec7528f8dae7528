"""Before a run does anything: what can be wrong is found, and the workdir becomes this run's."""

import json

import jax

from gsae import artifacts, recipe, rounds, schema
from gsae.errors import RunError, SettingError
from gsae.job import CONFIG, LANGUAGE_MODEL, SECONDS, Job
from gsae.places import try_out
from gsae.processes.terminal import LOG
from gsae.processes.waiting import dissenter, wait_for_all
from gsae.training import starting
from gsae.training.checkpoints import shelf
from gsae.training.sinks import require_wandb


def prepare(job: Job) -> None:
    """Checks everything that can be wrong before any work is done, then marks the workdir as this run's."""
    recorded = job.workdir / CONFIG
    if recorded.exists():
        try:
            schema.refuse_changes(json.loads(recorded.read_text()), job.config)
        except json.JSONDecodeError as error:
            raise RunError(f"{recorded}: is not readable ({error})") from error
    _agree(job)
    _check_places(job)
    recipe.check_mesh(job.config, job.mesh, job.points)
    rounds.refuse_fewer_steps(job.points, job.weights_path)
    starting.check(job.points, job.config.sae.start_from)
    for steps in {point.steps for point in job.points}:
        recipe.step_settings(recipe.with_steps(job.config, steps))
        recipe.resampling(recipe.with_steps(job.config, steps))
    require_wandb(job.config.logging.wandb_project)
    if job.has_language_model and job.config.text.context_length > job.language_model.settings.context_length:
        raise SettingError(
            "config.text.context_length",
            job.config.text.context_length,
            f"the language model was made for at most {job.language_model.settings.context_length} tokens",
        )
    if job.config.activations.source == "live":
        _check_live(job)
    if (job.workdir / SECONDS).exists():
        job.seconds = json.loads((job.workdir / SECONDS).read_text())
    if job.has_language_model:
        from gsae.language_models.pinned import pin

        _agree_on_language_model(job)
        if job.is_first:
            pin(job.workdir / LANGUAGE_MODEL, job.language_model)
    if job.is_first:
        artifacts.write_json(recorded, schema.plain(job.config))
    wait_for_all("workdir")


def _agree(job: Job) -> None:
    """Refuses processes that were started with different settings."""
    found = dissenter("configuration", json.dumps(schema.plain(job.config) | {"processes": {}}))
    if found:
        process, own, first = found[0], schema.flat(json.loads(found[1])), schema.flat(json.loads(found[2]))
        name = next(name for name in own | first if own.get(name) != first.get(name))
        allowed = f"must be the same in all processes; process {process} was started with {own.get(name)!r}"
        raise SettingError(name, first.get(name), allowed)
    LOG.info("mesh %s; this process has %s", dict(job.mesh.shape), ", ".join(map(str, job.language_model_devices)))


def _agree_on_language_model(job: Job) -> None:
    found = dissenter("language model", job.language_model.fingerprint)
    if found:
        name = job.config.language_model.name
        raise RunError(f"config.language_model.name = {name!r}: process {found[0]} has other files than process 0")


def _check_places(job: Job) -> None:
    """What can be wrong with buckets, known before there is work to lose."""
    if "://" in job.config.text.store:
        allowed = "must be a directory: tokens are read in place; copy it from the bucket, or have it in the workdir"
        raise SettingError("config.text.store", job.config.text.store, allowed)
    shelf(job.checkpoints_path)
    try_out(job.checkpoints_path)
    if job.config.activations.source != "live":
        try_out(job.activations_path, artifacts.MANIFEST)


def _check_live(job: Job) -> None:
    from gsae.memory import live_needs

    activations = job.config.activations
    if jax.process_count() > 1 and activations.devices:
        allowed = "must be 0 with several processes: each makes its share of the rows on its devices of the mesh"
        raise SettingError("config.activations.devices", activations.devices, allowed)
    needs = live_needs(
        job.language_model,
        job.language_model_sites,
        job.groups,
        job.mesh,
        job.language_model_devices,
        recipe.step_settings(job.config),
        superblock_rows=activations.superblock_rows,
        context_length=job.config.text.context_length,
        sequences_at_once=job.sequences_at_once,
        dtype=activations.dtype,
        revives=bool(job.config.training.resampling.at),
        evaluates=0 < job.config.evaluation.every < job.config.training.steps,
        gradients=activations.gradients,
        limit=int(activations.memory_gb * 1e9),
        processes=jax.process_count(),
    )
    for need in needs:
        need.check()
        print(f"live: about {need.describe()}")
