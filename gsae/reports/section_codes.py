"""A finding about codes: how near their norms are to the inputs' (the ZF plot of Lee et al., arXiv 2503.24277)."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.reports import style
from gsae.reports.rows import Row, as_kinds, by_architecture, has, number
from gsae.reports.section import Section
from gsae.reports.tables import significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUNDS = (0.25, 0.5, 1.0)  # epsilon (h - 1)
DRAWN = 500  # tokens in a panel
CAPTION = (
    "Tokens by the norm of the activation x and of its code f (activations times the norms of their vectors, b_dec as "
    "one more), of all points of a kind. On the line they are equal; grey lines: ||f||^2 = ||x||^2 / (1 ± e), the "
    "bounds for atoms that are orthogonal to within epsilon = e / (h - 1), e = 0.25, 0.5 and, below, 1."
)


def codes(rows: Sequence[Row], norms: Mapping[str, Any]) -> Section | None:
    """The error bound of every kind, and its points' codes against the inputs."""
    groups = {
        name: kept
        for name, group in by_architecture(as_kinds(rows)).items()
        if (kept := [row for row in group if row.get("point") in norms and has(row, "error_bound")])
    }
    if not groups:
        return None
    lines = []
    for name, group in groups.items():
        bounds = [number(row, "error_bound") for row in group]
        shares = [_share(norms[str(row["point"])]) for row in group]
        lines.append([name, str(len(group)), *map(significant, (min(bounds), median(bounds), median(shares)))])
    sentence = (
        "epsilon_LBO is how far from orthogonal the atoms of a dictionary must be for codes to have norms other than "
        "the inputs': | ||x||^2 - ||f||^2 | / ((h - 1) ||f||^2), the median over tokens; h counts the atoms."
    )
    headings = ("kind", "points", "least epsilon_LBO", "median epsilon_LBO", "median ||f|| / ||x||")
    return Section("codes", "Norms of codes", [sentence], [("", headings, lines)], _figure(groups, norms), CAPTION)


def _share(norms_N2: Any) -> float:
    """The median of ||f|| / ||x||."""
    x_N, f_N = np.asarray(norms_N2, np.float64).T
    return float(np.median(f_N / np.maximum(x_N, 1e-30)))


@style.styled
def _figure(groups: Mapping[str, Sequence[Row]], norms: Mapping[str, Any]) -> "Figure":
    """A panel for each kind: tokens of its points by the norms of x and f."""
    figure, axes = style.panels(len(groups), 4.6, 4.0)
    for i, (ax, (name, group)) in enumerate(zip(axes, groups.items(), strict=True)):
        pairs_N2 = np.concatenate([np.asarray(norms[str(row["point"])], np.float64) for row in group])
        pairs_N2 = pairs_N2[np.linspace(0, len(pairs_N2) - 1, min(len(pairs_N2), DRAWN)).astype(int)]
        ax.plot(*pairs_N2.T, linestyle="", marker=".", markersize=2.5, alpha=0.4, color=style.look(i).colour)
        ends = np.array([pairs_N2[:, 0].min(), pairs_N2[:, 0].max()])
        ax.plot(ends, ends, color=style.INK, linewidth=1.0)
        for e in BOUNDS:
            for sign in (1, -1):
                if e * sign > -1:
                    ax.plot(ends, ends / math.sqrt(1 + sign * e), color=style.FAINT, linewidth=0.8, linestyle=":")
        ax.set_xlabel("norm of x")
        ax.set_ylabel("norm of its code f")
        ax.set_title(name)
    return figure
