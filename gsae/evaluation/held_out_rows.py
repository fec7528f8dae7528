"""Judges autoencoders on held-out rows alone: by their reconstructions, without a language model to splice them into.

Axes: N rows of a batch, D activation width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from gsae.activations.superblocks import Superblocks
from gsae.errors import SettingError
from gsae.evaluation.evaluate import Evaluation
from gsae.evaluation.members import Member, check_names, check_width, placed_runs
from gsae.evaluation.metrics import Sums, mean_of, reconstruct
from gsae.evaluation.places import Places, default_mesh
from gsae.mesh import in_turn

ROWS_AT_ONCE = 8192  # in one program
# What `evaluate` measures with a language model, and nobody without one: gaps in the results.
NEEDS_A_LANGUAGE_MODEL = (
    "loss_recovered", "loss_recovered_se", "ce_clean", "ce_spliced", "ce_zero", "ce_difference", "ce_denominator", "kl",
    "targets", "documents",
)  # fmt: skip


def choose_rows(held_out: Superblocks, rows: int, skip_rows: int = 0) -> range:
    """The held-out rows to judge by, which are in random order: `rows` of them (0: all), `skip_rows` passed over.

    Raises:
        SettingError: when that leaves none.
    """
    if skip_rows >= held_out.rows:
        allowed = f"passes over all of the {held_out.rows} held-out rows"
        raise SettingError("config.evaluation.skip_tokens", skip_rows, allowed)
    return range(skip_rows, min(skip_rows + rows, held_out.rows) if rows else held_out.rows)


def evaluate_rows(
    held_out: Superblocks,
    members: Sequence[Member],
    *,
    rows: int,
    skip_rows: int = 0,
    mesh: Mesh | None = None,
    error_bound: bool = False,
    progress: bool = True,
    on_result: Callable[[Evaluation], None] | None = None,
) -> list[Evaluation]:
    """Evaluates members on the same held-out rows. With few rows it is the quick look while training.

    Metrics: those of `metrics.Sums.metrics`; nan for those that need a language model.

    Args:
        held_out: rows that no member was trained on, in random order.
        members: in any order; those of one site share its rows.
        rows: how many rows to use; 0, or more than there are, for all. Fewer rows are always a part of more.
        skip_rows: so many rows are passed over first: for choices that must not see what they lead to.
        mesh: with the axes of `gsae.mesh`, on whose devices this happens, in all their processes at once; None for one.
        error_bound: whether the metric of this name is measured, and norms are kept.
        progress: draws a progress bar.
        on_result: called with each evaluation when it is finished, at most `members.AT_ONCE` together.

    Returns:
        The evaluations in the order of the members.

    Raises:
        SettingError: when `skip_rows` leaves nothing.
        ValueError: for an unknown site, an autoencoder of another width, or members of the same name.
    """
    _check(held_out, members)
    chosen = choose_rows(held_out, rows, skip_rows)
    results: dict[str, Evaluation] = {}
    places = Places.of(mesh or default_mesh())
    quiet = not progress or jax.process_index() > 0
    total = len(chosen) * len(members)
    with tqdm(total=total, unit=" rows", unit_scale=True, desc="evaluate", disable=quiet) as bar:
        for site, run in placed_runs(members, places, held_out.width):
            for evaluation in _evaluated(held_out, site, run, chosen, places, error_bound, bar):
                results[evaluation.name] = evaluation
                if on_result is not None:
                    on_result(evaluation)
            del run  # its weights, before the next ones come
    return [results[member.name] for member in members]


def _evaluated(
    held_out: Superblocks,
    site: str,
    members: Sequence[tuple[str, Any]],
    chosen: range,
    places: Places,
    norms: bool,
    bar: tqdm,
) -> list[Evaluation]:
    shift_D, sums = None, []

    @in_turn
    def programs(rows_ND: np.ndarray, keep_N: np.ndarray) -> list[dict[str, jax.Array]]:
        nonlocal shift_D, sums
        x_N1D, keep_N1 = places.feed(rows_ND[:, None].astype(np.float32)), places.feed(keep_N[:, None])
        with jax.set_mesh(places.mesh):
            if shift_D is None:
                shift_D = mean_of(x_N1D, keep_N1)
                sums = [Sums(np.asarray(shift_D)) for _ in members]
            return [
                places.finished(reconstruct(autoencoder, x_N1D, keep_N1, shift_D, norms=norms))[1]
                for _, autoencoder in members
            ]

    for rows_ND, keep_N in _batches(held_out, site, chosen, places.parts):
        made = programs(rows_ND, keep_N)
        for total, some in zip(sums, made, strict=True):
            total.add(jax.device_get(some))
        bar.update(int(keep_N.sum()) * len(members))
    gaps = dict.fromkeys(NEEDS_A_LANGUAGE_MODEL, math.nan)
    return [
        Evaluation(name, site, total.metrics() | gaps, total.density_F, total.strength_F, total.norms_N2)
        for (name, _), total in zip(members, sums, strict=True)
    ]


def _batches(held_out: Superblocks, site: str, chosen: range, parts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chosen rows, [N, D], all batches of one shape, and [N] which of them are not there to fill up the last.

    N is a multiple of `parts`.
    """
    size = -(-min(ROWS_AT_ONCE, len(chosen)) // parts) * parts
    waiting = np.empty((0, held_out.width(site)))
    R = held_out.superblock_rows
    for k in range(chosen.start // R, -(-chosen.stop // R)):
        wanted = slice(max(chosen.start - k * R, 0), min(chosen.stop - k * R, R))
        rows_RD = held_out.read(site, k)[wanted]
        waiting = np.concatenate([waiting, rows_RD]) if len(waiting) else rows_RD
        while len(waiting) >= size:
            yield waiting[:size], np.ones(size, bool)
            waiting = waiting[size:]
    if len(waiting):
        missing = size - len(waiting)
        yield np.pad(waiting, ((0, missing), (0, 0))), np.arange(size) < len(waiting)


def _check(held_out: Superblocks, members: Sequence[Member]) -> None:
    check_names(members)
    for member in members:
        if member.site not in held_out.sites:
            raise ValueError(f"{member.name}: the rows have the sites {', '.join(held_out.sites)}, not {member.site}")
        check_width(member, member.autoencoder, held_out.width(member.site))
