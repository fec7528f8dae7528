"""Which points and features are rated: alike, at random, blinded, and the same again by the same seed."""

import numpy as np
import pytest

from gsae.errors import SettingError
from gsae.study.draw import Candidate, alike, draw


def candidate(kind, loss_recovered, *, l0=10.0, site="mlp_out", layer=0, fired=20, model="m"):
    name = f"{kind}-{site}.{layer}-{loss_recovered}"
    metrics = {"loss_recovered": loss_recovered, "l0": l0}
    return Candidate(model, site, layer, kind, 0, name, metrics, np.arange(fired) * 3)


def test_points_of_a_place_are_alike():
    there = [candidate("new", value) for value in (0.5, 0.8, 0.95)] + [
        candidate("old", value) for value in (0.7, 0.85, 0.9)
    ]
    assert [each.metrics["loss_recovered"] for each in alike(there, "loss_recovered", None)] == [0.8, 0.85]
    assert [each.metrics["loss_recovered"] for each in alike(there, "loss_recovered", 0.93)] == [0.95, 0.9]
    by_l0 = [candidate("new", 0.5, l0=2), candidate("new", 0.6, l0=50), candidate("old", 0.5, l0=9)]
    assert [each.metrics["l0"] for each in alike(by_l0, "l0", 12.0)] == [
        50,
        9,
    ]  # 12 is nearer to 50 than to 2, as a ratio


def test_places_without_two_kinds_are_left_out():
    there = [candidate("new", 0.5), candidate("old", 0.5), candidate("new", 0.5, layer=1)]
    assert {each.layer for each in alike(there, "loss_recovered", None)} == {0}
    with pytest.raises(SettingError, match="no site has points of two kinds"):
        alike(there[:1], "loss_recovered", None)
    with pytest.raises(SettingError, match="no site has points of two kinds"):
        alike([], "loss_recovered", None)


def test_every_rater_has_own_features_in_an_order_that_says_nothing():
    points = [candidate(kind, 0.5, site=site) for kind in ("new", "old") for site in ("mlp_out", "attn_z")]
    items = draw(points, raters=3, features=4, seed=1)
    assert items == draw(points, raters=3, features=4, seed=1) != draw(points, raters=3, features=4, seed=2)
    assert len({(item.point, item.feature) for item in items}) == len(items) == 3 * 4 * 4
    for rater in ("rater-1", "rater-2", "rater-3"):
        own = [item for item in items if item.rater == rater]
        assert [item.name for item in own] == [str(place + 1) for place in range(16)]
        for point in points:
            assert sum(item.point == point.point for item in own) == 4
    assert all(item.feature % 3 == 0 for item in items), "only features that have fired"
    firsts = [draw(points, raters=1, features=4, seed=seed)[0].kind for seed in range(40)]
    assert 8 < firsts.count("new") < 32


def test_too_few_features():
    points = [candidate("new", 0.5, fired=5), candidate("old", 0.5)]
    with pytest.raises(SettingError, match=r"--features = 2: for 3 raters needs 6 features that fire; new-.* \(5\)"):
        draw(points, raters=3, features=2, seed=0)
