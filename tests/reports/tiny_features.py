"""Features of a made-up autoencoder on made-up text, as the pass over real text gives them. Used by several tests."""

import numpy as np

from gsae.evaluation.directions import Directions
from gsae.evaluation.features import BINS
from gsae.evaluation.observed import NONE, Examples, Observed, Shape
from gsae.reports.feature_data import TextPool

SHAPE = Shape(strongest=3, drawn=8, before=3, after=2)
HOSTILE = "<img src=x onerror=\"document.title='owned'\">", "</script><script>document.title='owned'</script>", "<!--"
STRINGS = ["", " the", " cat", "\n", "\u202egnaw", "é", *HOSTILE, "&amp;", "\u2028", "'\"`${1}`"]
T = 12


class Texts:
    """A table of strings whose token ids are its numbers."""

    strings = STRINGS

    def of_ids(self, ids):
        return np.asarray(ids, np.uint32)


def pool(rows=6):
    numbers = np.random.default_rng(0).integers(1, len(STRINGS), (rows, T)).astype(np.uint32)
    numbers[:, 5] = 6 + np.arange(rows) % len(HOSTILE)  # where the first examples of every feature are
    return TextPool(np.arange(rows) * 10, numbers, np.repeat([[0], [1]], rows // 2, axis=0) * np.ones((1, T), np.int32))


def examples(generator, features, count, rows=6):
    window = generator.random((features, count, SHAPE.window)) * (
        generator.random((features, count, SHAPE.window)) < 0.4
    )
    value = -np.sort(-generator.random((features, count)) - 1, axis=1)
    window[..., SHAPE.before] = value
    position = generator.integers(1, T, (features, count))
    position[:, 0] = 5
    sequence = generator.integers(0, rows, (features, count)) * 10
    return Examples(*(array.astype(kind) for array, kind in zip(
        (value, sequence, position, window), (np.float32, np.int32, np.int32, np.float32), strict=True
    )))  # fmt: skip


def observed(name="first", features=7, all_features=9, seed=0):
    """Feature 1 of them never fired; feature 2 has two examples of each kind only."""
    generator = np.random.default_rng(seed)
    strongest, drawn = (examples(generator, features, count) for count in (SHAPE.strongest, SHAPE.drawn))
    for kind in (strongest, drawn):
        for row, first in ((1, 0), (2, 2)):
            kind.sequence_FK[row, first:] = NONE
            kind.value_FK[row, first:] = 0
            kind.window_FKW[row, first:] = 0
    fired = 3 + np.arange(features) * 10
    fired[1] = 0
    histogram = np.zeros((features, BINS), np.int64)
    histogram[:, 40], histogram[:, 50] = fired - fired // 2, fired // 2
    return Observed(
        name=name, site="mlp_out.1", shape=SHAPE,
        features_F=np.sort(generator.choice(all_features, features, replace=False)), tokens=1000, l0=4.5,
        fired_F=fired, total_F=fired * 1.25, l0_with_F=np.where(fired > 0, 5.0, np.nan), histogram_FH=histogram,
        bin_width_F=np.full(features, 2 / BINS), strongest=strongest, drawn=drawn,
    )  # fmt: skip


def directions(seen, seed=0):
    generator, features = np.random.default_rng(seed), len(seen.features_F)
    ids = generator.integers(1, len(STRINGS), (features, 4))
    return Directions(
        norm_F=1 + np.arange(features) / 10, cosine_F=np.linspace(-1, 1, features),
        nearest_FN=np.tile(seen.features_F[:2], (features, 1)), nearest_cosine_FN=np.full((features, 2), 0.5),
        promoted_FN=ids, promoted_logit_FN=np.full((features, 4), 2.0),
        suppressed_FN=ids[:, ::-1], suppressed_logit_FN=np.full((features, 4), -2.0), how="By <b>hand</b>.",
    )  # fmt: skip
