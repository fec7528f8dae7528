"""What a finding is on the page, and how two sets of seeds are compared in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.evaluation.frontier import Frontier, area_between
from gsae.reports.tables import decimals, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # caption, headings, lines
Replicates = Mapping[Any, Frontier]


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


def range_of(values: Sequence[float], show: Callable[[float], str] | None = None) -> str:
    """The least and the greatest as text; a dash where there are fewer than two."""
    show = show or decimals(2)
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else "–"


def mean_and_range(values: Sequence[float], places: int = 0) -> str:
    """The mean and, of several, the range as text; with `places` decimals the geometric mean of ratios."""
    if not values:
        return "–"
    show = decimals(places) if places else significant
    mean = math.exp(float(np.mean(np.log(values)))) if places else float(np.mean(values))
    return show(mean) + (f" ({range_of(values, show)})" if len(values) > 1 else "")
