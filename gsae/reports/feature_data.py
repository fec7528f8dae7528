"""What is shown of features, as the arrays that a page holds.

Axes: F features, K examples, W positions of a window, N rows of text, T positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NONE = 0xFFFFFFFF  # an example or a number that there is not
GROUPS, IN_GROUP = 5, 4  # intervals from 0 to a feature's largest activation, and drawn examples shown of each


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
    chosen_FK = _by_intervals(observed.drawn, scale_F)
    for name, examples in (("strongest", observed.strongest), ("drawn", _taken(observed.drawn, chosen_FK))):
        share_FKW = np.abs(examples.window_FKW) / scale_F[:, None, None]
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


def _by_intervals(drawn: Any, max_F: np.ndarray) -> np.ndarray:
    """Which drawn examples are shown, [F, GROUPS * IN_GROUP], the number of drawn ones for none.

    The range from 0 to a feature's largest activation, whose sign does not count, is cut into GROUPS intervals of equal
    width, each with its upper end. Of each, the strongest first, up to IN_GROUP are taken, evenly from the examples in
    it, which are sorted.
    """
    examples = drawn.value_FK.shape[1]
    share_FK = np.abs(drawn.value_FK) / max_F[:, None]
    group_FK = np.clip(GROUPS - np.ceil(GROUPS * share_FK), 0, GROUPS - 1)
    group_FK = np.where(drawn.sequence_FK >= 0, group_FK, GROUPS)
    chosen = []
    for group in range(GROUPS):
        start_F, count_F = (group_FK < group).sum(1), (group_FK == group).sum(1)
        shown_F = np.minimum(count_F, IN_GROUP)
        for place in range(IN_GROUP):
            index_F = start_F + np.rint(place * (count_F - 1) / np.maximum(shown_F - 1, 1)).astype(int)
            chosen.append(np.where(place < shown_F, index_F, examples))
    return np.stack(chosen, axis=1)


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
