"""What the vectors of a dictionary are to each other: lengths, cosines, and three kinds of vectors.

"Normalizing Sparse Autoencoders" (Hu, 2024) finds in dictionaries whose vectors have free norms many short *correction*
vectors, some long *pillars*, and *directions*, which stand there in several norms. What is short, long and the same
direction depends on the language model there; these definitions are ours:

- a feature *adds* its mean activation where it fires times the norm of its decoder vector: the length of what it adds
  to a reconstruction, which means the same in every architecture;
- a correction vector adds less than `CORRECTION` of the inputs' mean norm;
- pillars are the tenth of the dictionary that adds most, but at most `PILLARS` vectors (the study's number);
- a direction vector has another one in the dictionary at a cosine above `DIRECTION`.

Features that fired on none of the held-out tokens are left out of everything.

Axes: F features of the dictionary, A those that fired, C those of them that are compared with all A, D width, H bins.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

CORRECTION, PILLARS, DIRECTION = 0.05, 100, 0.9
COMPARED = 4096  # C at most: features whose cosines with all others are computed, drawn from larger dictionaries
BINS = 200  # H: of cosines from -1 to 1
NOBODY = -1  # the number of a vector that only fills up
CHUNK_BYTES = 32 << 20  # of one float32 array of cosines, and of the vectors that are on the device with it


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """Of one autoencoder's features that fired. All arrays are numpy's.

    Attributes:
        features: F.
        input_norm: mean norm of the site's activations.
        norm_A: norm of the decoder vector.
        added_A: mean length of what the feature adds where it fires.
        nearest_C: largest cosine with another decoder vector, of the compared features; nan where there is no other.
        cosine_H: pairs of a compared feature and another one, by cosine, int64.
        pillar_cosine_H: pairs of pillars, by cosine, int64.
        correction: share of the A features that are correction vectors.
        direction: share of the C features that are direction vectors.
        pillars: how many there are.
        pillar_direction: share of the compared pillars that are direction vectors; nan where none was compared.
        correction_direction: share of the compared correction vectors that are direction vectors.
        always: share of the A features that fire on more than 99 of 100 tokens (a bounded one may be stuck there).
        correction_below, direction_above, most_pillars: the limits.
    """

    features: int
    input_norm: float
    norm_A: np.ndarray
    added_A: np.ndarray
    nearest_C: np.ndarray
    cosine_H: np.ndarray
    pillar_cosine_H: np.ndarray
    correction: float
    direction: float
    pillars: int
    pillar_direction: float
    correction_direction: float
    always: float
    correction_below: float = CORRECTION
    direction_above: float = DIRECTION
    most_pillars: int = PILLARS

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, for a file."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}


def look(
    W_dec_FD: np.ndarray, density_F: np.ndarray, strength_F: np.ndarray, input_norm: float, *, seed: int = 0
) -> Dictionary:
    """Looks at the dictionary of an autoencoder that takes raw activations.

    Args:
        W_dec_FD: decoder vectors.
        density_F: the share of held-out tokens on which each feature fired.
        strength_F: the mean of |f| where it fired.
        input_norm: the mean norm of the activations, in the units of W_dec.
        seed: of the choice of the compared features, where there are more than `COMPARED`.
    """
    alive_A = np.flatnonzero(np.asarray(density_F) > 0)
    vectors_AD = np.asarray(W_dec_FD, np.float32)[alive_A]
    norm_A = np.linalg.norm(vectors_AD.astype(np.float64), axis=1)
    added_A = norm_A * np.asarray(strength_F, np.float64)[alive_A]
    order_A = np.argsort(-added_A, kind="stable")
    pillars = min(PILLARS, -(-len(alive_A) // 10))
    compared_C = np.arange(len(alive_A))
    if len(compared_C) > COMPARED:
        compared_C = np.sort(np.random.default_rng(seed).choice(len(alive_A), COMPARED, replace=False))
    unit_AD = (vectors_AD / np.where(norm_A > 0, norm_A, 1)[:, None]).astype(np.float32)
    nearest_C, cosine_H = _cosines(unit_AD, compared_C)
    pillar_AD = unit_AD[order_A[:pillars]]
    _, pillar_cosine_H = _cosines(pillar_AD, np.arange(pillars))

    corrects_A = added_A < CORRECTION * input_norm
    is_pillar_A = np.zeros(len(alive_A), bool)
    is_pillar_A[order_A[:pillars]] = True
    directs_C = nearest_C > DIRECTION
    return Dictionary(
        features=len(W_dec_FD),
        input_norm=float(input_norm),
        norm_A=norm_A,
        added_A=added_A,
        nearest_C=nearest_C,
        cosine_H=cosine_H,
        pillar_cosine_H=pillar_cosine_H,
        correction=_share(corrects_A),
        direction=_share(directs_C),
        pillars=pillars,
        pillar_direction=_share(directs_C[is_pillar_A[compared_C]]),
        correction_direction=_share(directs_C[corrects_A[compared_C]]),
        always=_share(np.asarray(density_F)[alive_A] > 0.99),
    )


def _share(yes: np.ndarray) -> float:
    return float(np.mean(yes)) if len(yes) else float("nan")


def _cosines(unit_AD: np.ndarray, compared_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each compared vector the largest cosine with another, [C]; of all such pairs the histogram, int64 [H]."""
    histogram_H = np.zeros(BINS, np.int64)
    if len(unit_AD) < 2:  # there is no other
        return np.full(len(compared_C), np.nan), histogram_H
    nearest_C = np.full(len(compared_C), -np.inf)
    block = max(1, min(len(unit_AD), CHUNK_BYTES // (4 * unit_AD.shape[1])))  # a device never has all of a large one
    chunk = max(1, min(len(compared_C), CHUNK_BYTES // (4 * max(block, unit_AD.shape[1]))))
    for first in range(0, len(unit_AD), block):
        other_A = np.arange(first, first + block)
        other_A[len(unit_AD) - first :] = NOBODY  # one shape, one program
        block_AD = jnp.asarray(unit_AD[np.maximum(other_A, 0)])
        for start in range(0, len(compared_C), chunk):
            some_C = compared_C[start : start + chunk]
            padded_C = np.pad(some_C, (0, chunk - len(some_C)), constant_values=NOBODY)
            found = _chunk(unit_AD[np.maximum(padded_C, 0)], padded_C, block_AD, other_A)
            highest_C, counts_H = jax.device_get(found)
            here_C = nearest_C[start : start + chunk]
            here_C[:] = np.maximum(here_C, highest_C[: len(some_C)])
            histogram_H += counts_H.astype(np.int64)
    return nearest_C, histogram_H


@jax.jit
def _chunk(some_CD, chosen_C, block_AD, other_A) -> tuple[jax.Array, jax.Array]:
    """Of some vectors the largest cosine with another one of a block, and the histogram of all; by their numbers."""
    with jax.default_matmul_precision("highest"):  # accelerators round the operands by default
        cosine_CA = some_CD @ block_AD.T
    other_CA = (chosen_C[:, None] != other_A) & (chosen_C[:, None] >= 0) & (other_A >= 0)
    bin_CA = jnp.clip(((cosine_CA + 1) * (BINS / 2)).astype(jnp.int32), 0, BINS - 1)
    counts_H = jnp.bincount(jnp.where(other_CA, bin_CA, BINS).ravel(), length=BINS + 1)[:BINS]
    return jnp.where(other_CA, cosine_CA, -2).max(1), counts_H
