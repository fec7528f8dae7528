"""Our rows beside those of the Gated SAE paper: same model, site, layer and kind; frontiers, gamma, share alive.

    python -m gsae.reports.compare --ours=runs/x/results.csv --paper [--model=google/gemma-7b] [--baseline=NAME]
        [--out=DIRECTORY]

The language model, and which architecture is the baseline, are those of the run in whose directory the table lies
(`config.json`), unless `--model` and `--baseline` name them.
Prints the tables, and writes `paper.png` and `paper.html`, one self-contained page, beside ours or into DIRECTORY.
Exit codes: 0, 1 (nothing of the paper can be laid beside these rows, or a file is not readable), 2.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gsae.artifacts import write_file
from gsae.errors import RunError
from gsae.evaluation.frontier import Comparison, compare, kind, usable
from gsae.evaluation.quality import LOSS_RECOVERED
from gsae.reports import style
from gsae.reports.html import HERE
from gsae.reports.paper import paper_rows
from gsae.reports.rows import Row, by_architecture, by_place, drawable, number
from gsae.reports.tables import aligned, comparison_table, decimals, percent, read_results_csv, short, significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "paper"
HEADINGS = ("who", "kind", "width", "lambda", "LR", "L0", "recovered", "ΔCE", "gamma", "alive")


def side_by_side(ours: Sequence[Row], theirs: Sequence[Row], model: str, baseline: str) -> dict[str, list[Row]]:
    """By site, our rows and the paper's of the same language model, each named by who made it and its kind.

    Args:
        ours: rows of results.csv.
        theirs: `paper_rows()`.
        model: hub id of the language model.
        baseline: our architecture that is the paper's baseline; all others are called by their own names.

    Raises:
        RunError: when no site has rows of both.
    """
    named_ours = [_named(row, "ours", "baseline" if kind(row) == baseline else kind(row)) for row in ours]
    named_theirs = [_named(row, PAPER, row["kind"]) for row in theirs if row["model"] == model]
    places, known = by_place(named_ours), by_place(named_theirs)
    both = {place: [*known[place], *rows] for place, rows in places.items() if place in known}
    if not both:
        has = ", ".join(known) or "nothing: its models are " + ", ".join(sorted({row["model"] for row in theirs}))
        raise RunError(f"{model}: the rows have {', '.join(places) or 'no site'}; the paper's tables have {has}")
    return both


def _named(row: Row, who: str, name: str) -> dict[str, Any]:
    return {**row, "architecture": f"{who}: {name}", "variant": ""}


def pairs(rows: Sequence[Row]) -> list[Comparison]:
    """Frontier against frontier: the paper's of each kind against ours, and gated against baseline on either side."""
    names = list(dict.fromkeys(row["architecture"] for row in usable(rows, LOSS_RECOVERED)))
    kinds = [name.removeprefix(f"{PAPER}: ") for name in names if name.startswith(PAPER)]
    wanted = [(f"{PAPER}: {name}", f"ours: {name}") for name in kinds]
    wanted += [(f"{who}: baseline", name) for who in (PAPER, "ours") for name in names if name.startswith(f"{who}: ")]
    found = [pair for pair in wanted if pair[0] in names and pair[1] in names and pair[0] != pair[1]]
    return [compare(rows, *pair, quality=LOSS_RECOVERED) for pair in found]


def point_lines(rows: Sequence[Row]) -> list[list[str]]:
    """Every point as texts, the kinds of both sides one after the other, by L0."""
    lines = []
    for name, group in by_architecture(rows).items():
        who, _, what = name.partition(": ")
        for row in group:
            columns = ("width", "sparsity_coefficient", "learning_rate", "l0", "loss_recovered", "gamma", "alive")
            width, coefficient, rate, l0, recovered, gamma, alive = (number(row, column) for column in columns)
            difference = number(row, "ce_spliced") - number(row, "ce_clean")
            features = f"{width:,.0f}" if math.isfinite(width) else "–"
            lines.append([who, what, features, short(coefficient), short(rate), significant(l0)])
            lines[-1] += [decimals(4)(recovered), decimals(4)(difference), decimals(3)(gamma), percent(alive)]
    return lines


