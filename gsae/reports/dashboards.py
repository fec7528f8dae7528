"""The page of a run's features: one self-contained file, its data compact inside it, drawn as one looks at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from gsae.reports.feature_data import TextPool, feature_arrays, vector_arrays
from gsae.reports.packing import interactive_page, json_element, packed

STYLES = ("report.css", "examples.css", "dashboard.css")
SCRIPTS = ("examples.js", "dashboard.js")


@dataclass(frozen=True)
class PointFeatures:
    """What is known of the features of one autoencoder.

    Attributes:
        name: of the point.
        about: what to say of it beside its name.
        all_features: how many it has; `observed` may be of fewer.
        observed: of type `evaluation.observed.Observed`.
        directions: of the same features, `evaluation.directions.Directions`.
    """

    name: str
    about: str
    all_features: int
    observed: Any
    directions: Any


def dashboard_page(
    points: Sequence[PointFeatures],
    *,
    title: str,
    pool: TextPool,
    texts: Any,
    document_names: Sequence[str],
) -> str:
    """The text of the page; `#point/feature` behind its address leads to a feature.

    Args:
        points: in the order in which they can be chosen.
        title: the name of the run.
        pool: the rows that the examples stand in.
        texts: a table of strings (`strings`) and numbers into it for token ids (`of_ids`), which made the pool's.
        document_names: by number.
    """
    elements = [json_element("points", [{"name": point.name} for point in points])]
    for index, point in enumerate(points):
        seen, shape = point.observed, point.observed.shape
        arrays = feature_arrays(seen, pool) | vector_arrays(seen, point.directions, texts)
        about = {
            "name": point.name,
            "about": point.about,
            "how": point.directions.how,
            "all": point.all_features,
            "tokens": seen.tokens,
            "l0": seen.l0,
            "drawn": shape.drawn,
            "size": {"before": shape.before, "after": shape.after},
            "packed": packed(arrays),
        }
        elements.append(json_element(f"point-{index}", about))
    text = {
        "strings": texts.strings,
        "documents": list(document_names),
        "length": int(pool.numbers_NT.shape[1]),
        "packed": packed(pool.arrays()),
    }
    return interactive_page(
        "dashboard.html",
        styles=STYLES,
        scripts=SCRIPTS,
        title=escape(title),
        subtitle=escape(_subtitle(points)),
        data="\n".join([json_element("text", text), *elements]),
    )


def _subtitle(points: Sequence[PointFeatures]) -> str:
    features = sum(len(point.observed.features_F) for point in points)
    tokens = sorted({point.observed.tokens for point in points})
    autoencoders = "1 autoencoder" if len(points) == 1 else f"{len(points)} autoencoders"
    return f"{features:,} features of {autoencoders}, on {tokens[0]:,} held-out tokens" if points else "no features"


def drawn_features(all_features: int, wanted: int, seed: int) -> np.ndarray:
    """Which features to look at: `wanted` at random, ascending; all for 0 or too many."""
    if not 0 < wanted < all_features:
        return np.arange(all_features)
    return np.sort(np.random.default_rng(seed).choice(all_features, wanted, replace=False))
