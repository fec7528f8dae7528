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
    "norm of its vector. Correction vectors add less than {correction} of the inputs' mean norm; pillars are the tenth "
    "that adds most, at most {pillars}; directions have another vector at a cosine above {direction}. These limits are "
    "gsae's: the study's are those of its language model. Were pillars as likely to be directions as other vectors, "
    "the two shares would be equal."
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
    limits = dictionaries[shown[0]["point"]]
    defined = DEFINED.format(
        correction=percent(_number(limits, "correction_below")),
        pillars=int(limits["most_pillars"]),
        direction=short(_number(limits, "direction_above")),
    )
    lines, sentences = [], [defined]
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
        "… of pillars", "always on",
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
    edges = _decades([dictionaries[row["point"]] for row in rows])
    for i, (name, group) in enumerate(_by_kind(rows).items()):
        here = [dictionaries[row["point"]] for row in group]
        look = style.look(i)
        how = {"color": look.colour, "linestyle": look.dashes, "linewidth": 1.4}
        for ax, column in ((lengths, "norm_A"), (added, "added_A")):
            values = np.concatenate([_relative(found, column) for found in here])
            _steps(ax, *np.histogram(values, edges), **how)
        _steps(nearest, *np.histogram(_all(here, "nearest_C"), np.linspace(-0.2, 1, 61)), **how)
        every, pillars = (sum(found[key] for found in here) for key in ("cosine_H", "pillar_cosine_H"))
        for counts, more in ((pillars.reshape(-1, 5).sum(1), {"linewidth": 1.0, "alpha": 0.5}), (every, {})):
            _steps(cosines, counts * (len(counts) / 2), _edges(counts), total=counts.sum(), **how | more)
        lengths.plot([], [], label=name, **how)
    for ax, title, label, share in (
        (lengths, "Norms of decoder vectors", "log10 of norm / E‖x‖", "share of vectors"),
        (added, "What features add where they fire", "log10 of mean length / E‖x‖", "share of vectors"),
        (cosines, "Cosines of all pairs", "cosine", "density of pairs"),
        (nearest, "Cosine with the nearest other", "cosine", "share of vectors"),
    ):
        ax.set_title(title)
        ax.set_xlabel(label)
        ax.set_ylabel(share)
    cosines.set_yscale("log")
    limits = dictionaries[rows[0]["point"]]
    added.axvline(np.log10(limits["correction_below"]), color=style.INK, linewidth=1.0, linestyle=":")
    nearest.axvline(limits["direction_above"], color=style.INK, linewidth=1.0, linestyle=":")
    style.legend(lengths, "best")
    return figure


def _relative(found: Mapping[str, Any], name: str) -> np.ndarray:
    """Logarithms of lengths over the inputs' mean norm."""
    values = found[name] / found["input_norm"]
    return np.log10(values[values > 0])


def _decades(found: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Bins of a twentieth of a power of ten, around all lengths."""
    values = np.concatenate([_relative(one, name) for one in found for name in ("norm_A", "added_A")])
    low, high = (np.floor(values.min() * 2), np.ceil(values.max() * 2)) if len(values) else (-2, 0)
    return np.arange(10 * low - 1, 10 * high + 2) / 20


def _steps(ax: "Axes", counts: np.ndarray, edges: np.ndarray, total: float | None = None, **how: Any) -> None:
    ax.stairs(counts / max(counts.sum() if total is None else total, 1), edges, **how)
