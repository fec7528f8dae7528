"""The figure of the interpretability study: how the kinds were rated, and the paired differences with intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gsae.reports import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANSWERS = (("yes", 1.0), ("maybe", 0.55), ("no", 0.2))  # and how solid their bars are


@style.styled
def ratings_figure(means: Sequence[Mapping[str, Any]], differences: Sequence[Any]) -> "Figure":
    """Two panels: the shares of yes, maybe and no by site and kind; mean differences of pairs with their intervals.

    Args:
        means: `study.statistics.means`.
        differences: `study.statistics.differences`.
    """
    lines = max(len(means), len(differences), 3)
    figure, (left, right) = style.panels(2, 6.4, 1.4 + 0.42 * lines)
    _answers(left, means)
    _differences(right, differences)
    return figure


def _answers(ax: "Axes", means: Sequence[Mapping[str, Any]]) -> None:
    ax.set_title("Does one explanation fit?")
    kinds = list(dict.fromkeys(row["kind"] for row in means))
    for place, row in enumerate(means):
        start = 0.0
        for answer, solid in ANSWERS:
            share = row[answer] / row["rated"]
            colour = style.COLOURS[kinds.index(row["kind"]) % len(style.COLOURS)]
            ax.barh(place, share, left=start, color=colour, alpha=solid, height=0.7)
            if share > 0.08:
                ink = "white" if answer == "yes" else style.INK
                ax.text(start + share / 2, place, answer, ha="center", va="center", color=ink, fontsize=8)
            start += share
    labels = [f"{row['scope']}, {row['kind']} ({row['mean']:.2f})" for row in means]
    ax.set_yticks(range(len(means)), labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the features rated (mean points from 0 to 2 in brackets)")
    ax.grid(axis="y", visible=False)


def _differences(ax: "Axes", differences: Sequence[Any]) -> None:
    shown = [each for each in differences if each.pairs]
    ax.set_title("Paired differences")
    if not shown:
        style.say_empty(ax, "no pairs: no rater has rated both kinds at one site and layer")
        return
    for place, each in enumerate(shown):
        if each.interval:
            ax.plot(each.interval, [place, place], color=style.COLOURS[0], linewidth=2)
        ax.plot([each.mean], [place], marker="o", color=style.COLOURS[0], linestyle="none")
    ax.axvline(0, color=style.FAINT, linewidth=1)
    labels = [f"{each.scope}, {each.kind} − {each.baseline}\np = {each.p:.3f}, n = {each.pairs}" for each in shown]
    ax.set_yticks(range(len(shown)), labels)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel(f"points; {shown[0].level:.0%} BCa interval of the mean")
    ax.grid(axis="y", visible=False)
