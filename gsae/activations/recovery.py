"""How much of a known dictionary an autoencoder has found. Pure functions; G true features, F learned ones, R rows."""

import numpy as np
from scipy.optimize import linear_sum_assignment


def cosine_similarity(dictionary_GD: np.ndarray, learned_FD: np.ndarray) -> np.ndarray:
    """Cosine of every true with every learned vector, [G, F]; 0 with a vector of zeros."""
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (dictionary_GD, learned_FD)]
    return unit[0] @ unit[1].T


def mean_max_cosine_similarity(dictionary_GD: np.ndarray, learned_FD: np.ndarray, signed: bool = False) -> float:
    """Mean over true features of the cosine with the nearest learned one; 1 when all are found.

    `signed`: learned features that may be negative have found a vector as well when they hold its opposite.

    Source: Sharkey, Braun and Millidge 2022, "Taking features out of superposition with sparse autoencoders".
    """
    return float(_likeness(dictionary_GD, learned_FD, signed).max(axis=1).mean())


def _likeness(dictionary_GD: np.ndarray, learned_FD: np.ndarray, signed: bool) -> np.ndarray:
    cosine_GF = cosine_similarity(dictionary_GD, learned_FD)
    return np.abs(cosine_GF) if signed else cosine_GF


def match(dictionary_GD: np.ndarray, learned_FD: np.ndarray, signed: bool = False) -> np.ndarray:
    """The one-to-one assignment with the largest sum of cosines: for every true feature the learned one, or -1. [G].

    `signed`: of the cosines' sizes, for learned features that may be negative.
    """
    true, learned = linear_sum_assignment(_likeness(dictionary_GD, learned_FD, signed), maximize=True)
    matched_G = np.full(len(dictionary_GD), -1)
    matched_G[true] = learned
    return matched_G


def firing_f1(fires_RG: np.ndarray, learned_fires_RF: np.ndarray, matched_G: np.ndarray) -> float:
    """Mean over true features that fire of the F1 score of the matched feature's firing; 0 where none is matched.

    Args:
        fires_RG: whether each true feature fires (anything that is nonzero does).
        learned_fires_RF: the same of the learned features, on the same rows.
        matched_G: `match`.
    """
    true_RG = fires_RG != 0
    learned_RG = (learned_fires_RF != 0)[:, matched_G] & (matched_G >= 0)
    both = (true_RG & learned_RG).sum(axis=0)
    either = true_RG.sum(axis=0) + learned_RG.sum(axis=0)
    scored = true_RG.any(axis=0)
    if not scored.any():
        raise ValueError("no true feature fires in these rows")
    return float((2 * both[scored] / either[scored]).mean())
