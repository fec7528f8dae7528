"""The three figures of a sweep: the frontier, shrinkage, and firing densities. Each returns a matplotlib Figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.evaluation.frontier import frontiers, pareto_set
from gsae.evaluation.quality import Quality, quality_of
from gsae.reports import style
from gsae.reports.rows import Row, by_place, distinct, drawable, label, number, place
from gsae.reports.tables import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIDGES = 12  # histograms in one panel


def draw_frontier(path: Path, rows: Sequence[Row]) -> None:
    """Draws the rows evaluated so far to a PNG file; called while training."""
    style.save_png(frontier_figure(rows), path)


@style.styled
def frontier_figure(rows: Sequence[Row]) -> "Figure":
    """The quality against L0, a panel for each site: all points, the Pareto set as a line, seeds as a band."""
    quality = quality_of(rows)
    heading = f"{quality.title} against sparsity"
    names = [str(name) for name in distinct(rows, "architecture")]
    sites = by_place(rows) or {"": []}
    figure, axes = style.panels(len(sites), *(_alone(4.7, names) if len(sites) == 1 else (4.6, 4.0)))
    for ax, (site, here) in zip(axes, sites.items(), strict=True):
        ax.set_title(f"{heading}, {site}" if site else heading)
        shown = drawable(here, quality)
        if not shown:
            style.say_empty(ax, f"no finished point with a finite {quality.name} and L0 above 0")
            continue
        style.logarithmic_l0(ax, [number(row, "l0") for row in shown], quality.unit)
        ax.set_ylabel(quality.name)
        for i, name in enumerate(names):
            if group := [row for row in shown if row["architecture"] == name]:
                _draw_frontier(ax, i, label(name, group), group, quality)
        _limit(ax, shown, quality)
        style.legend(ax, "lower right" if quality.sign > 0 else "upper right")
    return figure


def _alone(height: float, names: Sequence[str]) -> tuple[float, float]:
    """Width and height of a panel that stands alone, wider and higher where its legend stands beside it."""
    return (7.2, height) if len(names) <= len(style.COLOURS) else (10.4, 1.2 * height)


@style.styled
def each_frontier_figure(rows: Sequence[Row]) -> "Figure":
    """A panel for each architecture of one site: its frontier as in `frontier_figure`, those of the others in grey."""
    quality = quality_of(rows)
    shown = drawable(rows, quality)
    names = [str(name) for name in distinct(rows, "architecture")]
    figure, axes = style.panels(len(names), 3.4, 2.9, columns=4)
    others = [line for of_seeds in frontiers(shown, quality).values() for line in of_seeds.values()]
    for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
        style.logarithmic_l0(ax, [number(row, "l0") for row in shown], quality.unit)
        ax.set_xlabel("")
        for line in others:
            ax.plot(line.l0, line.values, color=style.FAINT, alpha=0.35, linewidth=0.8, zorder=0)
        _draw_frontier(ax, i, name, [row for row in shown if row["architecture"] == name], quality)
        _limit(ax, shown, quality)
        ax.set_title(name)
    return figure


def _draw_frontier(ax: "Axes", index: int, text: str, group: Sequence[Row], quality: Quality) -> None:
    colour, marker, dashes = style.look(index)
    lines = [line for of_seeds in frontiers(group, quality).values() for line in of_seeds.values()]
    thickness = 1.7 if len(lines) == 1 else 1.0
    for line in lines:
        ax.plot(line.l0, line.values, color=colour, linestyle=dashes, linewidth=thickness, zorder=2)
    band = seed_band(group, quality)
    if band:
        ax.fill_between(*band, color=colour, alpha=0.16, linewidth=0, zorder=1)
    chosen = {id(row) for seed in _by_seed(group) for row in pareto_set(seed, quality)}
    errors = [number(row, f"{quality.column}_se") for row in group]
    x, y = _columns(group, "l0", quality.column)
    yerr = [0.0 if math.isnan(error) else error for error in errors]
    ax.errorbar(x, y, yerr, fmt="none", ecolor=colour, elinewidth=1.1, capsize=2.5, capthick=1.1, zorder=3)
    for filled in (True, False):
        some = [row for row in group if (id(row) in chosen) == filled]
        x, y = _columns(some, "l0", quality.column)
        face = colour if filled else "#ffffff"
        ax.plot(x, y, linestyle="", marker=marker, color=colour, markerfacecolor=face, markeredgewidth=1.3, zorder=4)
    ax.plot([], [], color=colour, linestyle=dashes, linewidth=1.7, marker=marker, label=text)


def _by_seed(group: Sequence[Row]) -> list[list[Row]]:
    replicates: dict[Any, list[Row]] = {}
    for row in group:
        replicates.setdefault((row.get("seed"), row.get("data_seed")), []).append(row)
    return list(replicates.values())


def seed_band(group: Sequence[Row], quality: Quality) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """L0, lowest and highest quality over the seeds' frontiers; None where fewer than two of them overlap.

    Each seed's frontier is interpolated linearly in log L0, over the L0 that all of them reach.
    """
    curves = [(np.log(f.l0), f.values) for lines in frontiers(group, quality).values() for f in lines.values()]
    if len(curves) < 2:
        return None
    low, high = max(log_l0[0] for log_l0, _ in curves), min(log_l0[-1] for log_l0, _ in curves)
    if low >= high:
        return None
    grid = np.linspace(low, high, 100)
    heights = np.stack([np.interp(grid, log_l0, values) for log_l0, values in curves])
    return np.exp(grid), heights.min(0), heights.max(0)


def _limit(ax: "Axes", rows: Sequence[Row], quality: Quality) -> None:
    values = np.array([quality.of(row) for row in rows])
    errors = np.nan_to_num([number(row, f"{quality.column}_se") for row in rows])
    low, high = min(values - errors), max(values + errors)
    beyond = int((quality.sign * (values - quality.worst) < 0).sum())
    if 0 < beyond < len(values):
        low, high = (quality.worst, high) if quality.sign > 0 else (low, quality.worst)
        height, side = (0.02, "below") if quality.sign > 0 else (0.95, "above")
        note = f"{beyond} more {side} {quality.worst:g}"
        ax.text(0.01, height, note, transform=ax.transAxes, color=style.FAINT, fontsize=8.5)
    margin = 0.06 * max(high - low, 0.02)
    ax.set_ylim(low - margin, high + margin)


@style.styled
def shrinkage_figure(rows: Sequence[Row]) -> "Figure":
    """Relative reconstruction bias gamma against L0, a panel for each site; below 1 reconstructions are too small."""
    names, quality = [str(name) for name in distinct(rows, "architecture")], quality_of(rows)
    sites = by_place(rows) or {"": []}
    figure, axes = style.panels(len(sites), *(_alone(4.0, names) if len(sites) == 1 else (4.6, 3.6)))
    for ax, (site, here) in zip(axes, sites.items(), strict=True):
        ax.set_title(f"Shrinkage, {site}" if site else "Shrinkage")
        shown = drawable(here, quality, "gamma")
        if not shown:
            style.say_empty(ax, "no finished point with a finite gamma and L0 above 0")
            continue
        style.logarithmic_l0(ax, [number(row, "l0") for row in shown], quality.unit)
        ax.set_ylabel("relative reconstruction bias gamma\n(1: lengths kept, below 1: shrunk)")
        ax.axhline(1.0, color=style.INK, linewidth=1.0, zorder=1)
        for i, name in enumerate(names):
            group = [row for row in shown if row["architecture"] == name]
            if not group:
                continue
            x, y = _columns(group, "l0", "gamma")
            look = style.look(i)
            line = ax.plot(x, y, color=look.colour, marker=look.marker, label=label(name, group))[0]
            line.set_linestyle(look.dashes if len(_by_seed(group)) == 1 else "")
        gammas = [number(row, "gamma") for row in shown] + [1.0]
        margin = 0.08 * max(max(gammas) - min(gammas), 0.02)
        ax.set_ylim(min(gammas) - margin, max(gammas) + 2 * margin)
        style.legend(ax, "lower right")
    return figure


@style.styled
def density_figure(rows: Sequence[Row], densities: Mapping[str, Any]) -> "Figure":
    """Histograms of log10 firing density, a ridge for each point, a panel for each site and architecture.

    Args:
        rows: the results; a point without densities, or that did not finish, is left out.
        densities: by point, the share of held-out tokens on which each feature fired, [F].
    """
    names = [str(name) for name in distinct(rows, "architecture")]
    shown = [row for row in drawable(rows, quality_of(rows)) if row.get("point") in densities]
    groups = [
        (site, name, group)
        for site in by_place(rows)
        for name in names
        if (group := [row for row in shown if place(row) == site and row["architecture"] == name])
    ]
    most = max((min(len(group), RIDGES) for _, _, group in groups), default=3)
    wide = 4.9 if len(groups) > 1 else 7.2
    figure, axes = style.panels(max(len(groups), 1), wide, 1.5 + 0.52 * most, columns=min(max(len(names), 1), 3))
    if not groups:
        style.say_empty(axes[0], "no firing densities")
    lowest = _lowest_decade([densities[row["point"]] for _, _, group in groups for row in group])
    for ax, (site, name, group) in zip(axes, groups, strict=False):
        chosen = _evenly(group, RIDGES)
        note = f" ({len(chosen)} of {len(group)} points)" if len(chosen) < len(group) else ""
        ax.set_title(f"{label(name, group)}{note}" + (f"\n{site}" if len(by_place(rows)) > 1 else ""))
        _draw_ridges(ax, style.look(names.index(name)).colour, chosen, densities, lowest)
    return figure


def _draw_ridges(
    ax: "Axes", colour: str, group: Sequence[Row], densities: Mapping[str, Any], lowest: int
) -> None:  # fmt: skip
    left = 1.32 * lowest  # room for the labels
    edges = np.linspace(lowest, 0, 6 * -lowest + 1)
    histograms = []
    for row in group:
        density = np.asarray(densities[row["point"]], np.float64)
        histograms.append(np.histogram(np.log10(density[density > 0]), edges)[0] / max(density.size, 1))
    tallest = max(histogram.max() for histogram in histograms) or 1.0
    for i, (row, histogram) in enumerate(zip(group, histograms, strict=True)):
        base = float(len(group) - 1 - i)  # sparsest on top
        never = float(np.mean(np.asarray(densities[row["point"]]) == 0))
        heights = base + 0.86 * histogram / tallest
        ax.stairs(heights, edges, baseline=base, fill=True, color=colour, alpha=0.3, zorder=2)
        ax.stairs(heights, edges, baseline=base, color=colour, linewidth=1.1, zorder=3)
        ax.text(left, base + 0.50, f"L0 {significant(number(row, 'l0'))}", fontsize=8.5, va="center")
        ax.text(
            left, base + 0.20, f"{100 * never:.1f}% never fired", fontsize=8, va="center", color=style.FAINT
        )  # fmt: skip
    ax.set_xlim(left, 0)
    ax.set_xticks(range(lowest, 1))
    ax.set_ylim(-0.05, len(group) + 0.05)
    ax.set_yticks(range(len(group)), [""] * len(group))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("log10 of the share of tokens on which a feature fires")


def _lowest_decade(densities: Sequence[Any]) -> int:
    """The power of ten at or below every positive density."""
    positive = [np.min(density[density > 0]) for density in map(np.asarray, densities) if np.any(density > 0)]
    return min(math.floor(math.log10(min(positive))), -1) if positive else -5


def _evenly(group: Sequence[Row], count: int) -> list[Row]:
    if len(group) <= count:
        return list(group)
    return [group[round(i * (len(group) - 1) / (count - 1))] for i in range(count)]


def _columns(rows: Sequence[Row], *columns: str) -> list[list[float]]:
    return [[number(row, column) for row in rows] for column in columns]
