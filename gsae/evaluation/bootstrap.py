"""Loss recovered, and how sure one can be of it: a bootstrap over documents, whose tokens are not independent."""

import math

import numpy as np


def loss_recovered(clean: float, spliced: float, zero: float) -> float:
    """1 - (spliced - clean) / (zero - clean), of three means or sums over the same tokens; nan for no denominator."""
    if zero == clean:
        return math.nan
    return 1 - (spliced - clean) / (zero - clean)


def loss_recovered_standard_error(
    clean: np.ndarray, spliced: np.ndarray, zero: np.ndarray, *, samples: int, seed: int
) -> float:
    """Standard deviation of loss recovered over bootstrap samples of the documents (Efron 1979).

    Each sample draws as many documents as there are, with replacement, and takes the ratio of its own means. All three
    sums of a document run over the same tokens, so that the numbers of tokens cancel. The draws depend on the seed and
    the number of documents alone: members of one evaluation are judged by the same samples.

    Args:
        clean: cross-entropy summed over each document's targets, [documents].
        spliced: the same with the reconstruction spliced in.
        zero: the same with zeros spliced in.
        samples: how many samples.
        seed: of the draws.

    Returns:
        The standard error; nan with fewer than two documents or samples.
    """
    documents = len(clean)
    if documents < 2 or samples < 2:
        return math.nan
    sums = np.stack([clean, spliced, zero], axis=1).astype(np.float64)
    draws = np.random.default_rng(seed)
    replicates = []
    for _ in range(samples):
        times = np.bincount(draws.integers(documents, size=documents), minlength=documents)
        replicates.append(loss_recovered(*(times @ sums)))
    finite = np.asarray(replicates)[np.isfinite(replicates)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
