"""What ratings say: means, paired differences, Wilcoxon's test by Pratt's method, BCa intervals; by scipy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

POINTS = {"no": 0, "maybe": 1, "yes": 2}
FEW = 13  # pairs; so few have their signs permuted in all ways, which is exact with ties and zeros too
RESAMPLES = 9999  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Rating:
    """One rated feature, unblinded."""

    model: str
    site: str
    layer: int
    kind: str
    rater: str
    points: int  # one of the values of POINTS


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much higher one kind is rated than another.

    Attributes:
        scope: what the pairs are of: "overall", a model, a site.
        kind, baseline: the kinds.
        pairs: how many.
        mean: mean difference, in points from 0 to 2.
        p: of the one-sided paired Wilcoxon test that `kind` is not rated higher, zeros by Pratt; None without pairs.
        interval: of the mean, by BCa bootstrap over pairs; None where there are fewer than two different differences.
        level: of the interval.
    """

    scope: str
    kind: str
    baseline: str
    pairs: int
    mean: float
    p: float | None
    interval: tuple[float, float] | None
    level: float


def means(ratings: Sequence[Rating]) -> list[dict[str, Any]]:
    """For each site and kind, and each kind overall: how many were rated, how, and the mean of the points."""
    kinds = list(dict.fromkeys(rating.kind for rating in ratings))
    found = []
    for scope, here in {"overall": list(ratings), **_by(ratings, "site")}.items():
        for kind in kinds:
            points = [rating.points for rating in here if rating.kind == kind]
            if points:
                shares = {answer: points.count(value) for answer, value in POINTS.items()}
                found.append(
                    {"scope": scope, "kind": kind, "rated": len(points), **shares, "mean": float(np.mean(points))}
                )
    return found


def differences(ratings: Sequence[Rating], baseline: str, *, level: float = 0.9, seed: int = 0) -> list[Difference]:
    """Every other kind against the baseline: overall, for each model (if there are several), for each site.

    A pair is of one model, layer, site and rater; where these have rated several features of a kind, their mean counts.
    """
    others = [kind for kind in dict.fromkeys(rating.kind for rating in ratings) if kind != baseline]
    models = _by(ratings, "model")
    scopes = {"overall": list(ratings), **(models if len(models) > 1 else {}), **_by(ratings, "site")}
    return [
        compare(scope, kind, baseline, paired(here, kind, baseline), level=level, seed=seed)
        for kind in others
        for scope, here in scopes.items()
    ]


def paired(ratings: Sequence[Rating], kind: str, baseline: str) -> np.ndarray:
    """Mean points of `kind` less those of the baseline, for each model, layer, site and rater that has both."""
    cells: dict[tuple, dict[str, list[int]]] = {}
    for rating in ratings:
        cell = cells.setdefault((rating.model, rating.layer, rating.site, rating.rater), {})
        cell.setdefault(rating.kind, []).append(rating.points)
    both = [cell for cell in cells.values() if kind in cell and baseline in cell]
    return np.asarray([np.mean(cell[kind]) - np.mean(cell[baseline]) for cell in both], np.float64)


def compare(scope: str, kind: str, baseline: str, differences_P: np.ndarray, *, level: float, seed: int) -> Difference:
    """The test and the interval of paired differences [P]."""
    from scipy import stats

    pairs = len(differences_P)
    p, interval = (1.0 if pairs else None), None
    if differences_P.any():
        method: Any = stats.PermutationMethod() if 1 < pairs <= FEW else "auto"
        p = float(stats.wilcoxon(differences_P, zero_method="pratt", alternative="greater", method=method).pvalue)
    if len(set(differences_P)) > 1:
        limits = stats.bootstrap(
            (differences_P,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        interval = (float(limits.low), float(limits.high))
    mean = float(differences_P.mean()) if pairs else float("nan")
    return Difference(scope, kind, baseline, pairs, mean, p, interval, level)


def _by(ratings: Sequence[Rating], name: str) -> Mapping[str, list[Rating]]:
    groups: dict[str, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(str(getattr(rating, name)), []).append(rating)
    return groups
