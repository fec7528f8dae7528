"""Findings about features: codes by pursuit, and dead features."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from gsae.reports import section_figures as draw
from gsae.reports.curves import Curves
from gsae.reports.rows import Row, as_kinds, by_architecture, by_place, distinct, number
from gsae.reports.section import Section
from gsae.reports.tables import decimals, percent, significant


def pursuit(rows: Sequence[Row], pursued: Sequence[Row]) -> Section | None:
    """Codes by pursuit beside the encoder's: the gap at the encoder's own L0, and each target's best dictionary."""
    if not pursued:
        return None
    of_point: dict[Any, list[Row]] = {}
    for row in pursued:
        of_point.setdefault((row.get("point"), row.get("data_seed")), []).append(row)
    lines: list[list[str]] = []
    gaps: dict[str, list[float]] = {}
    for row in rows:
        line = sorted(of_point.get((row.get("point"), row.get("data_seed")), []), key=lambda r: number(r, "l0"))
        l0 = number(row, "l0")
        if len(line) > 1 and number(line[0], "l0") <= l0 <= number(line[-1], "l0"):
            x = np.log([number(r, "l0") for r in line])
            there = float(np.interp(math.log(l0), x, [number(r, "loss_recovered") for r in line]))
            gap = there - number(row, "loss_recovered")
            gaps.setdefault(str(row["architecture"]), []).append(gap)
            shown = [significant(l0), decimals(4)(number(row, "loss_recovered")), decimals(4)(there), decimals(4)(gap)]
            lines.append([str(row["architecture"]), significant(number(row, "sparsity_coefficient")), *shown])
    sentences = [
        f"At the encoder's own L0, pursuit on the same dictionary recovers {median(of):+.3f} of the loss more than the "
        f"encoder for {name} (median of {len(of)} dictionaries)."
        for name, of in gaps.items()
    ]
    sentences += _best_dictionaries(rows, pursued)
    headings = ("kind", "sparsity", "L0", "encoder recovers", "pursuit recovers", "gap")
    figure = draw.pursuit(rows, pursued)
    caption = "Thin lines: pursuit on one dictionary at several target L0. Markers: the dictionaries' own encoders."
    return Section("pursuit", "Inference-time optimisation", sentences, [("", headings, lines)], figure, caption)


def _best_dictionaries(rows: Sequence[Row], pursued: Sequence[Row]) -> Iterable[str]:
    own = {(row.get("point"), row.get("data_seed")): number(row, "l0") for row in rows}
    for name in distinct(pursued, "architecture"):
        found = []
        for target in sorted(set(distinct(pursued, "target_l0"))):
            at = [row for row in pursued if row["architecture"] == name and row["target_l0"] == target]
            best = max(at, key=lambda row: number(row, "loss_recovered"), default=None)
            l0 = own.get((best.get("point"), best.get("data_seed"))) if best else None
            if l0:
                found.append(f"{target:g}: {significant(l0)}")
        if found:
            yield f"Trained L0 of the {name} dictionary that pursuit does best with, by target L0: {'; '.join(found)}."


def dead_features(rows: Sequence[Row], curves: Curves) -> Section | None:
    """With and without resampling: the share alive in the end, and through training."""
    rows = [row for row in rows if not row.get("starts_from")]
    if {bool(value) for value in distinct(rows, "resamplings") if value is not None} != {True, False}:
        return None
    without = {place for place, here in by_place([r for r in rows if r.get("resamplings") == 0]).items() if here}
    lines, shown = [], []
    for place in without:
        here = [row for site, some in by_place(rows).items() if site == place for row in some]
        of_kinds = {str(row["architecture"]) for row in here if row.get("resamplings") == 0}
        shown += [row for row in here if str(row["architecture"]) in of_kinds and not row.get("starts_from")]
    for name, group in by_architecture(as_kinds(shown)).items():
        alive = [number(row, "alive") for row in group]
        lines.append([name, str(len(group)), percent(min(alive)), percent(median(alive))])
    sentence = "Share of the features that fire on the held-out tokens, with and without resampling of dead features."
    figure = draw.alive(as_kinds(shown), curves)
    headings = ("kind", "points", "least alive", "median alive")
    return Section("dead", "Dead features", [sentence], [("", headings, lines)], figure, draw.ALIVE_CAPTION)
