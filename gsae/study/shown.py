"""What raters see of the features that were drawn: examples, histograms and tokens, without anything that says whose.

Activations are shares of a feature's largest; there are no names, numbers, norms or cosines.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gsae.dashboards import text_pool
from gsae.evaluation.batches import choose_sequences
from gsae.evaluation.directions import directions
from gsae.evaluation.features import observe
from gsae.evaluation.members import Member
from gsae.evaluation.observed import Shape
from gsae.finished import FinishedRun
from gsae.language_models.token_texts import TokenTexts
from gsae.reports.feature_data import NONE, feature_arrays, sequences_of, vector_arrays
from gsae.study.draw import Item

ROWS, TEXTS = ("strongest_row", "drawn_row"), ("promoted", "suppressed")  # arrays of numbers of rows, of strings
SHAPE = Shape()


@dataclasses.dataclass(frozen=True)
class Shown:
    """Of some items, all that a page holds.

    Attributes:
        arrays: by name; the first axis is the items'.
        rows: the text that examples stand in, as numbers of strings; `NONE` beyond the end of a row.
        strings: of the tokens.
        tokens: how many were looked at, for each item.
        size: positions before and after an example.
    """

    arrays: dict[str, np.ndarray]
    rows: np.ndarray
    strings: list[str]
    tokens: np.ndarray
    size: dict[str, int]

    def of(self, items: Sequence[int]) -> "Shown":
        """Some of the items, in this order, with the rows of text and the strings that they need and no others.

        Strings are in alphabetical order: the one in which they were found would tell features of one point from those
        of another.
        """
        arrays = {name: array[list(items)] for name, array in self.arrays.items()}
        there = np.unique(np.concatenate([arrays[name].ravel() for name in ROWS]))
        kept = there[there != NONE]
        for name in ROWS:
            place = np.searchsorted(kept, arrays[name]).astype(np.uint32)
            arrays[name] = np.where(arrays[name] == NONE, arrays[name], place)
        rows, tokens = self.rows[kept], self.tokens[list(items)]
        used = np.unique(np.concatenate([each.ravel() for each in (rows, *(arrays[name] for name in TEXTS))]))
        numbers = sorted(used[used != NONE], key=lambda number: self.strings[number])
        renumbered = np.full(len(self.strings), NONE, np.uint32)
        renumbered[numbers] = np.arange(len(numbers))
        arrays |= {name: renumbered[arrays[name]] for name in TEXTS}
        rows = np.where(rows == NONE, NONE, renumbered[np.where(rows == NONE, 0, rows)]).astype(np.uint32)
        return Shown(arrays, rows, [self.strings[number] for number in numbers], tokens, self.size)

    def after(self, other: "Shown | None") -> "Shown":
        """Both, the other's items first."""
        if other is None:
            return self
        mine = dict(self.arrays)
        for name in ROWS:
            mine[name] = np.where(mine[name] == NONE, NONE, mine[name].astype(np.int64) + len(other.rows))
        for name in TEXTS:
            mine[name] = mine[name] + len(other.strings)
        rows = np.where(self.rows == NONE, NONE, self.rows.astype(np.int64) + len(other.strings))
        length = max(rows.shape[1], other.rows.shape[1])
        padded = [
            np.pad(each, ((0, 0), (0, length - each.shape[1])), constant_values=NONE) for each in (other.rows, rows)
        ]
        return Shown(
            arrays={
                name: np.concatenate([array, mine[name]]).astype(array.dtype) for name, array in other.arrays.items()
            },
            rows=np.concatenate(padded).astype(np.uint32),
            strings=other.strings + self.strings,
            tokens=np.concatenate([other.tokens, self.tokens]),
            size=self.size,
        )


def look_at(
    runs: Sequence[FinishedRun], items: Sequence[Item], *, tokens: int, batch_size: int, seed: int, progress: bool
) -> Shown:
    """Looks at the features of all items, run by run; gives them in the items' order."""
    found, order = None, []
    for index, run in enumerate(runs):
        own = [place for place, item in enumerate(items) if item.run == index]
        if not own:
            continue
        here = [items[place] for place in own]
        found = _of_run(run, here, tokens=tokens, batch_size=batch_size, seed=seed, progress=progress).after(found)
        order += own
    assert found is not None, "no items"
    return found.of([int(place) for place in np.argsort(order)])


def _of_run(run: FinishedRun, items: Sequence[Item], *, tokens, batch_size, seed, progress) -> Shown:
    store, points = run.held_out, list(dict.fromkeys(item.point for item in items))
    features = {point: np.unique([item.feature for item in items if item.point == point]) for point in points}
    autoencoders = {point: run.autoencoder(point) for point in points}
    observed = observe(
        run.language_model, store,
        [Member(point, run.site(point), autoencoders[point]) for point in points],
        choose_sequences(store, tokens, seed),
        features=features, batch_size=batch_size, shape=SHAPE, seed=seed, progress=progress,
    )  # fmt: skip
    texts = TokenTexts(run.language_model.tokenizer)
    pool = text_pool(store, sequences_of(observed), texts)
    parts, start = [], 0
    places: dict[tuple[str, int], int] = {}
    for seen in observed:
        vectors = directions(run.language_model, seen.site, autoencoders[seen.name], seen.features_F)
        told = vector_arrays(seen, vectors, texts)
        arrays = feature_arrays(seen, pool, relative=True) | {name: told[name] for name in TEXTS}
        parts.append({name: array for name, array in arrays.items() if not name.endswith("_document")})
        places |= {(seen.name, int(feature)): start + row for row, feature in enumerate(seen.features_F)}
        start += len(seen.features_F)
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    own = [places[item.point, item.feature] for item in items]
    return Shown(
        arrays={name: array[own] for name, array in together.items()},
        rows=pool.numbers_NT.astype(np.uint32),
        strings=list(texts.strings),
        tokens=np.full(len(items), observed[0].tokens),
        size={"before": SHAPE.before, "after": SHAPE.after},
    )
