"""Findings beyond the frontier: those that the rows have the points for, in the order in which the page has them."""

from collections.abc import Sequence

from gsae.reports.curves import Curves
from gsae.reports.rows import Row, has, plain_rows
from gsae.reports.section import Section
from gsae.reports.section_features import costs, dead_features, pursuit
from gsae.reports.section_frontiers import of_sites, rescaled, shrinkage, variants


def sections(
    rows: Sequence[Row], baseline: str, pursued: Sequence[Row] = (), curves: Curves | None = None
) -> list[Section]:
    """The findings that these rows show, in the order of the paper.

    Args:
        rows: all results of a sweep, or of several.
        baseline: the architecture that others are compared with.
        pursued: rows of the same columns with `target_l0`: codes found by pursuit instead of the encoder.
        curves: training curves by point (`curves.read_log`).
    """
    usable = [row for row in rows if str(row.get("status") or "ok") == "ok" and has(row, "l0", "loss_recovered")]
    found = [
        of_sites(plain_rows(usable), baseline),
        shrinkage(plain_rows(usable)),
        variants(usable),
        rescaled(usable, baseline),
        pursuit(plain_rows(usable), pursued),
        dead_features(usable, curves or {}),
        costs(usable),
    ]
    return [section for section in found if section]
