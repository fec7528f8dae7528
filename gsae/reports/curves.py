"""Training curves out of the JSON lines that training logs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsae.reports import style
from gsae.reports.rows import Row, distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = Mapping[str, Mapping[str, tuple[list[float], list[float]]]]  # point -> metric -> steps, values

# metric, heading, logarithmic: the panels, as far as the log has them
PANELS = (
    ("l0", "L0 on training batches", True),
    ("fvu", "fraction of variance unexplained", True),
    ("gamma", "relative reconstruction bias gamma", False),
    ("norm_ratio", "norm ratio: √(E‖x̂‖² / E‖x‖²)", False),
    ("dead_share", "share of dead features", False),
)


def read_log(path: Path) -> Curves:
    """The finite numbers of every point by step, from one JSON object a line: `step`, and `points` by name.

    A last line that a killed run left unfinished is passed over, and so is a missing file.
    """
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    if not Path(path).is_file():
        return curves
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        for point, metrics in record["points"].items():
            _add(curves.setdefault(point, {}), record["step"], metrics)
    return curves


def read_logs(paths: Sequence[Path]) -> Curves:
    """The same of several logs; those of a point that was trained more than once follow each other."""
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for path in paths:
        for point, metrics in read_log(path).items():
            for name, (steps, values) in metrics.items():
                known = curves.setdefault(point, {}).setdefault(name, ([], []))
                known[0].extend(steps)
                known[1].extend(values)
    return curves


def _add(of_point: dict[str, tuple[list[float], list[float]]], step: float, metrics: Mapping[str, Any]) -> None:
    for name, _, _ in PANELS:
        value = metrics.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            steps, values = of_point.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)


@style.styled
def _figure(curves: Curves, rows: Sequence[Row], shown: Sequence[tuple[str, str, bool]]) -> "Figure":
    names = [str(name) for name in distinct(rows, "architecture")]
    of_point = {str(row.get("point")): names.index(str(row["architecture"])) for row in rows}
    figure, axes = style.panels(len(shown), 4.6, 3.2, columns=2)
    for ax, (metric, heading, logarithmic) in zip(axes, shown, strict=True):
        for point, metrics in curves.items():
            if point in of_point and metric in metrics:
                look = style.look(of_point[point])
                ax.plot(*metrics[metric], color=look.colour, linestyle=look.dashes, linewidth=1.0)
        ax.set_title(heading)
        ax.set_xlabel("step")
        if logarithmic and all(value > 0 for of in curves.values() for value in of.get(metric, ([], []))[1]):
            style.logarithmic_y(ax)
    for i, name in enumerate(names):
        axes[0].plot([], [], color=style.look(i).colour, linestyle=style.look(i).dashes, label=name)
    style.legend(axes[0], "upper right")
    return figure


def training_figure(curves: Curves, rows: Sequence[Row]) -> "Figure | None":
    """A panel for each of `PANELS` that the log has, a line for each point; None where there is nothing to draw."""
    points = {str(row.get("point")) for row in rows}
    shown = [panel for panel in PANELS if any(panel[0] in curves[point] for point in points & set(curves))]
    return _figure(curves, rows, shown) if shown else None
