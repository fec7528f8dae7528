"""Findings beyond the frontier: each a title, sentences with its number, tables and a figure, where rows show it.

`sections` gives those that the rows have the points for; `html.py` sets them on the page.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.evaluation.frontier import Frontier, area_between, compare, frontiers, kind
from gsae.evaluation.quality import LOSS_RECOVERED
from gsae.reports import section_figures as draw
from gsae.reports.curves import Curves
from gsae.reports.plots import frontier_figure
from gsae.reports.rows import Row, as_kinds, by_architecture, by_place, denominator, distinct, has, number, plain_rows
from gsae.reports.tables import decimals, percent, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # caption, headings, lines


@dataclass(frozen=True)
class Section:
    """One finding.

    Attributes:
        name: of its figure's ids in the page.
        title: heading.
        sentences: what the numbers say.
        tables: caption, headings, lines.
        figure, caption: what is drawn, if anything.
    """

    name: str
    title: str
    sentences: Sequence[str]
    tables: Sequence[Table] = field(default_factory=tuple)
    figure: "Figure | None" = None
    caption: str = ""


def sections(
    rows: Sequence[Row], baseline: str, pursued: Sequence[Row] = (), curves: Curves | None = None
) -> list[Section]:
    """The findings that these rows show, in the order of the paper.

    Args:
        rows: all results of a sweep, or of several.
        baseline: the architecture that others are compared with.
        pursued: rows of the same columns with `target_l0`: codes found by pursuit instead of the encoder.
        curves: training curves by point (`curves.read_log`).
    """
    usable = [row for row in rows if str(row.get("status") or "ok") == "ok" and has(row, "l0", "loss_recovered")]
    found = [
        of_sites(plain_rows(usable), baseline),
        shrinkage(plain_rows(usable)),
        variants(usable),
        rescaled(usable, baseline),
        pursuit(plain_rows(usable), pursued),
        dead_features(usable, curves or {}),
        costs(usable),
    ]
    return [section for section in found if section]


def of_sites(rows: Sequence[Row], baseline: str) -> Section | None:
    """Every site and pair of kinds, over seeds; None for one site with one seed."""
    seeds = {(row.get("seed"), row.get("data_seed")) for row in rows}
    if len(by_place(rows)) < 2 and len(seeds) < 2:
        return None
    lines, ratios = [], {}
    for site, here in by_place(rows).items():
        of_kinds = frontiers(here, LOSS_RECOVERED)
        cost = median([denominator(row) for row in here])
        for other in [name for name in of_kinds if name != baseline and baseline in of_kinds]:
            pair = compare(here, baseline, other, quality=LOSS_RECOVERED)
            each = seed_ratios(of_kinds[baseline], of_kinds[other])
            nats = [value * cost for value in seed_gains(of_kinds[baseline], of_kinds[other])]
            ratios[f"{site}\n{other}"] = each
            lines.append([site, other, decimals(2)(pair.median_ratio), decimals(2)(math.exp(pair.area)), _range(each)])
            lines[-1] += [str(len(each)), _mean_and_range(nats), significant(cost)]
    if not lines:
        return None
    headings = (
        "site",
        "kind",
        "median ratio",
        "mean ratio",
        "over seeds",
        "seeds",
        "ΔCE saved, nats",
        "zero costs, nats",
    )
    above = sum(min(each, default=0) > 1 for each in ratios.values())
    best = [value for each in ratios.values() for value in each]
    text = (
        f"At {above} of {len(ratios)} places every seed's frontier needs fewer active features than {baseline}'s, at "
        f"equal loss recovered; ratios from {min(best, default=math.nan):.2f} to {max(best, default=math.nan):.2f}."
    )
    explained = (
        "Median ratio: of the fixed values of loss recovered. Mean ratio: over the whole range that both reach, its "
        "range over pairs of seeds (data order differs with the seed). ΔCE saved: at equal L0, in the middle of the "
        "range of L0 that both reach. Zero costs: CE(zero) − CE(clean), by which loss recovered divides."
    )
    table = (f"{baseline} L0 over the other's at equal loss recovered", headings, lines)
    figure = draw.ratios(ratios, baseline)
    return Section("sites", "Sites and seeds", [text, explained], [table], figure, "A dot for every pair of seeds.")


Replicates = Mapping[Any, Frontier]


def _pairs(first: Replicates, second: Replicates) -> list[tuple[Frontier, Frontier]]:
    return [(first[key], second[key]) for key in first if key in second]


def seed_ratios(baseline: Replicates, other: Replicates) -> list[float]:
    """For each seed that both have: the geometric mean of baseline L0 / other L0 over the qualities that both reach."""
    areas = (area_between(*pair) for pair in _pairs(baseline, other))
    return [math.exp(area) for area in areas if math.isfinite(area)]


def seed_gains(baseline: Replicates, other: Replicates) -> list[float]:
    """For each seed that both have: how much more loss the other recovers, in the middle of the L0 that both reach."""
    gains = []
    for first, second in _pairs(baseline, other):
        low, high = max(first.l0[0], second.l0[0]), min(first.l0[-1], second.l0[-1])
        if low <= high:
            at = (math.log(low) + math.log(high)) / 2
            value = [float(np.interp(at, np.log(line.l0), line.values)) for line in (first, second)]
            gains.append(value[1] - value[0])
    return gains


def shrinkage(rows: Sequence[Row]) -> Section | None:
    """gamma of every kind: its range, and how it goes with L0."""
    sentences = []
    for name, group in by_architecture([row for row in rows if has(row, "gamma")]).items():
        gammas = [number(row, "gamma") for row in group]
        if len(group) < 3:
            continue
        logs = np.log([number(row, "l0") for row in group])
        slope = float(np.polyfit(logs, gammas, 1)[0]) * math.log(2) if np.ptp(logs) > 0 else math.nan
        sentences.append(
            f"gamma of {name}: median {median(gammas):.3f}, from {min(gammas):.3f} to {max(gammas):.3f} over "
            f"{len(group)} points; {'+' if slope > 0 else '−'}{abs(slope):.3f} for every doubling of L0."
        )
    return Section("gamma", "Shrinkage in numbers", sentences) if sentences else None


def variants(rows: Sequence[Row]) -> Section | None:
    """Variants of an architecture against its plain form: ablations, other penalties, other training."""
    lines, drawn = [], []
    for site, here in by_place(rows).items():
        for name in distinct(here, "architecture"):
            group = [row for row in here if row["architecture"] == name and not row.get("starts_from")]
            kinds = [k for k in dict.fromkeys(kind(row) for row in group) if k != name]
            if not kinds or not any(not row.get("variant") for row in group):
                continue
            drawn += as_kinds(group)
            of_kinds = frontiers(group, LOSS_RECOVERED)
            for other in kinds:
                each = seed_ratios(of_kinds.get(other, {}), of_kinds.get(name, {}))
                gammas = [number(row, "gamma") for row in group if kind(row) == other]
                lines.append([site, other, _mean_and_range(each, 2), str(len(each)), decimals(3)(median(gammas))])
    if not lines:
        return None
    headings = ("site", "kind", "L0 over the plain form's", "seeds", "median gamma")
    sentence = (
        "L0 of each variant over that of its plain form, at equal loss recovered: above 1 is worse. Geometric mean "
        "over the range that both reach; in brackets its range over pairs of seeds."
    )
    table = ("Variants", headings, lines)
    caption = "Shaded: the range over seeds, where there are several."
    return Section("variants", "Variants", [sentence], [table], frontier_figure(drawn), caption)


def rescaled(rows: Sequence[Row], baseline: str) -> Section | None:
    """Points that began with another's weights: what became of gamma, and how much of the gap to the rest is closed."""
    began = [row for row in rows if row.get("starts_from")]
    if not began:
        return None
    same = ("width", "sparsity_coefficient", "seed", "data_seed", "site", "layer")
    lines, before, after, nats = [], [], [], []
    for row in began:
        starts = [
            r for r in rows if r["architecture"] == row["starts_from"] and all(r.get(c) == row.get(c) for c in same)
        ]
        if not starts:
            continue
        start = starts[0]
        before.append(number(start, "gamma"))
        after.append(number(row, "gamma"))
        nats.append(number(start, "ce_spliced") - number(row, "ce_spliced"))
        lines.append([significant(number(row, "l0")), *(decimals(3)(value) for value in (before[-1], after[-1]))])
        lines[-1] += [decimals(4)(number(r, "loss_recovered")) for r in (start, row)]
    if not lines:
        return None
    closed = _closed(rows, began, baseline)
    sentences = [
        f"Its magnitudes learnt anew, gamma of frozen {began[0]['starts_from']} autoencoders goes from a median of "
        f"{median(before):.3f} to {median(after):.3f}; that saves {significant(median(nats))} nats (median)."
    ]
    sentences += [
        f"Of the gap between the frontiers of {baseline}, equal width, and {name} it closes {percent(share)}."
        for name, share in closed.items()
    ]
    table = ("Before and after", ("L0", "gamma before", "after", "recovered before", "after"), lines)
    figure = draw.before_after(began, rows, same)
    return Section(
        "rescaled", "Rescale & shift", sentences, [table], figure, "An arrow from every point to what it became."
    )


