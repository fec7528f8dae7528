"""Findings about frontiers: sites and seeds, shrinkage, variants of an architecture, rescale & shift."""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from gsae.evaluation.frontier import compare, frontiers, kind
from gsae.evaluation.quality import LOSS_RECOVERED
from gsae.reports import section_figures as draw
from gsae.reports.plots import frontier_figure
from gsae.reports.rows import Row, as_kinds, by_architecture, by_place, denominator, distinct, has, number
from gsae.reports.section import Section, mean_and_range, range_of, seed_gains, seed_ratios
from gsae.reports.tables import decimals, percent, significant


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
            lines.append(
                [site, other, decimals(2)(pair.median_ratio), decimals(2)(math.exp(pair.area)), range_of(each)]
            )
            lines[-1] += [str(len(each)), mean_and_range(nats), significant(cost)]
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
                lines.append([site, other, mean_and_range(each, 2), str(len(each)), decimals(3)(median(gammas))])
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
