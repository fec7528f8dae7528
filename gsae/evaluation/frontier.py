"""Pareto frontiers of finished sweeps, and how two of them compare. Pure functions on rows; neither jax nor files.

A row is a mapping with at least `architecture`, `l0` and a quality (`loss_recovered`, or `fvu` where no language model
judged), and perhaps `seed`, `data_seed`, `status`, `layer` and `site` (the columns of results.csv). Rows whose status
is not "ok", and rows whose two numbers are missing, not finite or (L0) not positive, are left out of everything here.
Where no quality is given, it is `quality_of` the rows.

Fewer active features and a better quality (more loss recovered, less FVU) are better. A frontier is the set of points
that no other point beats, joined by straight lines in (quality, log L0). It says nothing outside its own range: nothing
is extrapolated.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsae.evaluation.quality import Quality, quality_of

Row = Mapping[str, Any]
Replicate = tuple[Any, Any]  # (seed, data_seed)


@dataclass(frozen=True)
class Frontier:
    """The Pareto set of one architecture by strictly increasing L0: `values[i]`, ever better, costs `l0[i]`."""

    values: tuple[float, ...]
    l0: tuple[float, ...]
    quality: Quality

    def l0_at(self, value: float) -> float:
        """L0 at a value of the quality, interpolated linearly in log L0; nan outside the frontier's range."""
        known, value = [self.quality.sign * known for known in self.values], self.quality.sign * value
        if not known or not known[0] <= value <= known[-1]:
            return math.nan
        right = bisect_left(known, value)
        if known[right] == value:
            return self.l0[right]
        # A weight between 0 and 1, not a slope: points may lie as close together as floating point allows.
        weight = (value - known[right - 1]) / (known[right] - known[right - 1])
        return math.exp((1 - weight) * math.log(self.l0[right - 1]) + weight * math.log(self.l0[right]))


@dataclass(frozen=True)
class LevelRatio:
    """The two frontiers at one value of the quality.

    `ratio` is baseline L0 / other L0. With several seeds the three values are geometric means over the pairs of
    frontiers that both reach this value (`pairs` counts them), and `low` to `high` is the range of the pairs' ratios.
    """

    value: float
    baseline_l0: float
    other_l0: float
    ratio: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Comparison:
    """How the frontier of `other` compares with that of `baseline`.

    Attributes:
        quality: what they are compared by.
        levels: one entry for each fixed value of the quality that both frontiers reach, increasing.
        median_ratio: median of the levels' ratios; nan without levels.
        area: the area between the frontiers, the integral of log(baseline L0 / other L0) over the qualities that
            both reach, divided by the length of that range: a mean of log ratios (natural logarithm, positive where
            `other` is sparser), so exp(area) is a geometric mean ratio. Mean over the pairs of seeds; nan without a
            common range.
        area_low: the least of the pairs' areas.
        area_high: the greatest of the pairs' areas.
    """

    baseline: str
    other: str
    quality: Quality
    levels: tuple[LevelRatio, ...]
    median_ratio: float
    area: float
    area_low: float
    area_high: float


def kind(row: Row) -> str:
    """What is compared: the row's architecture, and its variant if it is not the plain form."""
    variant = row.get("variant")
    return f"{row['architecture']}, {variant}" if variant else str(row["architecture"])


def usable(rows: Iterable[Row], quality: Quality | None = None) -> list[Row]:
    """The rows that frontiers are made of: status "ok" (or none given), finite numbers, L0 above zero."""
    rows = list(rows)
    quality = quality or quality_of(rows)
    return [row for row in rows if row.get("status", "ok") == "ok" and _has_coordinates(row, quality)]


def pareto_set(rows: Iterable[Row], quality: Quality | None = None) -> list[Row]:
    """The rows that no other row beats, whatever its architecture, by increasing L0; of equal rows the first."""
    rows = list(rows)
    quality = quality or quality_of(rows)

    def goodness(row: Row) -> float:
        return quality.sign * quality.of(row)

    kept: list[Row] = []
    for row in sorted(usable(rows, quality), key=lambda row: (_l0(row), -goodness(row))):
        if not kept or goodness(row) > goodness(kept[-1]):
            kept.append(row)
    return kept


def frontier(rows: Iterable[Row], quality: Quality | None = None) -> Frontier:
    """The frontier through the Pareto set of the rows; empty when none is usable."""
    rows = list(rows)
    quality = quality or quality_of(rows)
    kept = pareto_set(rows, quality)
    return Frontier(tuple(quality.of(row) for row in kept), tuple(_l0(row) for row in kept), quality)


def frontiers(rows: Iterable[Row], quality: Quality | None = None) -> dict[str, dict[Replicate, Frontier]]:
    """For each architecture, in order of appearance, the frontier of each (seed, data_seed)."""
    rows = list(rows)
    quality = quality or quality_of(rows)
    grouped: dict[str, dict[Replicate, list[Row]]] = {}
    for row in usable(rows, quality):
        replicate = (row.get("seed"), row.get("data_seed"))
        grouped.setdefault(kind(row), {}).setdefault(replicate, []).append(row)
    return {name: {key: frontier(some, quality) for key, some in groups.items()} for name, groups in grouped.items()}


