import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsae.evaluation.frontier import area_between, compare, frontier, levels_between, pareto_set, usable
from gsae.evaluation.quality import FVU, LOSS_RECOVERED, quality_of


def row(architecture, l0, loss_recovered, **more):
    return {"architecture": architecture, "l0": l0, "loss_recovered": loss_recovered, **more}


coordinates = st.tuples(st.floats(0.01, 1e4), st.floats(-0.5, 1.0))
clouds = st.lists(coordinates, min_size=2, max_size=12)


def rows_of(name, cloud, **more):
    return [row(name, l0, value, **more) for l0, value in cloud]


def test_pareto_set_leaves_out_what_is_beaten_equal_or_failed():
    rows = [
        row("a", 10, 0.8),
        row("a", 5, 0.6),
        row("a", 12, 0.79),  # beaten by the first
        row("a", 10, 0.7),  # as dense, recovers less
        row("a", 9, 0.6),  # beaten by the second
        row("a", 10, 0.8, note="copy"),
        row("a", 1, 0.99, status="not finite"),
        row("a", math.nan, 0.9),
        row("a", 0, 0.9),
        row("a", "", ""),
        row("a", None, 0.9),
        {"architecture": "a", "status": "pending"},
    ]
    assert pareto_set(rows) == [rows[1], rows[0]]
    assert len(usable(rows)) == 6


def test_ratio_is_interpolated_in_log_l0_at_multiples_of_the_step():
    rows = rows_of("base", [(10, 0.5), (1000, 0.7)]) + rows_of("new", [(2, 0.45), (200, 0.65)])
    result = compare(rows, "base", "new")
    assert [level.value for level in result.levels] == [0.5, 0.55, 0.6, 0.65]
    # Both rise by a factor of 100 per .2 of loss recovered and stand .05 and a factor of 5 apart: constant ratio.
    expected = 10 / (2 * 100 ** (0.05 / 0.2))
    np.testing.assert_allclose([level.ratio for level in result.levels], expected)
    np.testing.assert_allclose(result.median_ratio, expected)
    np.testing.assert_allclose(result.area, math.log(expected))
    np.testing.assert_allclose(result.levels[2].baseline_l0, 100)


def test_area_is_exact_between_corners():
    base, new = frontier(rows_of("b", [(1, 0.0), (math.e, 1.0)])), frontier(rows_of("n", [(1, 0.0), (1.0000001, 0.5)]))
    assert area_between(base, new) == pytest.approx(0.25, abs=1e-6)
    assert math.isnan(area_between(base, frontier([])))


def test_no_common_range_gives_no_levels():
    result = compare(rows_of("base", [(1, 0.1), (2, 0.3)]) + rows_of("new", [(1, 0.5), (2, 0.9)]), "base", "new")
    assert result.levels == () and math.isnan(result.median_ratio) and math.isnan(result.area)
    assert compare([], "base", "new").levels == ()


def test_seeds_are_paired_and_give_bands():
    rows = []
    for seed, factor in ((0, 2.0), (1, 4.0)):
        rows += rows_of("base", [(10 * factor, 0.5), (20 * factor, 0.7)], seed=seed)
        rows += rows_of("new", [(10, 0.5), (20, 0.7)], seed=seed)
    level = compare(rows, "base", "new").levels[0]
    assert (level.low, level.high, level.ratio) == pytest.approx((2, 4, math.sqrt(8)))
    assert level.pairs == 2
    # Without a seed in common every frontier meets every other.
    apart = [r for r in rows if (r["architecture"] == "base") == (r["seed"] == 0)]
    apart += rows_of("new", [(5, 0.5), (10, 0.7)], seed=2)
    level = compare(apart, "base", "new").levels[0]
    assert level.pairs == 2 and (level.low, level.high) == pytest.approx((2, 4))


def test_a_level_that_one_seed_does_not_reach_says_so():
    rows = rows_of("base", [(10, 0.5), (20, 0.7)], seed=0) + rows_of("base", [(10, 0.5), (20, 0.6)], seed=1)
    rows += rows_of("new", [(5, 0.5), (10, 0.7)], seed=0) + rows_of("new", [(5, 0.5), (10, 0.7)], seed=1)
    assert [level.pairs for level in compare(rows, "base", "new").levels] == [2, 2, 2, 1, 1]


def test_sites_are_not_mixed():
    rows = [row("base", 1, 0.5, layer=1, site="mlp_out"), row("new", 1, 0.5, layer=2, site="mlp_out")]
    with pytest.raises(ValueError, match="one site at a time"):
        compare(rows, "base", "new")


def test_levels_are_multiples_of_the_step_including_the_ends():
    assert levels_between(0.6, 0.75) == [0.6, 0.65, 0.7, 0.75]
    assert levels_between(0.601, 0.649) == []
    assert levels_between(-0.06, 0.04) == [-0.05, 0.0]
    assert levels_between(1, 0) == []
    with pytest.raises(ValueError, match="above zero"):
        levels_between(0, 1, 0)


