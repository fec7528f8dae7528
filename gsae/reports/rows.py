"""What a row of results is: its columns, how rows are grouped and named. A row is a dict; None or NaN is a gap."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gsae.evaluation.frontier import kind, usable
from gsae.evaluation.quality import Quality

Row = Mapping[str, Any]

COLUMNS = (
    "architecture", "layer", "site", "width", "sparsity_coefficient", "learning_rate", "seed", "data_seed", "steps",
    "l0", "loss_recovered", "loss_recovered_se", "ce_clean", "ce_spliced", "ce_zero", "kl", "gamma", "gamma_centred",
    "fvu", "alive", "status",
)  # fmt: skip
# what follows them, where some row has it
FURTHER = (
    "ce_difference", "ce_denominator", "cosine", "norm_ratio", "input_norm", "error_bound", "l1", "mean_share",
    "tokens", "targets", "documents", "flops_a_step", "products_a_step", "resamplings", "target_l0", "variant",
    "starts_from", "extended_from", "point",
)  # fmt: skip
TEXTS = frozenset({"architecture", "variant", "starts_from", "extended_from", "site", "status", "point"})
COUNTS = frozenset(
    {"layer", "width", "seed", "data_seed", "steps", "tokens", "targets", "documents", "resamplings", "target_l0"}
)


def number(row: Row, column: str) -> float:
    """The row's number in a column; NaN where there is none."""
    value = row.get(column)
    return math.nan if value is None or value == "" else float(value)


def has(row: Row, *columns: str) -> bool:
    """Whether the row has a finite number in every one of the columns."""
    return all(math.isfinite(number(row, column)) for column in columns)


def drawable(rows: Iterable[Row], quality: Quality, *columns: str) -> list[Row]:
    """The usable rows (finished, finite, L0 above 0) that also have finite numbers in `columns`, by L0."""
    kept = [row for row in usable(rows, quality) if has(row, *columns)]
    return sorted(kept, key=lambda row: number(row, "l0"))


def denominator(row: Row) -> float:
    """What putting zero in the site's place costs the language model, CE(zero) - CE(clean) in nats; NaN for a gap."""
    return number(row, "ce_zero") - number(row, "ce_clean")


def place(row: Row) -> str:
    """The site with its layer, as `name.layer`."""
    site, layer = str(row.get("site", "")), row.get("layer")
    return site if layer is None or "." in site else f"{site}.{layer}"


def distinct(rows: Iterable[Row], column: str) -> list[Any]:
    """The values of a column, each once, in the order in which they first occur."""
    return list(dict.fromkeys(row.get(column) for row in rows))


def by_place(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each site, sites in the order in which they first occur."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(place(row), []).append(row)
    return groups


def by_architecture(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each architecture by L0 (gaps last), architectures in the order in which they first occur."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row.get("architecture", "")), []).append(row)
    return {name: sorted(group, key=_l0_gaps_last) for name, group in groups.items()}


def _l0_gaps_last(row: Row) -> tuple[bool, float]:
    l0 = number(row, "l0")
    return (True, 0.0) if math.isnan(l0) else (False, l0)


def label(architecture: str, rows: Sequence[Row]) -> str:
    """An architecture's name with its width or range of widths, as a legend gives it."""
    widths = sorted({int(row["width"]) for row in rows if has(row, "width")})
    if not widths:
        return architecture
    sizes = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    return f"{architecture}, {sizes} features"


def plain_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of architectures in their plain form; all of them, each kind an architecture, if there is no such."""
    plain = [row for row in rows if not row.get("variant") and not row.get("starts_from")]
    return plain or as_kinds(rows)


def as_kinds(rows: Iterable[Row]) -> list[Row]:
    """The rows with their kind (architecture and variant) where tables and figures look for the architecture."""
    return [{**row, "architecture": kind(row), "variant": ""} for row in rows]
