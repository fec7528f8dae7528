"""Autoencoders as JumpReLU ones, in the report: a sentence and a figure from what was measured on activations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gsae.reports import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Activations of features in the autoencoders as they were trained (across) and as JumpReLU ones (up), whose "
    "thresholds and weights are computed from theirs. On the line they are equal."
)


def sentence(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the agreement of all points comes to; "" where none was measured.

    Args:
        found: by point, what `interop.equivalence.Agreement.plain` gives.
    """
    if not found:
        return ""
    latents, differ = (sum(point[name] for point in found.values()) for name in ("latents", "differ"))
    largest, reconstruction = (max(point[name] for point in found.values()) for name in ("largest", "reconstruction"))
    above = [point["above_zero"] for point in found.values()]
    said = (
        f"of {latents:,} activations, {differ:,} are zero in one and not in the other"
        if differ
        else (f"of {latents:,} activations, none is zero in one and not in the other")
    )
    return (
        f"Written as JumpReLU autoencoders, {len(found)} of these: {said}; where both fire, they differ by at most "
        f"{largest:.1e} of the largest activation, reconstructions by {reconstruction:.1e}. From {min(above):.0%} to "
        f"{max(above):.0%} of the features have a threshold above zero."
    )


@style.styled
def equivalence_figure(found: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Converted activations against the originals, both logarithmic."""
    figure, (ax,) = style.panels(1, 5.2, 4.2)
    ax.set_title("As trained, and as JumpReLU")
    originals = [value for point in found.values() for value in point["pairs"][0]]
    converted = [value for point in found.values() for value in point["pairs"][1]]
    if not originals:
        style.say_empty(ax, "no feature fired")
        return figure
    low, high = min(originals), max(originals)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.plot([low, high], [low, high], color=style.FAINT, linewidth=1.0, zorder=1)
    ax.plot(originals, converted, linestyle="", marker="o", markersize=2.5, alpha=0.5, color=style.COLOURS[0])
    ax.set_xlabel("activation as trained")
    ax.set_ylabel("activation as JumpReLU")
    return figure