def summary_lines(rows: Sequence[Row]) -> list[list[str]]:
    """For each side and kind: how many points, the range of L0, median gamma, median share alive."""
    lines = []
    for name, group in by_architecture(usable(rows, LOSS_RECOVERED)).items():
        l0, gammas, alive = ([number(row, column) for row in group] for column in ("l0", "gamma", "alive"))
        reach = f"{significant(min(l0))} to {significant(max(l0))}"
        lines.append([name, str(len(group)), reach, decimals(3)(_median(gammas)), percent(_median(alive))])
    return lines


SUMMARY = ("kind", "points", "L0", "median gamma", "median alive")


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


@style.styled
def paper_figure(places: dict[str, list[Row]]) -> "Figure":
    """For each site: loss recovered, gamma and share alive against L0, the paper's points open, ours filled."""
    figure, axes = style.panels(3 * len(places), 4.6, 3.8)
    panels = (("loss_recovered", "loss recovered"), ("gamma", "gamma"), ("alive", "share alive"))
    for i, (place, rows) in enumerate(places.items()):
        names = sorted({row["architecture"] for row in rows}, key=lambda name: (name.partition(": ")[2], name))
        kinds = list(dict.fromkeys(name.partition(": ")[2] for name in names))
        for ax, (column, label) in zip(axes[3 * i : 3 * i + 3], panels, strict=True):
            shown = drawable(rows, LOSS_RECOVERED, column)
            ax.set_title(f"{label}, {place}")
            if not shown:
                style.say_empty(ax, "no such numbers")
                continue
            style.logarithmic_l0(ax, [number(row, "l0") for row in shown], "token")
            ax.set_ylabel(label)
            for name in names:
                here = [row for row in shown if row["architecture"] == name]
                look, theirs = style.look(kinds.index(name.partition(": ")[2])), name.startswith(PAPER)
                face = "#ffffff" if theirs else look.colour
                x, y = ([number(row, c) for row in here] for c in ("l0", column))
                points = ax.plot(x, y, linestyle="", marker=look.marker, color=look.colour, label=name)
                points[0].set_markerfacecolor(face)
            style.legend(ax, "best")
    return figure


def texts_of(places: dict[str, list[Row]]) -> str:
    """Everything for the terminal."""
    blocks = []
    for place, rows in places.items():
        blocks.append("\n".join([place, *aligned([list(SUMMARY), *summary_lines(rows)])]))
        blocks += [comparison_table(place, pair) for pair in pairs(rows)]
        blocks.append("\n".join(aligned([list(HEADINGS), *point_lines(rows)])))
    return "\n\n".join(blocks)


def page(places: dict[str, list[Row]], model: str, source: str) -> str:
    """The self-contained page."""
    drawing = style.to_svg(paper_figure(places), "paper")
    title = escape(f"{model}: {source} beside the Gated SAE paper")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{(HERE / 'report.css').read_text(encoding='utf-8')}</style></head><body><header><h1>{title}</h1>"
        "<p class='under'>Open: arXiv 2404.16014v2, tables 1 to 8. Filled: ours. Texts, tokens and masks differ.</p>"
        f'</header><main><figure class="wide"><div class="scroll">{drawing}</div></figure>'
        f"<pre>{escape(texts_of(places))}</pre></main></body></html>"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, required=True, help="results.csv of a run")
    parser.add_argument("--paper", action="store_true", required=True, help="beside the paper's tables")
    parser.add_argument("--model", default="", help="hub id of the language model; default: that of the run")
    parser.add_argument("--baseline", default="", help="architecture beside the paper's baseline; default: the run's")
    parser.add_argument("--out", type=Path, help="directory of paper.png and paper.html; default: that of --ours")
    args = parser.parse_args(argv)
    try:
        settings = _settings(args.ours.parent / "config.json", needed=not args.model)
        model = args.model or settings["language_model"]["name"]
        baseline = args.baseline or settings.get("evaluation", {}).get("baseline", "")
        if not args.ours.is_file():
            raise RunError(f"{args.ours}: there is no such file")
        places = side_by_side(read_results_csv(args.ours), paper_rows(), model, baseline)
        out = args.out or args.ours.parent
        out.mkdir(parents=True, exist_ok=True)
        style.save_png(paper_figure(places), out / "paper.png")
        write_file(out / "paper.html", page(places, model, str(args.ours)))
    except RunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(texts_of(places))
    return 0


def _settings(path: Path, needed: bool) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if needed:
            raise RunError(f"{path}: does not say which language model it was; name it with --model") from error
        return {}


if __name__ == "__main__":
    sys.exit(main())
