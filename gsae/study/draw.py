"""Which features are rated: points of each kind that are alike, features at random, blinded and shuffled by a seed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gsae.errors import SettingError

MATCHES = ("loss_recovered", "l0")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A point whose features may be drawn.

    Attributes:
        model: name of the language model.
        site, layer: where it reads.
        kind: its architecture.
        run: which of the runs it is of.
        point: its name there.
        metrics: what came of it, by column of results.csv.
        fired: the features that fired on the text that it was judged on.
    """

    model: str
    site: str
    layer: int
    kind: str
    run: int
    point: str
    metrics: Mapping[str, float]
    fired: np.ndarray

    @property
    def place(self) -> tuple[str, str, int]:
        """What pairs are formed within, together with the rater."""
        return self.model, self.site, self.layer


@dataclasses.dataclass(frozen=True)
class Item:
    """One feature for one rater. `name` is all that the rater sees of it."""

    name: str
    rater: str
    model: str
    site: str
    layer: int
    kind: str
    run: int
    point: str
    feature: int


def alike(candidates: Sequence[Candidate], match: str, at: float | None) -> list[Candidate]:
    """For each place, one point of each kind: those nearest to one value of `match`.

    Args:
        candidates: all there are.
        match: the metric, one of `MATCHES`; L0 is compared as a ratio.
        at: the value; None for the middle of the range that all kinds of the place reach (of the means of their
            ranges where these do not overlap).

    Returns:
        Place by place, in the order of the candidates; places with a single kind are left out.

    Raises:
        SettingError: when no place has two kinds.
    """

    def of(candidate: Candidate) -> float:
        value = candidate.metrics[match]
        return math.log(max(value, 1e-9)) if match == "l0" else value

    places: dict[tuple[str, str, int], dict[str, list[Candidate]]] = {}
    for candidate in candidates:
        places.setdefault(candidate.place, {}).setdefault(candidate.kind, []).append(candidate)
    chosen: list[Candidate] = []
    for kinds in places.values():
        if len(kinds) < 2:
            continue
        low = max(min(map(of, group)) for group in kinds.values())
        high = min(max(map(of, group)) for group in kinds.values())
        wanted = (low + high) / 2 if at is None else (math.log(at) if match == "l0" else at)
        chosen += [min(group, key=lambda candidate: abs(of(candidate) - wanted)) for group in kinds.values()]
    if not chosen:
        kinds_there = ", ".join(sorted({candidate.kind for candidate in candidates})) or "none"
        raise SettingError("--workdir", kinds_there, "no site has points of two kinds: there is nothing to compare")
    return chosen


def draw(points: Sequence[Candidate], *, raters: int, features: int, seed: int) -> list[Item]:
    """Features for every rater, each rated by one rater only, in an order that says nothing.

    Args:
        points: one of each kind and place.
        raters: how many people.
        features: of each point for each rater.
        seed: of features and order.

    Raises:
        SettingError: when too few features of a point have fired.
    """
    generator = np.random.default_rng(seed)
    by_rater: dict[str, list[dict[str, Any]]] = {f"rater-{i + 1}": [] for i in range(raters)}
    for point in points:
        if len(point.fired) < raters * features:
            allowed = f"for {raters} raters needs {raters * features} features that fire; {point.point} has fewer"
            raise SettingError("--features", features, f"{allowed} ({len(point.fired)})")
        drawn = generator.choice(point.fired, raters * features, replace=False)
        about = {key: getattr(point, key) for key in ("model", "site", "layer", "kind", "run", "point")}
        for i, feature in enumerate(drawn):
            by_rater[f"rater-{i % raters + 1}"].append({**about, "feature": int(feature)})
    items = []
    for rater, own in by_rater.items():
        order = generator.permutation(len(own))
        items += [Item(name=f"{place + 1}", rater=rater, **own[index]) for place, index in enumerate(order)]
    return items
