"""The finding that has every kind of a sweep in one table: what a step of it costs, and what came of it."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from gsae.evaluation.frontier import Frontier, frontiers, levels_between
from gsae.evaluation.quality import Quality, quality_of
from gsae.reports import style
from gsae.reports.plots import each_frontier_figure
from gsae.reports.rows import Row, as_kinds, by_architecture, by_place, has, number
from gsae.reports.section import Section, Table, range_of
from gsae.reports.tables import GAP, decimals, significant

LEVELS = 4  # fixed values of the quality, as many as a page holds


def side_by_side(rows: Sequence[Row]) -> Section | None:
    """A line for each site, kind and width: FLOPs of a step, features alive, gamma, L0, quality, L0 at fixed values."""
    rows = as_kinds(row for row in rows if has(row, "flops_a_step"))
    if not rows:
        return None
    quality = quality_of(rows)
    tables: list[Table] = []
    for place, here in by_place(rows).items():
        kinds = [of_width for of_kind in by_architecture(here).values() for of_width in _by_width(of_kind)]
        seeds = [list(frontiers(kind, quality)[_name(kind)].values()) for kind in kinds]
        levels = _levels(seeds, quality)
        cells = [_cells(kind, quality) for kind in kinds]
        tables.append(
            (place, ("kind", "features", "GFLOP a step", "products", "alive", "gamma", "L0", quality.name), cells)
        )
        if levels:
            l0 = [
                [_name(kind), *(_l0_at(level, of_kind) for level in levels)]
                for kind, of_kind in zip(kinds, seeds, strict=True)
            ]
            tables.append((f"{place}: L0 at equal {quality.name}", ("kind", *(f"{level:.2f}" for level in levels)), l0))
    sentence = (
        "FLOPs of one update of one point, counted from the lowered program, and as products of batch × activation "
        "width × features multiply-adds; then from the least to the greatest of the kind's points. L0 at equal "
        f"{quality.name}: on each seed's frontier, the mean and the range over seeds; a dash where no frontier has it."
    )
    crowded = len(by_place(rows)) == 1 and len(tables[0][2]) > len(style.COLOURS)
    figure = each_frontier_figure(rows) if crowded else None
    caption = f"{quality.title} against L0, a kind a panel; grey: the other kinds."
    return Section("kinds", "Kinds side by side", [sentence], tables, figure, caption if figure else "")


def _name(rows: Sequence[Row]) -> str:
    return str(rows[0]["architecture"])


def _by_width(rows: Sequence[Row]) -> list[list[Row]]:
    widths = sorted({number(row, "width") for row in rows})
    return [[row for row in rows if number(row, "width") == width] for width in widths]


def _levels(seeds: Sequence[Sequence[Frontier]], quality: Quality) -> list[float]:
    """The fixed values that most kinds reach, the better of two that as many do; increasing."""
    reached = Counter(
        level
        for of_kind in seeds
        for level in {
            level for one in of_kind for level in levels_between(min(one.values), max(one.values), quality.step)
        }
    )
    order = sorted(reached, key=lambda level: (-reached[level], -quality.sign * level))
    return sorted(order[:LEVELS])


def _cells(rows: Sequence[Row], quality: Quality) -> list[str]:
    def column(name: str, show) -> str:
        values = [number(row, name) for row in rows if has(row, name)]
        return range_of(values, show) if len(values) > 1 else show(values[0]) if values else GAP

    return [
        _name(rows),
        f"{number(rows[0], 'width'):,.0f}",
        f"{number(rows[0], 'flops_a_step') / 1e9:.4g}",
        decimals(2)(number(rows[0], "products_a_step")),
        column("alive", _percent),
        column("gamma", decimals(2)),
        column("l0", significant),
        column(quality.column, decimals(3)),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _l0_at(level: float, seeds: Sequence[Frontier]) -> str:
    values = [l0 for l0 in (one.l0_at(level) for one in seeds) if math.isfinite(l0)]
    if not values:
        return GAP
    some = f"; {len(values)} of {len(seeds)} seeds" if len(values) < len(seeds) else ""
    spread = f"{range_of(values, significant)}{some}" if len(values) > 1 else some.removeprefix("; ")
    return significant(fmean(values)) + (f" ({spread})" if spread else "")
