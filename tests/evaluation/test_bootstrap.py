import math

import numpy as np
import pytest

from gsae.evaluation.bootstrap import loss_recovered, loss_recovered_standard_error


def test_loss_recovered():
    assert loss_recovered(2.0, 2.0, 5.0) == 1
    assert loss_recovered(2.0, 5.0, 5.0) == 0
    assert loss_recovered(2.0, 3.0, 6.0) == 0.75
    assert loss_recovered(2.0, 8.0, 5.0) == -1
    assert math.isnan(loss_recovered(2.0, 2.0, 2.0))


def test_standard_error_of_a_mean():
    # With clean = 0 and zero = 1 in every document, loss recovered is 1 - mean, whose standard error is known.
    spliced = np.random.default_rng(0).gamma(2.0, size=80)
    error = loss_recovered_standard_error(np.zeros(80), spliced, np.ones(80), samples=4000, seed=1)
    assert error == pytest.approx(spliced.std() / math.sqrt(80), rel=0.05)


def test_ratio_is_taken_inside_each_sample():
    # Documents differ wildly in length, but each of them recovers 70 %: there is nothing to be unsure of.
    length = np.random.default_rng(0).lognormal(sigma=2, size=50)
    error = loss_recovered_standard_error(2 * length, 2.9 * length, 5 * length, samples=100, seed=0)
    assert error < 1e-12


def test_standard_error_is_deterministic_and_nan_without_documents():
    clean, spliced, zero = np.random.default_rng(0).random((3, 9)) + np.array([[0], [1], [4]])
    one, two = (loss_recovered_standard_error(clean, spliced, zero, samples=50, seed=3) for _ in range(2))
    assert one == two > 0
    assert math.isnan(loss_recovered_standard_error(clean[:1], spliced[:1], zero[:1], samples=50, seed=3))
    assert math.isnan(loss_recovered_standard_error(clean, spliced, zero, samples=0, seed=3))