@settings(deadline=None)
@given(clouds)
def test_ratio_with_itself_is_one(cloud):
    result = compare(rows_of("a", cloud), "a", "a")
    assert all(level.ratio == 1 for level in result.levels)
    assert math.isnan(result.area) or result.area == 0


@settings(deadline=None)
@given(clouds, clouds, st.floats(0.1, 10))
def test_scaling_l0_scales_ratios(first, second, factor):
    plain = compare(rows_of("a", first) + rows_of("b", second), "a", "b")
    scaled = compare(rows_of("a", [(l0 * factor, v) for l0, v in first]) + rows_of("b", second), "a", "b")
    np.testing.assert_allclose([x.ratio * factor for x in plain.levels], [x.ratio for x in scaled.levels], rtol=1e-9)
    np.testing.assert_allclose(plain.area + math.log(factor), scaled.area, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(clouds, st.data())
def test_dominated_points_change_nothing(cloud, data):
    rows = rows_of("a", cloud)
    l0, value = data.draw(st.sampled_from(cloud))
    worse = row("a", l0 * data.draw(st.floats(1, 5)), value - data.draw(st.floats(0, 0.5)))
    place = data.draw(st.integers(0, len(rows)))
    assert frontier([*rows[:place], worse, *rows[place:]]) == frontier(rows)


@settings(deadline=None)
@given(clouds, clouds)
def test_nothing_is_extrapolated_and_frontiers_increase(first, second):
    one, two = frontier(rows_of("a", first)), frontier(rows_of("b", second))
    for line in (one, two):
        assert list(line.l0) == sorted(set(line.l0))
        assert list(line.values) == sorted(set(line.values))
        assert math.isnan(line.l0_at(line.values[-1] + 1e-6))
        assert math.isnan(line.l0_at(line.values[0] - 1e-6))
    for level in compare(rows_of("a", first) + rows_of("b", second), "a", "b").levels:
        for line, l0 in ((one, level.baseline_l0), (two, level.other_l0)):
            assert line.values[0] <= level.value <= line.values[-1]
            assert line.l0[0] * (1 - 1e-9) <= l0 <= line.l0[-1] * (1 + 1e-9)


@settings(deadline=None)
@given(clouds, clouds)
def test_swapping_the_two_inverts_the_ratios(first, second):
    rows = rows_of("a", first) + rows_of("b", second)
    one, two = compare(rows, "a", "b"), compare(rows, "b", "a")
    np.testing.assert_allclose([x.ratio for x in one.levels], [1 / x.ratio for x in two.levels], rtol=1e-9)


def fvu_rows(name, cloud, **more):
    return [{"architecture": name, "l0": l0, "loss_recovered": None, "fvu": value, **more} for l0, value in cloud]


def test_without_loss_recovered_it_is_fvu_and_less_is_better():
    rows = fvu_rows("a", [(10, 0.2), (5, 0.4), (12, 0.21), (9, 0.4), (100, 0.1)])
    assert quality_of(rows) == FVU
    assert pareto_set(rows) == [rows[1], rows[0], rows[4]]
    line = frontier(rows)
    assert line.l0 == (5, 10, 100) and line.values == (0.4, 0.2, 0.1)
    assert line.l0_at(0.3) == pytest.approx(math.sqrt(50)) and line.l0_at(0.1) == 100
    assert math.isnan(line.l0_at(0.41)) and math.isnan(line.l0_at(0.09))
    assert quality_of([*rows, row("a", 1, 0.5)]) == LOSS_RECOVERED  # one judged row, and all must be
    assert quality_of([]) == quality_of([{"architecture": "a", "fvu": math.nan}]) == LOSS_RECOVERED


exact = st.lists(st.tuples(st.floats(0.01, 1e4), st.integers(-512, 1024).map(lambda n: n / 1024)), min_size=2)


@settings(deadline=None)
@given(exact, exact)
def test_fvu_compares_as_the_loss_recovered_that_it_leaves(first, second):
    """FVU = 1 - loss recovered is the same frontier seen from below; 1 - n / 1024 is not rounded."""
    plain = compare(rows_of("a", first) + rows_of("b", second), "a", "b", step=0.25)
    first, second = ([(l0, 1 - value) for l0, value in cloud] for cloud in (first, second))
    other = compare(fvu_rows("a", first) + fvu_rows("b", second), "a", "b", step=0.25)
    assert (plain.quality, other.quality) == (LOSS_RECOVERED, FVU)
    assert [level.value for level in plain.levels] == [1 - level.value for level in reversed(other.levels)]
    ratios = [level.ratio for level in reversed(other.levels)]
    np.testing.assert_allclose([level.ratio for level in plain.levels], ratios, rtol=1e-9)
    np.testing.assert_allclose(plain.area, other.area, rtol=1e-9, atol=1e-12)
