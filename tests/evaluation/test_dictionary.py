"""Lengths and cosines against plain float64; three kinds of vectors in a dictionary that is made to have them."""

import numpy as np
import pytest

from gsae.evaluation import dictionary
from gsae.evaluation.dictionary import BINS, look


def made():
    """40 features that fire in 64 dimensions, orthogonal but for one pair of directions; 4 pillars; 8 corrections."""
    W_FD = np.eye(50, 64)
    W_FD[7] = 3 * (W_FD[6] + 0.1 * W_FD[45])  # the same direction in another norm
    W_FD[:4] *= 20
    W_FD[20:28] *= 0.01
    density_F = np.where(np.arange(50) < 40, 0.2, 0.0)
    density_F[9] = 0.999
    strength_F = np.where(density_F > 0, 0.5, np.nan)
    return W_FD, density_F, strength_F


def test_the_three_kinds():
    found = look(*made(), input_norm=2.0)
    assert found.features == 50 and len(found.norm_A) == 40 and found.pillars == 4
    np.testing.assert_allclose(found.added_A[:4], 10)
    assert found.correction == 8 / 40 and found.direction == 2 / 40 and found.always == 1 / 40
    assert found.pillar_direction == 0 and found.correction_direction == 0
    W_FD, density_F, strength_F = made()
    W_FD[7] *= 100  # now a pillar, in the place of one of the four
    found = look(W_FD, density_F, strength_F, input_norm=2.0)
    assert found.pillar_direction == 1 / 4 and found.pillars == 4


def test_cosines_equal_all_pairs_in_float64(monkeypatch):
    random = np.random.default_rng(0)
    W_FD, density_F = random.normal(size=(70, 5)), np.ones(70)
    unit = W_FD / np.linalg.norm(W_FD, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    monkeypatch.setattr(dictionary, "CHUNK_BYTES", 4 * 5 * 32)  # several chunks and blocks, the last ones padded
    found = look(W_FD, density_F, density_F, input_norm=1.0)
    np.testing.assert_allclose(found.nearest_C, cosines.max(1), atol=1e-6)
    expected_H = np.histogram(cosines[cosines > -2], np.linspace(-1, 1, BINS + 1))[0]
    assert found.cosine_H.sum() == 70 * 69 and np.abs(found.cosine_H - expected_H).sum() <= 8  # at edges, by rounding
    assert found.pillar_cosine_H.sum() == 7 * 6
    monkeypatch.setattr(dictionary, "COMPARED", 20)
    some = look(W_FD, density_F, density_F, input_norm=1.0, seed=1)
    assert some.cosine_H.sum() == 20 * 69 and set(np.round(some.nearest_C, 5)) <= set(np.round(found.nearest_C, 5))


@pytest.mark.parametrize("alive", [0, 1])
def test_dictionaries_without_pairs_break_nothing(alive):
    density_F = np.arange(6) < alive
    found = look(np.eye(6), density_F, np.ones(6), input_norm=1.0)
    assert len(found.norm_A) == alive and found.cosine_H.sum() == 0
    assert found.arrays().keys() >= {"norm_A", "pillar_direction", "input_norm"}
