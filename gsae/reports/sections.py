"""Findings beyond the frontier: those that the rows have the points for, in the order in which the page has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gsae.reports.curves import Curves
from gsae.reports.rows import Row, has, number, plain_rows
from gsae.reports.section import Section
from gsae.reports.section_codes import codes
from gsae.reports.section_dictionary import vectors
from gsae.reports.section_features import dead_features, pursuit
from gsae.reports.section_frontiers import of_sites, rescaled, shrinkage, variants
from gsae.reports.section_kinds import side_by_side
from gsae.reports.section_layers import over_layers


def sections(
    rows: Sequence[Row],
    baseline: str,
    pursued: Sequence[Row] = (),
    curves: Curves | None = None,
    dictionaries: Mapping[str, Mapping[str, Any]] | None = None,
    norms: Mapping[str, Any] | None = None,
) -> list[Section]:
    """The findings that these rows show, in the order of the paper.

    Args:
        rows: all results of a sweep, or of several.
        baseline: the architecture that others are compared with.
        pursued: rows of the same columns with `target_l0`: codes found by pursuit instead of the encoder.
        curves: training curves by point (`curves.read_log`).
        dictionaries: by point, what its vectors are to each other.
        norms: by point, norms of activations and their codes, [N, 2].
    """
    usable = [row for row in rows if str(row.get("status") or "ok") == "ok" and has(row, "l0", "loss_recovered")]
    active = [row for row in usable if number(row, "l0") > 0]  # a frontier goes over the logarithm of L0
    found = [
        of_sites(plain_rows(active), baseline),
        shrinkage(plain_rows(active)),
        variants(active),
        rescaled(active, baseline),
        over_layers(plain_rows(active)),
        vectors(usable, dictionaries or {}),
        pursuit(plain_rows(active), pursued),
        dead_features(usable, curves or {}),
        codes(rows, norms or {}),
        side_by_side(active),
    ]
    return [section for section in found if section]
