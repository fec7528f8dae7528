"""What the pass over held-out text leaves of features: examples, histograms, sums.

Axes: A all features of an autoencoder, F those that are looked at, K examples, W positions of an example's window, H
bins.
"""

import dataclasses
from typing import Any

import flax.struct
import numpy as np

NONE = -1  # the sequence of an example that there is not


@dataclasses.dataclass(frozen=True)
class Shape:
    """How much is kept of each feature.

    Attributes:
        strongest: examples with the largest activations.
        drawn: examples drawn from all firings, in proportion to their activations.
        before, after: positions of an example's window around its own.
    """

    strongest: int = 12
    drawn: int = 40
    before: int = 24
    after: int = 8

    @property
    def window(self) -> int:
        """W."""
        return self.before + 1 + self.after


@flax.struct.dataclass
class Examples:
    """K examples of each feature, best first.

    Attributes:
        value_FK: the activation, with its sign.
        sequence_FK: in the store; `NONE` where there are fewer examples.
        position_FK: in the sequence.
        window_FKW: the feature's activations from `before` positions earlier to `after` later; 0 where it is silent,
            where a position does not count, and beyond the sequence.
    """

    value_FK: Any
    sequence_FK: Any
    position_FK: Any
    window_FKW: Any


@dataclasses.dataclass(frozen=True)
class Observed:
    """What the features of one member did on the text. All arrays are numpy's.

    Attributes:
        name, site: of the member.
        shape: of what was kept.
        features_F: which features these are.
        tokens: how many tokens counted.
        l0: mean number of features, of all A, that fire on a token.
        fired_F: on how many tokens each fired.
        total_F: sum of the sizes of its activations.
        l0_with_F: mean number of features that fire where it fires, itself included; nan where it never fired.
        histogram_FH: firings by the size of the activation, int64.
        bin_width_F: of its histogram's bins; bin h holds activations from h to h + 1 times that.
        strongest: by the size of the activation.
        drawn: by size too.
    """

    name: str
    site: str
    shape: Shape
    features_F: np.ndarray
    tokens: int
    l0: float
    fired_F: np.ndarray
    total_F: np.ndarray
    l0_with_F: np.ndarray
    histogram_FH: np.ndarray
    bin_width_F: np.ndarray
    strongest: Examples
    drawn: Examples

    @property
    def density_F(self) -> np.ndarray:
        """The share of tokens on which each feature fires."""
        return self.fired_F / max(self.tokens, 1)

    @property
    def max_F(self) -> np.ndarray:
        """The size of the largest activation; 0 for a feature that never fired."""
        return np.abs(self.strongest.value_FK[:, 0])
