"""A finding about dictionaries: lengths and cosines of their vectors; correction, pillar and direction vectors."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gsae.evaluation.frontier import kind
from gsae.reports import style
from gsae.reports.rows import Row, distinct, number, place
from gsae.reports.section import Section
from gsae.reports.tables import percent, short, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dictionaries = Mapping[str, Mapping[str, Any]]  # by point, what `evaluation.dictionary` found, by name

DEFINED = (
    "Of the features that fired on the held-out tokens. A feature adds its mean activation where it fires times the "
    "norm of its vector. Correction vectors add less than 5% of the inputs' mean norm; pillars are the tenth that adds "
    "most, at most 100; directions have another vector at a cosine above 0.9. These limits are gsae's: the study's are "
    "those of its language model. Were pillars as likely to be directions as other vectors, the two shares would be "
    "equal."
)
CAPTION = (
    "All points of a kind together, lengths over the mean norm of their site's inputs; dotted: below it correction "
    "vectors, above it directions. Faint among the cosines: those between pillars alone."
)


def vectors(rows: Sequence[Row], dictionaries: Dictionaries) -> Section | None:
    """The vectors of every point whose dictionary somebody has looked at; None where there is none."""
    shown = [row for row in rows if row.get("point") in dictionaries]
    if not shown:
        return None
    shown = [{**row, "architecture": kind(row)} for row in shown]
    lines, sentences = [], [DEFINED]
    for row in shown:
        found = dictionaries[row["point"]]
        lines.append([place(row), row["architecture"], short(number(row, "sparsity_coefficient"))])
        lines[-1] += [f"{len(found['norm_A']):,}", significant(_middle(found, "norm_A"))]
        lines[-1] += [percent(_number(found, "correction")), f"{int(found['pillars'])}"]
        lines[-1] += [percent(_number(found, name)) for name in ("direction", "pillar_direction", "always")]
    for name, group in _by_kind(shown).items():
        here = [dictionaries[row["point"]] for row in group]
        shares = {what: _median(here, what) for what in ("correction", "direction", "pillar_direction")}
        inner = _quantiles(sum(found["cosine_H"] for found in here))
        sentences.append(
            f"{name}, medians of {len(here)} points: {percent(shares['correction'])} of the vectors are corrections, "
            f"{percent(shares['direction'])} directions; of the pillars, {percent(shares['pillar_direction'])} are "
            f"directions. Nine tenths of all cosines lie between {inner[0]:+.2f} and {inner[1]:+.2f}."
        )
    headings = (
        "site", "kind", "coefficient", "fired", "median norm", "corrections", "pillars", "directions",
        "pillars that are directions", "always on",
    )  # fmt: skip
    table = ("Vectors of every point", headings, lines)
    return Section("vectors", "Vectors of the dictionaries", sentences, [table], _figure(shown, dictionaries), CAPTION)


def _by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {str(name): [r for r in rows if r["architecture"] == name] for name in distinct(rows, "architecture")}


def _number(found: Mapping[str, Any], name: str) -> float:
    return float(found[name])


def _middle(found: Mapping[str, Any], name: str) -> float:
    return float(np.median(found[name])) if len(found[name]) else float("nan")


def _median(found: Sequence[Mapping[str, Any]], name: str) -> float:
    finite = [value for one in found if np.isfinite(value := _number(one, name))]
    return median(finite) if finite else float("nan")


def _all(found: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = np.concatenate([one[name] for one in found])
    return values[np.isfinite(values)]


def _edges(histogram_H: np.ndarray) -> np.ndarray:
    return np.linspace(-1, 1, len(histogram_H) + 1)


def _quantiles(histogram_H: np.ndarray) -> tuple[float, float]:
    """Between which bounds the middle nine tenths of the cosines lie, to the width of a bin."""
    share_H = np.cumsum(histogram_H) / max(histogram_H.sum(), 1)
    low, high = (int(np.argmax(share_H >= share)) for share in (0.05, 0.95))
    edges = _edges(histogram_H)
    return float(edges[low]), float(edges[high + 1])


@style.styled
def _figure(rows: Sequence[Row], dictionaries: Dictionaries) -> "Figure":
    figure, axes = style.panels(4, 4.6, 3.4, columns=2)
    lengths, added, cosines, nearest = axes
    for i, (name, group) in enumerate(_by_kind(rows).items()):
        here = [dictionaries[row["point"]] for row in group]
        how = {"color": style.COLOURS[i % 6], "linestyle": style.DASHES[i % 6], "linewidth": 1.4}
        for ax, column in ((lengths, "norm_A"), (added, "added_A")):
            values = np.concatenate([found[column] / found["input_norm"] for found in here])
            _steps(ax, *np.histogram(np.log10(values[values > 0]), np.linspace(-4, 1, 61)), **how)
        _steps(
            nearest,
            *np.histogram(_all(here, "nearest_C"), np.linspace(-1, 1, 81)),
            **how,
        )
        every, pillars = (sum(found[key] for found in here) for key in ("cosine_H", "pillar_cosine_H"))
        _steps(cosines, pillars, _edges(pillars), **how | {"linewidth": 0.9, "alpha": 0.5})
        _steps(cosines, every, _edges(every), **how)
        lengths.plot([], [], label=name, **how)
    for ax, title, label in (
        (lengths, "Norms of decoder vectors", "log10 of norm / E‖x‖"),
        (added, "What features add where they fire", "log10 of mean length / E‖x‖"),
        (cosines, "Cosines of all pairs", "cosine"),
        (nearest, "Cosine with the nearest other", "cosine"),
    ):
        ax.set_title(title)
        ax.set_xlabel(label)
        ax.set_ylabel("share of pairs" if ax is cosines else "share of vectors")
    cosines.set_yscale("log")
    added.axvline(np.log10(0.05), color=style.INK, linewidth=1.0, linestyle=":")
    nearest.axvline(0.9, color=style.INK, linewidth=1.0, linestyle=":")
    lengths.legend(loc="best")
    return figure


def _steps(ax: "Axes", counts: np.ndarray, edges: np.ndarray, **how: Any) -> None:
    ax.stairs(counts / max(counts.sum(), 1), edges, **how)
