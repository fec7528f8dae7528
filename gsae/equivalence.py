"""Part of the evaluation: how well each point agrees with its JumpReLU form, on a few activations of the run."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gsae import artifacts
from gsae.job import Job

FOLDER, FILE = "equivalence", "equivalence.json"
ROWS = 2048  # activations at most
LATENTS = 1 << 23  # of a point that are looked at, at most: rows times features
WEIGHTS = 1 << 26  # of a point, at most: larger ones are left out, so that a report stays a matter of seconds


def measure(job: Job) -> None:
    """Writes the agreement of every point that has a JumpReLU form, by the first process alone; nothing to do again."""
    from gsae.autoencoders.saving import load, read_config
    from gsae.interop.equivalence import agreement

    if not job.is_first:  # nothing here is split over processes: each has the language model, and weights are in files
        return
    paths = {point.name: job.autoencoder_path(point) for point in job.points}
    made_from = {name: (artifacts.read_manifest(path) or {}).get("files") for name, path in paths.items()}
    manifest = artifacts.read_manifest(job.workdir / FOLDER)
    if manifest is not None and manifest["made_from"] == made_from:
        return
    rows: dict[str, np.ndarray] = {}
    found = {}
    for point in job.points:
        if point.width * read_config(paths[point.name])["activation_width"] > WEIGHTS:
            continue
        if point.site not in rows:
            rows[point.site] = _rows(job, point.site)
        count = max(min(ROWS, LATENTS // point.width), 1)
        agreed = agreement(load(paths[point.name]), rows[point.site][:count])
        if agreed is not None and np.isfinite(agreed.largest):
            found[point.name] = agreed.plain()
    with artifacts.publish(job.workdir / FOLDER, {"made_from": made_from}) as folder:
        artifacts.write_json(folder / FILE, found)


def read(job: Job) -> Mapping[str, Mapping[str, Any]]:
    """What `measure` wrote; empty where it has not."""
    if artifacts.read_manifest(job.workdir / FOLDER) is None:
        return {}
    return json.loads((job.workdir / FOLDER / FILE).read_text())


def _rows(job: Job, site: str) -> np.ndarray:
    """Held-out activations of a site that count, float32 [N, D], N at most `ROWS`."""
    if not job.has_language_model:
        return np.asarray(job.held_out.read(site, 0)[:ROWS], np.float32)
    from flax import nnx

    from gsae.evaluation.batches import batches, choose_sequences
    from gsae.interventions.programs import capture
    from gsae.language_models.placement import place
    from gsae.language_models.sites import Site

    at, kept = Site.parse(site), []
    placement, (graph, _) = place(job.language_model.model), nnx.split(job.language_model.model)
    sequences = choose_sequences(job.held_out, ROWS, job.config.seed)
    with jax.set_mesh(placement.mesh):
        for batch in batches(job.held_out, sequences, job.config.evaluation.sequences_at_once):
            captured = capture(placement.parameters, jnp.asarray(batch.tokens_BT), graph=graph, sites=(at,))
            kept.append(np.asarray(captured[at], np.float32)[batch.keep_BT])
    return np.concatenate(kept)[:ROWS]
