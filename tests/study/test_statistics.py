"""Means, pairs, tests and intervals against cases that were worked out by hand."""

import itertools

import numpy as np
import pytest

from gsae.study.statistics import Rating, compare, differences, means, paired


def rating(kind, points, *, site="mlp_out", layer=0, rater="a", model="m"):
    return Rating(model, site, layer, kind, rater, points)


def test_pratts_test_by_hand():
    """Differences 2, 1, 1, -1, 0: zeros are ranked (1) and left out; ranks of the others are 3, 3, 3 and 5.

    W+ = 5 + 3 + 3 = 11. Of the 16 equally likely signs of 5, 3, 3, 3, those with W+ >= 11 are +5 with at least two of
    the threes: 3 + 1 = 4. So p = 1/4.
    """
    found = compare("x", "new", "old", np.array([2.0, 1, 1, -1, 0]), level=0.9, seed=0)
    ranks = [5, 3, 3, 3]
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=4)
    ]
    assert sum(total >= 11 for total in sums) / 16 == 0.25
    assert found.p == pytest.approx(0.25) and found.mean == pytest.approx(0.6) and found.pairs == 5
    opposite = compare("x", "new", "old", -np.array([2.0, 1, 1, -1, 0]), level=0.9, seed=0)
    assert opposite.p == pytest.approx(sum(total >= 3 for total in sums) / 16)


def test_many_pairs_by_the_normal_approximation():
    """30 differences, 20 of 1 and 10 of -1, and 10 zeros: z by Pratt's mean and Cureton's variance, by hand.

    Ranks: zeros 1 to 10, the others all (11 + 40) / 2 = 25.5. W+ = 20 * 25.5 = 510; its mean 30 * 25.5 / 2 = 382.5;
    its variance 30 * 25.5^2 / 4 = 4876.9 (signs alone are random), so z = 127.5 / 69.83 = 1.826 and p = .0339.
    """
    values = np.array([1.0] * 20 + [-1.0] * 10 + [0.0] * 10)
    assert compare("x", "new", "old", values, level=0.9, seed=0).p == pytest.approx(0.0339, abs=2e-4)


def test_the_interval_is_that_of_bca():
    """Against the formula written out: bias from the share below, acceleration from the jackknife."""
    from scipy.stats import norm

    values = np.array([0.0, 0, 0, 1, 1, 2, -1, 0, 1, 2, 0, 0.5])
    found = compare("x", "new", "old", values, level=0.9, seed=3)
    draws = np.random.default_rng(5).integers(len(values), size=(200_000, len(values)))
    resampled = values[draws].mean(1)
    share = (np.sum(resampled < values.mean()) + 0.5 * np.sum(resampled == values.mean())) / len(resampled)
    left_out = np.array([np.delete(values, i).mean() for i in range(len(values))])
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    bias = norm.ppf(share)
    limits = [
        np.quantile(resampled, norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))))
        for z in norm.ppf([0.05, 0.95])
    ]
    np.testing.assert_allclose(found.interval, limits, atol=0.05)
    assert found.interval[0] < found.mean < found.interval[1] and found.level == 0.9
    wide = compare("x", "new", "old", values, level=0.99, seed=3).interval
    assert wide[0] < found.interval[0] and wide[1] > found.interval[1]


@pytest.mark.parametrize(("values", "p"), [([0.0, 0, 0], 1.0), ([1.0], 0.5), ([1.0, 1, 1], 0.125), ([], None)])
def test_where_there_is_nothing_to_resample(values, p):
    found = compare("x", "new", "old", np.asarray(values), level=0.9, seed=0)
    assert found.interval is None and found.p == p and found.pairs == len(values)


def test_pairs_are_of_one_model_layer_site_and_rater():
    ratings = [
        rating("new", 2), rating("new", 1), rating("old", 0),  # 1.5 - 0
        rating("new", 2, layer=1), rating("old", 2, layer=1),  # 0
        rating("new", 0, rater="b"), rating("old", 1, rater="b"),  # -1
        rating("new", 2, site="attn_z"),  # nobody has rated the other there
        rating("old", 2, model="other"),
    ]  # fmt: skip
    assert sorted(paired(ratings, "new", "old")) == [-1, 0, 1.5]
    assert len(paired([], "new", "old")) == 0


def test_scopes_and_means():
    ratings = [
        rating(kind, points, site=site, rater=str(i))
        for site in ("mlp_out", "attn_z")
        for i, (new, old) in enumerate([(2, 1), (2, 0), (1, 1), (0, 1)])
        for kind, points in (("new", new), ("old", old))
    ]
    found = differences(ratings, "old")
    assert [(each.scope, each.pairs) for each in found] == [("overall", 8), ("mlp_out", 4), ("attn_z", 4)]
    assert all(each.kind == "new" and each.mean == 0.5 for each in found)
    first = means(ratings)[0]
    assert first == {"scope": "overall", "kind": "new", "rated": 8, "no": 2, "maybe": 2, "yes": 4, "mean": 1.25}
    assert [row["scope"] for row in means(ratings)] == ["overall"] * 2 + ["mlp_out"] * 2 + ["attn_z"] * 2
    several = [*ratings, rating("new", 2, model="other"), rating("old", 2, model="other")]
    assert [each.scope for each in differences(several, "old")] == ["overall", "m", "other", "mlp_out", "attn_z"]
