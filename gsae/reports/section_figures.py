"""Figures of the findings in `sections.py`. Each returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.evaluation.quality import LOSS_RECOVERED
from gsae.reports import style
from gsae.reports.curves import Curves
from gsae.reports.rows import Row, by_place, distinct, drawable, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIVE_CAPTION = (
    "Share alive in training (not silent for the window of `config.training.dead_window`), mean over the points of a "
    "kind; where no training curves are at hand, the share alive on held-out tokens against L0."
)


@style.styled
def ratios(found: Mapping[str, Sequence[float]], baseline: str) -> "Figure":
    """A line of dots for each place: one a pair of seeds, their geometric mean as a bar."""
    figure, axes = style.panels(1, 7.2, 1.2 + 0.42 * max(len(found), 1))
    ax = axes[0]
    for y, (_, values) in enumerate(found.items()):
        ax.plot(values, [y] * len(values), linestyle="", marker="o", color=style.COLOURS[0], alpha=0.6)
        if values:
            ax.plot([float(np.exp(np.mean(np.log(values))))], [y], marker="|", markersize=16, color=style.INK)
    ax.axvline(1.0, color=style.INK, linewidth=1.0)
    ax.set_yticks(range(len(found)), [name.replace("\n", ", ") for name in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel(f"{baseline} L0 / other L0 at equal loss recovered (right of 1: the other needs fewer)")
    ax.set_title("Active features saved")
    return figure


@style.styled
def before_after(began: Sequence[Row], rows: Sequence[Row], same: Sequence[str]) -> "Figure":
    """gamma and loss recovered against L0, an arrow from every start to what it became."""
    figure, axes = style.panels(2, 4.6, 3.8)
    for ax, column, label in zip(axes, ("gamma", "loss_recovered"), ("gamma", "loss recovered"), strict=True):
        shown = drawable(began, LOSS_RECOVERED, column)
        style.logarithmic_l0(ax, [number(row, "l0") for row in shown], "token")
        ax.set_ylabel(label)
        ax.set_title(f"{label}, before and after")
        for row in shown:
            starts = [r for r in rows if r["architecture"] == row["starts_from"]]
            for start in [r for r in starts if all(r.get(c) == row.get(c) for c in same)][:1]:
                x, y = ([number(r, c) for r in (start, row)] for c in ("l0", column))
                ax.plot(x[:1], y[:1], marker="o", color=style.COLOURS[1], markerfacecolor="#ffffff")
                arrow = {"arrowstyle": "->", "color": style.FAINT}
                ax.annotate("", (x[1], y[1]), (x[0], y[0]), arrowprops=arrow)
                ax.plot(x[1:], y[1:], marker="o", color=style.COLOURS[0])
        if column == "gamma":
            ax.axhline(1.0, color=style.INK, linewidth=1.0)
        else:
            for i, name in enumerate(
                name for name in distinct(rows, "architecture") if name != began[0]["architecture"]
            ):
                places = set(by_place(began))
                plain = [
                    r for r in drawable(rows, LOSS_RECOVERED) if r["architecture"] == name and not r.get("variant")
                ]
                here = [r for site, some in by_place(plain).items() if site in places for r in some]
                x, y = ([number(r, c) for r in here] for c in ("l0", "loss_recovered"))
                ax.plot(x, y, linestyle="", marker=style.look(i + 2).marker, color=style.FAINT, alpha=0.7, label=name)
            style.legend(ax, "lower right")
    return figure


@style.styled
def pursuit(rows: Sequence[Row], pursued: Sequence[Row]) -> "Figure":
    """A panel for each kind: pursuit's line of every dictionary, the encoders' points."""
    names = [str(name) for name in distinct(pursued, "architecture")]
    figure, axes = style.panels(len(names), 4.6, 4.0)
    for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
        lines: dict[object, list[Row]] = {}
        for row in drawable([r for r in pursued if r["architecture"] == name], LOSS_RECOVERED):
            lines.setdefault((row.get("point"), row.get("data_seed")), []).append(row)
        keys = set(lines)
        own = [r for r in rows if (r.get("point"), r.get("data_seed")) in keys]
        drawn = [row for line in lines.values() for row in line] + own
        style.logarithmic_l0(ax, [number(row, "l0") for row in drawn if number(row, "l0") > 0], "token")
        for line in lines.values():
            x, y = ([number(r, c) for r in line] for c in ("l0", "loss_recovered"))
            ax.plot(x, y, color=style.COLOURS[2], linewidth=1.0)
        x, y = ([number(r, c) for r in own] for c in ("l0", "loss_recovered"))
        look = style.look(i)
        ax.plot(x, y, linestyle="", marker=look.marker, color=look.colour, label="encoder")
        ax.plot([], [], color=style.COLOURS[2], label="pursuit")
        ax.set_ylabel("loss recovered")
        ax.set_title(name)
        ax.legend(loc="lower right")
    return figure


@style.styled
def alive(rows: Sequence[Row], curves: Curves) -> "Figure":
    """Share alive through training, a line a kind; against L0 where there are no curves."""
    figure, axes = style.panels(1, 7.2, 4.0)
    ax = axes[0]
    ax.set_ylabel("share alive")
    ax.set_title("Dead features")
    known = [row for row in rows if "dead_share" in curves.get(str(row.get("point")), {})]
    for i, name in enumerate(distinct(rows, "architecture")):
        group = [row for row in known if row["architecture"] == name]
        look = style.look(i)
        how: dict[str, Any] = {"color": look.colour, "label": str(name)}
        if known and group:
            lines = [curves[str(row["point"])]["dead_share"] for row in group]
            length = min(len(line[0]) for line in lines)
            share = 1 - np.mean([line[1][:length] for line in lines], axis=0)
            ax.plot(lines[0][0][:length], share, linestyle=look.dashes, **how)
        if not known:
            x, y = ([number(r, c) for r in rows if r["architecture"] == name] for c in ("l0", "alive"))
            ax.plot(x, y, linestyle="", marker=look.marker, **how)
    ax.set_xlabel("step" if known else "L0: active features per token")
    style.legend(ax, "lower left")
    return figure