def _closed(rows: Sequence[Row], began: Sequence[Row], baseline: str) -> dict[str, float]:
    """Share of the log-L0 gap, start to each other plain architecture at the same site, that is closed."""
    name, places = str(began[0]["architecture"]), set(by_place(began))
    here = [row for site, some in by_place(rows).items() if site in places for row in some]
    widths = {row.get("width") for row in began}
    kinds = [row for row in here if row["architecture"] == began[0]["starts_from"] and row.get("width") in widths]
    start = frontiers([{**row, "architecture": "start", "variant": ""} for row in kinds], LOSS_RECOVERED).get(
        "start", {}
    )
    others = frontiers([row for row in here if not row.get("variant")], LOSS_RECOVERED)
    shares = {}
    for other, lines in others.items():
        if other in (name, baseline, began[0]["starts_from"]):
            continue
        whole, part = seed_ratios(start, lines), seed_ratios(start, others.get(name, {}))
        if whole and part and abs(np.mean(np.log(whole))) > 1e-9:
            shares[other] = float(np.mean(np.log(part)) / np.mean(np.log(whole)))
    return shares


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


def costs(rows: Sequence[Row]) -> Section | None:
    """What a step of each kind costs, counted from its program."""
    lines = []
    for place, here in by_place([row for row in rows if has(row, "flops_a_step")]).items():
        for name, group in by_architecture(as_kinds(here)).items():
            for width in sorted({number(row, "width") for row in group}):
                row = next(row for row in group if number(row, "width") == width)
                products = decimals(2)(number(row, "products_a_step"))
                lines.append([place, name, f"{width:,.0f}", f"{number(row, 'flops_a_step') / 1e9:.4g}", products])
    if not lines:
        return None
    sentence = (
        "FLOPs of one update of one point, counted from the lowered program, and as products of batch × activation "
        "width × features multiply-adds: what is compared above is compared at these costs."
    )
    headings = ("site", "kind", "features", "GFLOP a step", "products")
    return Section("costs", "Compute", [sentence], [("", headings, lines)])


def _range(values: Sequence[float], show: Callable[[float], str] | None = None) -> str:
    show = show or decimals(2)
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else "–"


def _mean_and_range(values: Sequence[float], places: int = 0) -> str:
    if not values:
        return "–"
    show = decimals(places) if places else significant
    mean = math.exp(float(np.mean(np.log(values)))) if places else float(np.mean(values))
    return show(mean) + (f" ({_range(values, show)})" if len(values) > 1 else "")
