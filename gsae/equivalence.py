"""Part of the evaluation: how well each point agrees with its JumpReLU form, on a few activations of the run.

Measured on the run's mesh, by all processes together: each converts the features that its devices hold, and no device
gets more of a dictionary than its part.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gsae import artifacts
from gsae.autoencoders.base import Autoencoder
from gsae.autoencoders.registry import architecture
from gsae.evaluation.places import Places
from gsae.interop.equivalence import Agreement, compare, encoder_of_form, form, has_form
from gsae.job import Job
from gsae.mesh import DATA, FEATURE, fetch
from gsae.training.groups import Point

FOLDER, FILE = "equivalence", "equivalence.json"
ROWS = 2048  # activations at most
# Of a point that are looked at, at most: rows times features, so that the two [B, F] arrays stay small beside weights.
# No dictionary is too large for it: 2^26 weights in each matrix (2048 x 32,768) took 5 s on two busy cores, 3.5 of them
# in converting, which processes share. Its evaluation takes longer.
LATENTS = 1 << 23


def measure(job: Job) -> None:
    """Writes the agreement of every point that has a JumpReLU form; called by all processes, the first one writes.

    Points that were measured before, and have the same weights, are not measured again.
    """
    from gsae.autoencoders.saving import load_on_host

    paths = {point.name: job.autoencoder_path(point) for point in job.points}
    made_from = {name: (artifacts.read_manifest(path) or {}).get("files") for name, path in paths.items()}
    known = (artifacts.read_manifest(job.workdir / FOLDER) or {}).get("made_from", {})
    if known == made_from:
        return
    same = {name for name, files in made_from.items() if known.get(name) == files}
    found = {name: agreed for name, agreed in read(job).items() if name in same}
    rows: dict[str, np.ndarray] = {}
    for point in job.points:
        if point.name in same or not _has_form(point):
            continue
        if point.site not in rows:
            rows[point.site] = _rows(job, point.site)
        count = max(min(ROWS, LATENTS // point.width), 1)
        agreed = agreement_on(Places.of(job.mesh), load_on_host(paths[point.name]), rows[point.site][:count])
        if np.isfinite(agreed.largest):
            found[point.name] = agreed.plain()
    if job.is_first:
        with artifacts.publish(job.workdir / FOLDER, {"made_from": made_from}) as folder:
            artifacts.write_json(folder / FILE, {name: found[name] for name in paths if name in found})


def read(job: Job) -> Mapping[str, Mapping[str, Any]]:
    """What `measure` wrote; empty where it has not."""
    if artifacts.read_manifest(job.workdir / FOLDER) is None:
        return {}
    return json.loads((job.workdir / FOLDER / FILE).read_text())


def agreement_on(places: Places, autoencoder: Autoencoder, x_BD: np.ndarray) -> Agreement:
    """The agreement of an autoencoder with its form on a mesh, whose processes call this together.

    Args:
        places: where both are put, their features in parts.
        autoencoder: in the host's memory; one that has a form.
        x_BD: raw activations, the same in every process.
    """
    rows = len(x_BD)
    missing = -rows % places.mesh.shape[DATA]
    x_BD = np.pad(x_BD, ((0, missing), (0, 0)))
    row_B = np.where(np.arange(len(x_BD)) < rows, np.arange(len(x_BD), dtype=np.int32), -1)
    placed = places.autoencoder(autoencoder)
    both = placed, form(placed, _encoder_on(places, autoencoder))
    given = places.put(x_BD, PartitionSpec(DATA, None)), places.put(row_B, PartitionSpec(DATA))
    with jax.set_mesh(places.mesh):
        compared = places.finished(compare(*both, *given))
    return Agreement.of(fetch(compared), rows)


def _encoder_on(places: Places, autoencoder: Autoencoder) -> dict[str, jax.Array]:
    """The encoder of the form on the mesh, converted part by part: what the devices of this process hold."""
    width, features = autoencoder.W_enc.shape
    split = NamedSharding(places.mesh, PartitionSpec(FEATURE))
    holders: dict[tuple[int, int], list[jax.Device]] = {}
    for device, own in split.addressable_devices_indices_map((features,)).items():
        assert own is not None  # sharded arrays say it in slices
        start, stop, _ = own[0].indices(features)
        holders.setdefault((start, stop), []).append(device)
    parts: dict[str, list[jax.Array]] = {}
    for (start, stop), devices in holders.items():
        for name, array in encoder_of_form(autoencoder, slice(start, stop)).items():
            parts.setdefault(name, []).extend(jax.device_put(array, device) for device in devices)
    return {
        name: jax.make_array_from_single_device_arrays(
            (width, features) if arrays[0].ndim == 2 else (features,),
            NamedSharding(places.mesh, PartitionSpec(*(None,) * (arrays[0].ndim - 1), FEATURE)),
            arrays,
        )
        for name, arrays in parts.items()
    }


def _has_form(point: Point) -> bool:
    """Known from the kind of autoencoder alone: no weights are read for one that has none."""
    kind = architecture(point.architecture)
    shapes = jax.eval_shape(lambda key: kind.initialise(key, 1, point.width, point.options), jax.random.key(0))
    return has_form(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))


def _rows(job: Job, site: str) -> np.ndarray:
    """Held-out activations of a site that count, float32 [N, D], N at most `ROWS`; the same in every process."""
    if not job.has_language_model:
        return np.asarray(job.held_out.read(site, 0)[:ROWS], np.float32)
    from flax import nnx

    from gsae.evaluation.batches import batches, choose_sequences
    from gsae.evaluation.evaluate import places_on, rounded_up
    from gsae.evaluation.splice import prefix
    from gsae.language_models.sites import Site

    model = job.language_model.model
    (places, placement), (graph, _) = places_on(model, job.mesh), nnx.split(model)
    sequences = choose_sequences(job.held_out, ROWS, job.config.seed)
    at_once = rounded_up(job.config.evaluation.sequences_at_once, places.parts)  # a program that the evaluation has
    kept = []
    for batch in batches(job.held_out, sequences, at_once):
        with jax.set_mesh(places.automatic):
            before = prefix(placement.parameters, places.feed(batch.tokens_BT), graph=graph, site=Site.parse(site))
        kept.append(np.asarray(fetch(places.finished(before.original_BTW)), np.float32)[batch.keep_BT])
    return np.concatenate(kept)[:ROWS]
