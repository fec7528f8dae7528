"""The rows of a sweep as a CSV file, and as tables on the terminal."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gsae.artifacts import write_file
from gsae.errors import RunError
from gsae.evaluation.frontier import Comparison, LevelRatio
from gsae.evaluation.quality import FVU, quality_of
from gsae.reports.rows import COLUMNS, COUNTS, FURTHER, TEXTS, Row, as_kinds, by_architecture, by_place, label, number

GAP = "–"


def write_results_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes one line a row: the columns of `COLUMNS`, then what else some row has; gaps are empty fields.

    Numbers are written so that reading them gives the same number back.
    """
    there = {column for row in rows for column in row}
    order = [*COLUMNS, *(column for column in FURTHER if column in there)]
    order += sorted(there - set(order))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(order)
    for row in rows:
        writer.writerow([_field(column, row.get(column)) for column in order])
    write_file(Path(path), text.getvalue())


def _field(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "item"):  # a numpy scalar prints its type with its value
        return _field(column, value.item())
    if column in COUNTS and value == int(value):
        return str(int(value))  # a metric comes as a float, also where it counts
    return repr(value) if isinstance(value, float) else str(value)


def read_results_csv(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_results_csv` wrote: counts as int, names as str, all else as float; gaps as None.

    Raises:
        RunError: when the file is not such a table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{column: _value(column, text) for column, text in line.items()} for line in csv.DictReader(file)]
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: is not a table of results ({error})") from error


def _value(column: str, text: str) -> Any:
    if text == "":
        return None
    if column in TEXTS:
        return text
    if column in COUNTS:
        return int(text)
    try:
        return float(text)
    except ValueError:
        if column in (*COLUMNS, *FURTHER):
            raise
        return text


def significant(value: float, digits: int = 3) -> str:
    """A number at so many significant digits, without an exponent between 0.0001 and 100,000."""
    if not math.isfinite(value):
        return GAP
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if -5 < power < 5:
        return f"{value:,.{max(digits - 1 - power, 0)}f}"
    return f"{value:.{digits - 1}e}"


def short(value: float) -> str:
    """A setting as a person writes it: 0.001, 3e-05, 12."""
    return f"{value:.4g}" if math.isfinite(value) else GAP


def decimals(places: int) -> Callable[[float], str]:
    """A format with a fixed number of decimals, so that a column can be compared down its length."""
    return lambda value: f"{value:.{places}f}" if math.isfinite(value) else GAP


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%" if math.isfinite(value) else GAP


Shown = tuple[tuple[str, str, Callable[[float], str]], ...]
# heading, column, format: what the terminal and the HTML report show of a point, in this order
SHOWN: Shown = (
    ("sparsity", "sparsity_coefficient", short),
    ("LR", "learning_rate", short),
    ("seed", "seed", short),
    ("L0", "l0", significant),
    ("recovered", "loss_recovered", decimals(4)),
    ("± s.e.", "loss_recovered_se", decimals(4)),
    ("ΔCE", "ce_difference", decimals(4)),
    ("KL", "kl", decimals(4)),
    ("gamma", "gamma", decimals(3)),
    ("FVU", "fvu", decimals(3)),
    ("alive", "alive", percent),
)


SHOWN_WITHOUT_LANGUAGE_MODEL: Shown = (
    *SHOWN[:4],
    ("FVU", "fvu", decimals(4)),
    ("cosine", "cosine", decimals(4)),
    ("norms", "norm_ratio", decimals(3)),
    ("gamma", "gamma", decimals(3)),
    ("centred", "gamma_centred", decimals(3)),
    ("alive", "alive", percent),
)


def shown(rows: Sequence[Row]) -> Shown:
    """The columns to show of these rows."""
    return SHOWN_WITHOUT_LANGUAGE_MODEL if quality_of(rows) == FVU else SHOWN


def cells(row: Row, columns: Shown) -> list[str]:
    """A row as the texts of the columns, its status last."""
    return [show(number(row, column)) for _, column, show in columns] + [_brief(str(row.get("status") or GAP))]


def _brief(status: str) -> str:
    return status if len(status) <= 10 else status[:9] + "…"  # the warnings give it in full


def headings(columns: Shown) -> list[str]:
    """The headings of `cells`."""
    return [heading for heading, _, _ in columns] + ["status"]


def terminal_table(rows: Sequence[Row]) -> str:
    """All points, a block for each site and architecture, by L0; at most 100 characters wide."""
    if not rows:
        return "no point was evaluated"
    blocks, rows = [], as_kinds(rows)
    columns = shown(rows)
    lines_of = {id(row): cells(row, columns) for row in rows}
    widths = _widths([headings(columns), *lines_of.values()])
    for site, here in by_place(rows).items():
        for architecture, group in by_architecture(here).items():
            title = f"{label(architecture, group)} at {site}"
            blocks.append(
                "\n".join([title, *_aligned([headings(columns), *(lines_of[id(row)] for row in group)], widths)])
            )
    return "\n\n".join(blocks)


def comparison_table(site: str, comparison: Comparison) -> str:
    """The baseline's L0 over the other architecture's, at fixed values of the quality."""
    name = comparison.quality.name
    title = f"{comparison.baseline} L0 / {comparison.other} L0 at equal {name}, {site}"
    if not comparison.levels:
        return f"{title}\nthe two frontiers share no fixed value of {name}"
    lines = [comparison_headings(comparison), *(comparison_cells(level) for level in comparison.levels)]
    summary = f"median ratio {comparison.median_ratio:.2f}, over the whole common range {math.exp(comparison.area):.2f}"
    return "\n".join([title, *_aligned(lines, _widths(lines)), summary])


def comparison_headings(comparison: Comparison) -> list[str]:
    """The headings of `comparison_cells`."""
    return [comparison.quality.name, f"L0 {comparison.baseline}", f"L0 {comparison.other}", "ratio", "over seeds"]


def comparison_cells(level: LevelRatio) -> list[str]:
    """One fixed value of the quality as texts: the value, both L0, their ratio, its range over pairs of seeds."""
    return [
        f"{level.value:.2f}",
        significant(level.baseline_l0),
        significant(level.other_l0),
        decimals(2)(level.ratio),
        f"{level.low:.2f} to {level.high:.2f}" if level.pairs > 1 else GAP,
    ]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A heading and lines of texts as columns, with a rule between."""
    return _aligned(lines, _widths(lines))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]


def _aligned(lines: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    rule = ["  ".join("─" * width for width in widths)]
    texts = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    return [texts[0], *rule, *texts[1:]]