def levels_between(low: float, high: float, step: float = 0.05) -> list[float]:
    """The multiples of `step` from `low` to `high`, both included.

    Raises:
        ValueError: when the step is not positive.
    """
    if not step > 0:
        raise ValueError(f"step = {step}: must be above zero")
    if not low <= high:
        return []
    multiples = range(math.floor(low / step), math.ceil(high / step) + 1)
    return [level for level in (round(k * step, 12) for k in multiples) if low <= level <= high]


def area_between(baseline: Frontier, other: Frontier) -> float:
    """Mean of log(baseline L0 / other L0) over the qualities that both frontiers reach; nan without such a range.

    Exact: both logarithms are piecewise linear, so the trapezoid rule on the corners of both has no error.
    """
    low, high = _common_range(baseline, other)
    if not low < high:
        return math.nan
    corners = sorted({low, high, *(v for f in (baseline, other) for v in f.values if low < v < high)})
    heights = [_log_ratio(baseline, other, corner) for corner in corners]
    return float(np.trapezoid(heights, corners) / (high - low))


def compare(
    rows: Iterable[Row], baseline: str, other: str, *, step: float | None = None, quality: Quality | None = None
) -> Comparison:
    """Baseline L0 / other L0 at the fixed values of the quality that both architectures' frontiers reach.

    Frontiers of the same (seed, data_seed) are paired; where no such pair exists, every frontier of the one is paired
    with every frontier of the other.

    Args:
        rows: finished points of one site.
        baseline: the architecture in the numerator.
        other: the architecture in the denominator.
        step: of which these values are the multiples (1 = all of the loss, or of the variance); None: `quality.step`.
        quality: what they are compared by.

    Raises:
        ValueError: when the rows are of more than one site: their frontiers must not be mixed.
    """
    rows = list(rows)
    quality = quality or quality_of(rows)
    rows = usable(rows, quality)
    sites = {(row.get("layer"), row.get("site")) for row in rows}
    if len(sites) > 1:
        raise ValueError(
            f"rows of {len(sites)} sites were given, {sorted(map(str, sites))}: compare one site at a time"
        )
    by_architecture = frontiers(rows, quality)
    pairs = _pairs(by_architecture.get(baseline, {}), by_architecture.get(other, {}))
    ranges = [_common_range(*pair) for pair in pairs]
    reached = sorted({level for low, high in ranges for level in levels_between(low, high, step or quality.step)})
    levels = tuple(_level_ratio(pairs, level) for level in reached)
    areas = [area for area in (area_between(*pair) for pair in pairs) if not math.isnan(area)] or [math.nan]
    return Comparison(
        baseline=baseline,
        other=other,
        quality=quality,
        levels=levels,
        median_ratio=float(np.median([level.ratio for level in levels])) if levels else math.nan,
        area=float(np.mean(areas)),
        area_low=min(areas),
        area_high=max(areas),
    )


def _level_ratio(pairs: Sequence[tuple[Frontier, Frontier]], level: float) -> LevelRatio:
    reaching = [pair for pair in pairs if _common_range(*pair)[0] <= level <= _common_range(*pair)[1]]
    ratios = [math.exp(_log_ratio(*pair, level)) for pair in reaching]
    return LevelRatio(
        value=level,
        baseline_l0=_geometric_mean([first.l0_at(level) for first, _ in reaching]),
        other_l0=_geometric_mean([second.l0_at(level) for _, second in reaching]),
        ratio=_geometric_mean(ratios),
        low=min(ratios),
        high=max(ratios),
        pairs=len(reaching),
    )


def _pairs(
    first: Mapping[Replicate, Frontier], second: Mapping[Replicate, Frontier]
) -> list[tuple[Frontier, Frontier]]:
    common = [key for key in first if key in second]
    if common:
        return [(first[key], second[key]) for key in common]
    return [(one, two) for one in first.values() for two in second.values()]


def _common_range(first: Frontier, second: Frontier) -> tuple[float, float]:
    """The least and greatest quality that both reach; an inverted range when there is none."""
    if not first.values or not second.values:
        return math.inf, -math.inf
    low = max(min(line.values[0], line.values[-1]) for line in (first, second))
    return low, min(max(line.values[0], line.values[-1]) for line in (first, second))


def _log_ratio(baseline: Frontier, other: Frontier, value: float) -> float:
    return math.log(baseline.l0_at(value)) - math.log(other.l0_at(value))


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def _l0(row: Row) -> float:
    return float(row["l0"])


def _has_coordinates(row: Row, quality: Quality) -> bool:
    """Whether a frontier can use the row (results.csv leaves the numbers of failed points empty)."""
    try:
        l0 = _l0(row)
    except (KeyError, TypeError, ValueError):
        return False
    return l0 > 0 and math.isfinite(l0) and math.isfinite(quality.of(row))
