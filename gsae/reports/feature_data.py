"""What is shown of features, as the arrays that a page holds.

Axes: F features, K examples, W positions of a window, N rows of text, T positions.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NONE = 0xFFFFFFFF  # an example or a number that there is not
GROUPS, IN_GROUP = 5, 4  # drawn examples are shown in fifths of their activations, so many of each


class TextPool:
    """The rows of text that examples point into, each once.

    Args:
        sequences: which rows of the store there are, ascending.
        numbers_NT: their tokens, as numbers into a table of strings.
        documents_NT: the document of every token, as a number; below zero for none.
    """

    def __init__(self, sequences: np.ndarray, numbers_NT: np.ndarray, documents_NT: np.ndarray):
        self.sequences, self.numbers_NT, self.documents_NT = sequences, numbers_NT, documents_NT

    def arrays(self) -> dict[str, np.ndarray]:
        """The text itself, for `packed`."""
        return {"rows": self.numbers_NT.astype(np.uint32)}

    def place(self, examples: Any) -> dict[str, np.ndarray]:
        """Where examples stand, in this pool: row, position, document, each [F, K]."""
        there_FK = examples.sequence_FK >= 0
        row_FK = np.searchsorted(self.sequences, np.where(there_FK, examples.sequence_FK, self.sequences[:1]))
        document_FK = self.documents_NT[row_FK, examples.position_FK]
        return {
            "row": np.where(there_FK, row_FK, NONE).astype(np.uint32),
            "position": examples.position_FK.astype(np.uint32),
            "document": np.where(there_FK & (document_FK >= 0), document_FK, NONE).astype(np.uint32),
        }


def sequences_of(observed: Sequence[Any]) -> np.ndarray:
    """The rows that any example of `evaluation.observed.Observed` stands in, ascending."""
    examples = [kind.sequence_FK.ravel() for seen in observed for kind in (seen.strongest, seen.drawn)]
    ids = np.unique(np.concatenate(examples)) if examples else np.zeros(0, np.int64)
    return ids[ids >= 0]


def feature_arrays(observed: Any, pool: TextPool, *, relative: bool = False) -> dict[str, np.ndarray]:
    """Examples, histogram and counts of features.

    Args:
        observed: of type `evaluation.observed.Observed`.
        pool: with all rows of its examples.
        relative: activations are given as shares of each feature's largest.
    """
    scale_F = np.where(observed.max_F > 0, observed.max_F, 1)
    unit_F = scale_F if relative else np.ones_like(scale_F)
    arrays = {
        "fired": observed.fired_F.astype(np.uint32),
        "max": observed.max_F / unit_F,
        "mean": observed.total_F / np.maximum(observed.fired_F, 1) / unit_F,
        "histogram": observed.histogram_FH.astype(np.uint32),
        "bin_width": observed.bin_width_F / unit_F,
    }
    chosen_FK = _by_fifths((observed.drawn.sequence_FK >= 0).sum(1), observed.drawn.sequence_FK.shape[1])
    for name, examples in (("strongest", observed.strongest), ("drawn", _taken(observed.drawn, chosen_FK))):
        share_FKW = examples.window_FKW / scale_F[:, None, None]
        level_FKW = np.where(share_FKW > 0, np.clip(np.rint(255 * share_FKW), 1, 255), 0)
        arrays[f"{name}_value"] = examples.value_FK / unit_F[:, None]
        arrays[f"{name}_window"] = level_FKW.astype(np.uint8)
        arrays |= {f"{name}_{key}": value for key, value in pool.place(examples).items()}
    return {name: _narrow(array) for name, array in arrays.items()}


def vector_arrays(observed: Any, directions: Any, texts: Any) -> dict[str, np.ndarray]:
    """What the vectors of features say.

    Args:
        observed: of type `evaluation.observed.Observed`.
        directions: of the same features, `evaluation.directions.Directions`.
        texts: `of_ids` gives numbers into the table of strings for token ids.
    """
    arrays = {
        "features": observed.features_F.astype(np.uint32),
        "l0_with": observed.l0_with_F,
        "norm": directions.norm_F,
        "cosine": directions.cosine_F,
        "nearest": directions.nearest_FN.astype(np.uint32),
        "nearest_cosine": directions.nearest_cosine_FN,
        "promoted": texts.of_ids(directions.promoted_FN),
        "promoted_logit": directions.promoted_logit_FN,
        "suppressed": texts.of_ids(directions.suppressed_FN),
        "suppressed_logit": directions.suppressed_logit_FN,
    }
    return {name: _narrow(array) for name, array in arrays.items()}


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


def _by_fifths(count_F: np.ndarray, drawn: int) -> np.ndarray:
    """Which of a feature's `count` examples, strongest first, are shown: [F, GROUPS * IN_GROUP], `drawn` for none."""
    table = np.full((drawn + 1, GROUPS * IN_GROUP), drawn)
    for count in range(1, drawn + 1):
        edges = np.rint(np.linspace(0, count, GROUPS + 1)).astype(int)
        for group, (start, stop) in enumerate(itertools.pairwise(edges)):
            chosen = np.unique(np.rint(np.linspace(start, stop - 1, min(IN_GROUP, stop - start)))).astype(int)
            table[count, group * IN_GROUP : group * IN_GROUP + len(chosen)] = chosen
    return table[count_F]


def _taken(examples: Any, index_FK: np.ndarray) -> Any:
    """The examples that an index names; one beyond the last for none."""

    def take(array_FK: np.ndarray, nothing: float) -> np.ndarray:
        missing = [(0, 0), (0, 1)] + [(0, 0)] * (array_FK.ndim - 2)
        padded = np.pad(array_FK, missing, constant_values=nothing)
        return np.take_along_axis(padded, index_FK.reshape(index_FK.shape + (1,) * (array_FK.ndim - 2)), axis=1)

    values: Mapping[str, np.ndarray] = {
        name: take(array, -1 if name == "sequence_FK" else 0) for name, array in vars(examples).items()
    }
    return type(examples)(**values)
