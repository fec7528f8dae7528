"""Judges autoencoders on held-out rows alone: by their reconstructions, without a language model to splice them into.

Axes: N rows of a batch, D activation width.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from gsae.activations.superblocks import Superblocks
from gsae.errors import SettingError
from gsae.evaluation.evaluate import MEMBERS_AT_ONCE, Evaluation, Member, one_device
from gsae.evaluation.metrics import Sums, mean_of, reconstruct

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
        progress: draws a progress bar.
        on_result: called with each evaluation when it is finished, at most MEMBERS_AT_ONCE together.

    Returns:
        The evaluations in the order of the members.

    Raises:
        SettingError: when `skip_rows` leaves nothing.
        ValueError: for an unknown site, an autoencoder of another width, or members of the same name.
    """
    _check(held_out, members)
    chosen = choose_rows(held_out, rows, skip_rows)
    results: dict[str, Evaluation] = {}
    bar = tqdm(total=len(chosen) * len(members), unit=" rows", unit_scale=True, desc="evaluate", disable=not progress)
    with bar, jax.set_mesh(one_device()):
        for site in dict.fromkeys(member.site for member in members):
            here = [member for member in members if member.site == site]
            for start in range(0, len(here), MEMBERS_AT_ONCE):
                for evaluation in _evaluated(held_out, site, here[start : start + MEMBERS_AT_ONCE], chosen, bar):
                    results[evaluation.name] = evaluation
                    if on_result is not None:
                        on_result(evaluation)
    return [results[member.name] for member in members]


def _evaluated(
    held_out: Superblocks, site: str, members: Sequence[Member], chosen: range, bar: tqdm
) -> list[Evaluation]:
    autoencoders = [jax.tree.map(jnp.asarray, jax.device_get(member.autoencoder)) for member in members]
    sums: list[Sums] = []
    for rows_ND, keep_N in _batches(held_out, site, chosen):
        x_1ND, keep_1N = jnp.asarray(rows_ND[None]).astype(jnp.float32), jnp.asarray(keep_N[None])
        if not sums:
            shift_D = mean_of(x_1ND, keep_1N)
            sums = [Sums(np.asarray(shift_D)) for _ in members]
        made = [reconstruct(autoencoder, x_1ND, keep_1N, shift_D)[1] for autoencoder in autoencoders]
        for total, some in zip(sums, made, strict=True):
            total.add(jax.device_get(some))
        bar.update(int(keep_N.sum()) * len(members))
    gaps = dict.fromkeys(NEEDS_A_LANGUAGE_MODEL, math.nan)
    return [
        Evaluation(member.name, site, total.metrics() | gaps, total.density_F)
        for member, total in zip(members, sums, strict=True)
    ]


def _batches(held_out: Superblocks, site: str, chosen: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chosen rows, [N, D], all batches of one shape, and [N] which of them are not there to fill up the last."""
    size = min(ROWS_AT_ONCE, len(chosen))
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
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise ValueError(f"members must have different names; got {sorted(names)}")
    for member in members:
        if member.site not in held_out.sites:
            raise ValueError(f"{member.name}: the rows have the sites {', '.join(held_out.sites)}, not {member.site}")
        width, own = held_out.width(member.site), member.autoencoder.W_dec.shape[-1]
        if width != own:
            raise ValueError(f"{member.name}: takes activations of width {own}; {member.site} has width {width}")
