"""A finding about layers: how L0 goes with the inputs' norm from site to site, for points that share their settings."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gsae.evaluation.frontier import kind
from gsae.reports import style
from gsae.reports.rows import Row, by_place, has, number, place
from gsae.reports.section import Section
from gsae.reports.tables import decimals, short, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 3  # sites: a line goes through two points whatever they are
NEEDED = ("l0", "l1", "input_norm", "norm_ratio")


class Fit(NamedTuple):
    """L0 = intercept + slope * norm by least squares; r is Pearson's correlation, nan where one does not vary."""

    intercept: float
    slope: float
    r: float


class Line(NamedTuple):
    """Points of one kind with one set of settings, one at each site, in the order of the sites."""

    kind: str
    coefficient: float
    seed: object
    rows: Sequence[Row]


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The least-squares line through points, and how closely they follow it."""
    dx, dy = np.asarray(x, float) - np.mean(x), np.asarray(y, float) - np.mean(y)
    square, spread = float(dx @ dx), float(dy @ dy)
    slope = float(dx @ dy) / square if square > 0 else math.nan
    r = float(dx @ dy) / math.sqrt(square * spread) if square > 0 and spread > 0 else math.nan
    return Fit(float(np.mean(y)) - slope * float(np.mean(x)), slope, r)


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """The rows as lines over sites; those with fewer than `FEWEST` sites are left out."""
    found: dict[Any, dict[str, Row]] = {}
    settings = ("width", "sparsity_coefficient", "learning_rate", "seed", "data_seed")
    for row in rows:
        if has(row, *NEEDED):
            found.setdefault((kind(row), *(row.get(name) for name in settings)), {})[place(row)] = row
    order = list(by_place(rows))
    return [
        Line(key[0], key[2], key[4], [of_site[site] for site in order if site in of_site])
        for key, of_site in found.items()
        if len(of_site) >= FEWEST
    ]


def over_layers(rows: Sequence[Row]) -> Section | None:
    """L0 against the inputs' mean norm with its fits, L0 against L1, and three numbers by site; None for few sites."""
    lines = lines_of(rows)
    if not lines:
        return None
    table_lines, sentences = [], []
    for line in lines:
        norms, l0, l1 = ([number(row, name) for row in line.rows] for name in ("input_norm", "l0", "l1"))
        by_norm = fit(norms, l0)
        reach = f"{significant(min(l0))} to {significant(max(l0))}"
        table_lines.append([line.kind, short(line.coefficient), str(line.seed), str(len(l0)), reach])
        table_lines[-1].append(f"{max(l0) / min(l0):.2f}")
        table_lines[-1] += [significant(by_norm.intercept), significant(by_norm.slope), decimals(3)(by_norm.r)]
        table_lines[-1].append(significant(float(np.mean(l1)) / float(np.mean(l0))))
    for name in dict.fromkeys(line.kind for line in lines):
        here = [line for line in lines if line.kind == name]
        ratios = [max(number(r, "l0") for r in line.rows) / min(number(r, "l0") for r in line.rows) for line in here]
        every = [row for line in here for row in line.rows]
        r = fit([number(row, "l0") for row in every], [number(row, "l1") for row in every]).r
        norm_ratios = [number(row, "norm_ratio") for row in every]
        sentences.append(
            f"{name}: from site to site L0 varies by a factor of {min(ratios):.2f} to {max(ratios):.2f} at one "
            f"coefficient; L0 and L1 correlate at {r:.3f} over {len(every)} points; reconstructions have "
            f"{min(norm_ratios):.3f} to {max(norm_ratios):.3f} of the inputs' norm."
        )
    headings = ("kind", "coefficient", "seed", "sites", "L0", "max / min", "intercept", "slope", "r", "L1 / L0")
    table = ("Fits of L0 = intercept + slope × mean input norm, over sites", headings, table_lines)
    caption = (
        "A line for every kind and coefficient, a marker for every site. Dashed at the left: the fits of the table. "
        "Reconstruction score: loss recovered, (CE zero − CE spliced) / (CE zero − CE clean). Norm ratio: E‖x̂‖ / E‖x‖."
    )
    return Section("layers", "Over layers", sentences, [table], _figure(lines, list(by_place(rows))), caption)


@style.styled
def _figure(lines: Sequence[Line], sites: Sequence[str]) -> "Figure":
    figure, axes = style.panels(5, 4.6, 3.7, columns=2)
    names = list(dict.fromkeys(line.kind for line in lines))
    _against(axes[0], lines, names, "input_norm", "mean norm of the inputs, E‖x‖", "L0 against input norm")
    for line in lines:
        x, y = ([number(row, name) for row in line.rows] for name in ("input_norm", "l0"))
        fitted = fit(x, y)
        if math.isfinite(fitted.slope):
            values = np.linspace(min(x), max(x), 50)
            heights = fitted.intercept + fitted.slope * values
            above = heights > 0  # the axis is logarithmic
            colour = style.look(names.index(line.kind)).colour
            axes[0].plot(values[above], heights[above], color=colour, linestyle=(0, (4, 3)), linewidth=1.0)
    _against(axes[1], lines, names, "l1", "L1: mean of ‖f‖₁", "L0 against L1")
    style.logarithmic_x(axes[1])
    by_site = (("l0", "L0", "L0 by site"), ("loss_recovered", "reconstruction score", "Reconstruction score"))
    for ax, (column, label, title) in zip(
        axes[2:], (*by_site, ("norm_ratio", "E‖x̂‖ / E‖x‖", "Norm ratio")), strict=True
    ):
        for line in lines:
            shown = [row for row in line.rows if has(row, column)]
            x = [sites.index(place(row)) for row in shown]
            ax.plot(x, [number(row, column) for row in shown], linewidth=1.1, **_look(names, line.kind))
        ax.set_xticks(range(len(sites)), sites, rotation=20 if len(sites) > 4 else 0)
        ax.set_ylabel(label)
        ax.set_title(title)
        if column == "l0":
            style.logarithmic_y(ax)
        if column == "norm_ratio":
            ax.axhline(1.0, color=style.INK, linewidth=1.0)
    for name in names:
        axes[0].plot([], [], label=name, **_look(names, name))
    style.legend(axes[0], "best")
    return figure


def _against(
    ax: "Axes", lines: Sequence[Line], names: Sequence[str], column: str, label: str, title: str
) -> None:  # fmt: skip
    for line in lines:
        x, y = ([number(row, name) for row in line.rows] for name in (column, "l0"))
        ax.plot(x, y, **_look(names, line.kind) | {"linestyle": ""})
    style.logarithmic_y(ax)
    ax.set_xlabel(label)
    ax.set_ylabel("L0")
    ax.set_title(title)


def _look(names: Sequence[str], name: str) -> dict[str, Any]:
    look = style.look(names.index(name))
    return {"color": look.colour, "marker": look.marker, "linestyle": look.dashes, "markersize": 5}
