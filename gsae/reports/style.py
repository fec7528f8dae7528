"""How every figure looks: colours that colour-blind readers and grey printers tell apart, type, axes, and saving."""

import functools
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from gsae.artifacts import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")

INK, FAINT, GRID = "#1c2126", "#6b7278", "#dde1e5"
# Okabe and Ito 2008, darkest first; marker and dashes of the first six repeat what the colour says, for grey prints
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), "-.", (0, (8, 2, 2, 2, 2, 2)), ":")
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9.5,
    "axes.labelpad": 6,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": True,  # without an edge: it only keeps what is behind from running through the words
    "legend.facecolor": "#ffffff",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "legend.handlelength": 3.2,
    "svg.fonttype": "path",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


class Look(NamedTuple):
    """What a kind is drawn with."""

    colour: str
    marker: str
    dashes: Any


def look(index: int) -> Look:
    """That of the kind at an index: of 36, no two have the same colour and marker; six have nothing in common."""
    turned = index + index // len(COLOURS)
    return Look(COLOURS[index % len(COLOURS)], MARKERS[turned % len(MARKERS)], DASHES[turned % len(DASHES)])


def legend(axes: "Axes", loc: Any) -> None:
    """The legend at `loc`; beside the axes where it has more lines than colours, and would hide what is drawn."""
    if len(axes.get_legend_handles_labels()[1]) > len(COLOURS):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.legend(loc=loc)


def styled(draw: Callable[Arguments, "Figure"]) -> Callable[Arguments, "Figure"]:
    """Makes a function that returns a figure draw it with `SETTINGS`, whatever the user's own matplotlib settings."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return drawn


def panels(count: int, width: float, height: float, columns: int = 3) -> "tuple[Figure, list[Axes]]":
    """A figure without global state: `count` axes of `width` by `height` inches, in rows of at most `columns`."""
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False)
    kept = list(axes.flat)
    for spare in kept[count:]:
        figure.delaxes(spare)
    return figure, kept[:count]


def logarithmic_l0(axes: "Axes", l0: Sequence[float], unit: str) -> None:
    """A logarithmic axis of features per `unit` around the values; plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=30))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"L0: active features per {unit} (logarithmic)")
    if l0:
        axes.set_xlim(min(l0) / 1.25, max(l0) * 1.25)
    if l0 and max(l0) / min(l0) > 300:  # 2 and 5 would run into each other
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0,), numticks=30))


def logarithmic_y(axes: "Axes") -> None:
    """A logarithmic vertical axis with plain numbers."""
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis)


def logarithmic_x(axes: "Axes") -> None:
    """A logarithmic horizontal axis with plain numbers."""
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)


def _plain_numbers(axis: "Axis") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def say_empty(axes: "Axes", text: str) -> None:
    """Writes in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)
    axes.set_xticks([])
    axes.set_yticks([])


def save_png(figure: "Figure", path: Path) -> None:
    """Writes the figure, whole or not at all, at 200 dots per inch."""
    write_file(Path(path), _rendered(figure, "png"))


def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an SVG element for a page: its ids begin with `name`; colours are the page's, for light and dark.

    Ink becomes `currentColor`, grid and faint ink and the colours of the architectures CSS variables.
    """
    text = _rendered(figure, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    variables = {INK: "currentColor", FAINT: "var(--faint)", GRID: "var(--grid)", "#ffffff": "var(--page)"}
    variables |= {colour: f"var(--series-{i})" for i, colour in enumerate(COLOURS)}
    for colour, variable in variables.items():
        text = text.replace(colour, variable)
    return text


def _rendered(figure: "Figure", kind: str) -> bytes:
    import matplotlib

    data = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": "gsae"}):  # the same figure gives the same bytes
        figure.savefig(data, format=kind, dpi=200, metadata=metadata, transparent=kind == "svg")
    return data.getvalue()
