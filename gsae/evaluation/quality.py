"""What a frontier is drawn in: loss recovered, or FVU where no language model is there to judge."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quality:
    """How good a reconstruction is, in one column of the results.

    Attributes:
        column: of results.csv.
        name: in sentences and tables.
        noun: the name with its article.
        sign: +1 where more is better, -1 where less is.
        step: between the fixed values at which frontiers are compared.
        unit: what it is a mean over: tokens, or rows that need not be one each.
        worst: what is worse than this (early in training) is counted in figures, not drawn: it would flatten the rest.
    """

    column: str
    name: str
    noun: str
    sign: int
    step: float
    unit: str
    worst: float

    @property
    def title(self) -> str:
        """The name as a heading begins."""
        return self.name[0].upper() + self.name[1:]

    def of(self, row: Mapping[str, Any]) -> float:
        """The row's number; NaN where it has none (results.csv leaves gaps empty)."""
        value = row.get(self.column)
        try:
            return math.nan if value is None else float(value)
        except ValueError:
            return math.nan


LOSS_RECOVERED = Quality("loss_recovered", "loss recovered", "a loss recovered", +1, 0.05, "token", -0.1)
FVU = Quality("fvu", "FVU", "an FVU", -1, 0.02, "row", 1.1)


def quality_of(rows: Iterable[Mapping[str, Any]]) -> Quality:
    """What the rows can be compared by: loss recovered if one of them has it, else FVU if one has that."""
    rows = list(rows)
    found = (quality for quality in (LOSS_RECOVERED, FVU) if any(math.isfinite(quality.of(row)) for row in rows))
    return next(found, LOSS_RECOVERED)
