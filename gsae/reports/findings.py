"""What a sweep shows, and what to beware of, as sentences computed from the rows: true whatever comes out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gsae.evaluation.frontier import Comparison, compare, usable
from gsae.evaluation.quality import Quality, quality_of
from gsae.reports.rows import Row, by_place, denominator, distinct, has, number
from gsae.reports.tables import percent, significant

SMALL_DENOMINATOR = 0.1  # nats
LARGE_ERROR = 0.05  # of loss recovered
MANY_DEAD = 0.5


def comparisons(rows: Sequence[Row], baseline: str, step: float | None = None) -> dict[str, list[Comparison]]:
    """For each site, how every other architecture's frontier compares with that of `baseline`.

    Args:
        rows: the results of a sweep.
        baseline: an architecture; where a site has no row of it, nothing is compared.
        step: distance of the fixed values of the quality; None for the quality's own.
    """
    found: dict[str, list[Comparison]] = {}
    quality = quality_of(rows)
    for site, here in by_place(usable(rows, quality)).items():
        names = distinct(here, "architecture")
        others = [name for name in names if name != baseline] if baseline in names else []
        found[site] = [compare(here, baseline, other, step=step, quality=quality) for other in others]
    return found


def headline(rows: Sequence[Row], compared: Mapping[str, Sequence[Comparison]]) -> list[str]:
    """One sentence for each site and pair of architectures; what was reached where there is nothing to compare."""
    quality = quality_of(rows)
    if not compared:
        return [f"No point of this sweep can be compared: none finished with a finite {quality.name} and L0 above 0."]
    sentences = []
    for site, pairs in compared.items():
        here = by_place(usable(rows, quality))[site]
        sentences += [_ratio_sentence(site, pair) for pair in pairs] or [_reach_sentence(site, here, quality)]
    return sentences


def _ratio_sentence(site: str, pair: Comparison) -> str:
    if not pair.levels:
        return (
            f"At {site}, the frontiers of {pair.baseline} and {pair.other} autoencoders share no fixed value of "
            f"{pair.quality.name}, so their L0 cannot be compared without extrapolating."
        )
    ratios = [level.ratio for level in pair.levels]
    first, last = pair.levels[0].value, pair.levels[-1].value
    where = (
        f"at {pair.quality.noun} of {first:.2f}"
        if len(ratios) == 1
        else f"median of {len(ratios)} fixed values from {first:.2f} to {last:.2f}; "
        f"lowest {min(ratios):.2f}, highest {max(ratios):.2f}"
    )
    return (
        f"At {site}, {pair.baseline} autoencoders use {pair.median_ratio:.2f} times as many active features per "
        f"{pair.quality.unit} as {pair.other} autoencoders for the same {pair.quality.name} ({where})."
    )


def _reach_sentence(site: str, rows: Sequence[Row], quality: Quality) -> str:
    l0 = [number(row, "l0") for row in rows]
    values = [quality.of(row) for row in rows]
    names = " and ".join(str(name) for name in distinct(rows, "architecture"))
    points = "1 point" if len(rows) == 1 else f"{len(rows)} points"
    return (
        f"At {site}, {points} of {names} autoencoders reach L0 from {significant(min(l0))} to {significant(max(l0))} "
        f"and {quality.noun} from {min(values):.3f} to {max(values):.3f}."
    )


def warnings(rows: Sequence[Row]) -> list[str]:
    """What makes a number of the sweep doubtful: points that did not finish, small denominators, dead features."""
    found = []
    for row in rows:
        status = str(row.get("status") or "ok")
        if status != "ok":
            found.append(f"{_name(row)}: its status is {status}; it is left out of the figures and the comparison.")
    for site, here in by_place(rows).items():
        denominators = [denominator(row) for row in here if has(row, "ce_zero", "ce_clean")]
        if denominators and min(denominators) < SMALL_DENOMINATOR:
            found.append(
                f"{site}: putting zero in its place costs the language model only {min(denominators):.3g} nats. Loss "
                "recovered divides by this number; judge by the differences in nats (ΔCE)."
            )
    kept = usable(rows, quality_of(rows))
    unsure = [row for row in kept if number(row, "loss_recovered_se") > LARGE_ERROR]
    if unsure:
        worst = max(unsure, key=lambda row: number(row, "loss_recovered_se"))
        found.append(
            f"The standard error of loss recovered is above {LARGE_ERROR:g} at {len(unsure)} of {len(kept)} points, "
            f"{number(worst, 'loss_recovered_se'):.3f} at {_name(worst)}; evaluate more tokens."
        )
    dying = [row for row in kept if number(row, "alive") < MANY_DEAD]
    if dying:
        worst = min(dying, key=lambda row: number(row, "alive"))
        found.append(
            f"More than {percent(MANY_DEAD)} of the features never fired at {len(dying)} of {len(kept)} points; at "
            f"{_name(worst)} {percent(1 - number(worst, 'alive'))} were silent on {_tokens(worst)} held-out "
            f"{quality_of(kept).unit}s."
        )
    return found


def _name(row: Row) -> str:
    return str(row.get("point") or row.get("architecture") or "a point")


def _tokens(row: Row) -> str:
    tokens = number(row, "tokens")
    return "the" if math.isnan(tokens) else f"{int(tokens):,}"


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs, in the order in which they stand."""
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", repr(value) if isinstance(value, str) else str(value)))
    return pairs
