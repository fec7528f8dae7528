"""The stage that evaluates: every point judged on held-out text or rows, and what else is asked about it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsae import artifacts, equivalence, recipe
from gsae.errors import RunError, SettingError
from gsae.job import Job
from gsae.training.groups import Point

DICTIONARY = "dictionary.npz"  # of a point, beside its row
# Of config.evaluation, beside the text.
JUDGED_BY = ("tokens", "skip_tokens", "zero_ablation", "bootstrap_samples", "error_bound")
NORMS_KEPT = 1000  # tokens of each point, for a plot


def evaluate(job: Job) -> None:
    """Every point on held-out text or rows; each result is kept as soon as it is there."""
    from gsae.autoencoders.saving import load_on_host, read_metadata

    settings = job.config.evaluation
    tokens_before_those_apart(job)
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
        if not _is_judged(job, point, digests[point.name]):
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
    judged(
        job, members, tokens=tokens, bootstrap_samples=samples, progress=True, error_bound=error_bound, on_result=keep
    )
    if settings.pursuit:
        _pursue(job, digests)
    equivalence.measure(job)


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
        results = judged(job, members, tokens=tokens, bootstrap_samples=0, progress=False)
        rows = [
            _plain({**about, **result.metrics, "target_l0": cap, "status": "ok"})
            for cap, result in zip(settings.pursuit, results, strict=True)
        ]
        if jax.process_index() > 0:  # every process has the same
            continue
        with artifacts.publish(job.pursuit_path(point), {"made_from": made_from}) as folder:
            artifacts.write_json(folder / "rows.json", {"rows": rows})


def judged(
    job: Job,
    members: Mapping[str, tuple[Point, Callable[[], Any], str]],
    *,
    tokens: int,
    bootstrap_samples: int,
    progress: bool,
    where: Any = None,
    skip_tokens: int | None = None,
    **how: Any,
) -> Sequence[Any]:
    """What comes of members on held-out text, or on held-out rows; `how` is further settings of the evaluation.

    Args:
        job: the run.
        members: by name: the point, what gives its autoencoder, its status.
        tokens: that count, at most; 0 for all.
        bootstrap_samples: of documents, for standard errors; 0 for none.
        progress: draws a bar.
        where: a token store, or an activation store where there is no language model; None for the held-out one.
        skip_tokens: that count, passed over first; None for what the settings say.
    """
    from gsae.evaluation.evaluate import evaluate as evaluate_members
    from gsae.evaluation.held_out_rows import evaluate_rows
    from gsae.evaluation.members import Member

    settings = job.config.evaluation
    where = job.held_out if where is None else where
    skip = settings.skip_tokens if skip_tokens is None else skip_tokens
    judged = [Member(name, point.site, take) for name, (point, take, _) in members.items()]
    if not job.has_language_model:
        return evaluate_rows(where, judged, rows=tokens, skip_rows=skip, mesh=job.mesh, progress=progress, **how)
    return evaluate_members(
        job.language_model,
        where,
        judged,
        tokens=tokens,
        batch_size=settings.sequences_at_once,
        mesh=job.mesh,
        skip_tokens=skip,
        zero_convention=settings.zero_ablation,
        bootstrap_samples=bootstrap_samples,
        seed=job.config.seed,
        progress=progress,
        **how,
    )


def tokens_before_those_apart(job: Job) -> int:
    """How many held-out tokens come before the last ones, which correct the targets of L0 and judge nothing.

    Raises:
        SettingError: where results would be measured on some of these.
    """
    from gsae.evaluation.batches import counted_tokens

    apart, settings = job.config.training.target_l0.held_out_tokens, job.config.evaluation
    if not apart or not any(point.target_l0 for point in job.points):
        return 0
    total = counted_tokens(job.held_out) if job.has_language_model else job.held_out.rows
    judging = min(settings.skip_tokens + settings.tokens, total) if settings.tokens else total
    if judging + apart > total:
        allowed = (
            f"must be at most {total - judging}: of {total} held-out tokens config.evaluation.tokens (and skip_tokens) "
            f"take {judging}; 0 aims at the L0 of training rows"
        )
        raise SettingError("config.training.target_l0.held_out_tokens", apart, allowed)
    return total - apart


def _itself(member: Any) -> Any:
    return member


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json(value) for name, value in row.items()}


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that does not exist is null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _is_judged(job: Job, point: Point, made_from: Mapping[str, Any]) -> bool:
    return _is_made(job.evaluation_path(point), made_from)


def _is_made(path: Path, made_from: Mapping[str, Any]) -> bool:
    manifest = artifacts.read_manifest(path)
    return manifest is not None and manifest["made_from"] == made_from
