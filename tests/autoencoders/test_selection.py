"""What is selected by counting is what a sort selects, on one device and where rows and features are split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gsae.autoencoders.selection import (
    largest_of_all,
    largest_of_each,
    largest_of_each_feature,
    nearest_to_norm,
)
from gsae.mesh import make_mesh

B, F = 24, 32


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).exponential(size=(B, F)).astype(np.float32) ** 3


def sorted_mask(scores, count):
    """The first `count` of a sort, all over the array."""
    flat = np.zeros(scores.size, bool)
    flat[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return flat.reshape(scores.shape)


@pytest.mark.parametrize("count", [0, 1, 7, F, F + 5])
def test_equal_to_a_sort(scores, count):
    of_each = np.stack([sorted_mask(row, count) for row in scores])
    np.testing.assert_array_equal(jax.jit(largest_of_each)(scores, count), of_each)
    np.testing.assert_array_equal(jax.jit(largest_of_all)(scores, B * count // 2), sorted_mask(scores, B * count // 2))


def test_columns_with_counts_of_their_own_are_equal_to_sorts(scores):
    counts = np.arange(F) - 2
    found = jax.jit(largest_of_each_feature)(scores, counts)
    expected = [sorted_mask(column, max(count, 0)) for column, count in zip(scores.T, counts, strict=True)]
    np.testing.assert_array_equal(found, np.stack(expected, axis=1))


def nearest_by_sorting(row, norm):
    order = np.argsort(-row, kind="stable")
    roots = np.sqrt(np.cumsum(row[order], dtype=np.float64))
    kept = np.zeros(len(row), bool)
    kept[order[: np.argmin(np.abs(roots - norm)) + 1]] = True
    return kept & (row > 0)


def test_the_sum_whose_root_is_nearest_is_that_of_a_sort(scores):
    norms = np.sqrt(scores.sum(1)) * np.linspace(0.05, 1.2, B).astype(np.float32)
    found = np.asarray(jax.jit(nearest_to_norm)(scores, norms))
    np.testing.assert_array_equal(
        found, np.stack([nearest_by_sorting(*pair) for pair in zip(scores, norms, strict=True)])
    )
    counts = found.sum(1)
    assert counts.min() == 1 and counts[-1] == F and len(set(counts)) > 4
    # Equally near: the fewer; nothing is at hand: nothing; ties stay together; nothing is wanted: nothing.
    some = np.array([[4, 5, 0], [0, 0, 0], [2, 2, 1], [1, 0, 0]], np.float32)
    wanted = np.array([(5**0.5 + 3) / 2, 1, 1.2, 0], np.float32)
    np.testing.assert_array_equal(nearest_to_norm(some, wanted), [[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_ties_are_all_kept_and_zeros_never():
    scores = np.array([[3, 1, 1, 1, 0], [0, 0, 2, 0, 0]], np.float32)
    kept = np.array([[1, 1, 1, 1, 0], [0, 0, 1, 0, 0]], bool)
    np.testing.assert_array_equal(largest_of_each(scores, 2), kept)
    np.testing.assert_array_equal(largest_of_all(scores, 2), scores >= 2)
    np.testing.assert_array_equal(largest_of_all(scores, 3), scores >= 1)


def test_extremes_order_as_numbers_do():
    tiny, largest = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    scores = np.array([[tiny, 1e-30, largest, np.inf]], np.float32)
    for count, expected in ((1, [0, 0, 0, 1]), (2, [0, 0, 1, 1]), (4, [1, 1, 1, 1])):
        np.testing.assert_array_equal(largest_of_each(scores, count), [np.array(expected, bool)])


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 8, 1), (1, 1, 8)])
def test_split_over_devices_it_is_the_same_and_no_array_is_gathered(scores, shape):
    mesh = make_mesh(*shape)
    placed = jax.device_put(scores, jax.sharding.NamedSharding(mesh, PartitionSpec("data", "feature")))
    along = {name: jax.sharding.NamedSharding(mesh, PartitionSpec(name)) for name in mesh.axis_names}
    cases = (
        (largest_of_each, jnp.int32(5)),
        (largest_of_all, jnp.int32(100)),
        (largest_of_each_feature, jax.device_put(np.arange(F, dtype=np.int32), along["feature"])),
        (nearest_to_norm, jax.device_put(np.linspace(1, 9, B, dtype=np.float32), along["data"])),
    )
    for select, wanted in cases:
        with jax.set_mesh(mesh):
            program = jax.jit(select).lower(placed, wanted).compile()
        np.testing.assert_array_equal(program(placed, wanted), select(scores, jax.device_get(wanted)))
        assert "all-gather" not in program.as_text() and "all-to-all" not in program.as_text()


def test_nothing_is_differentiated_through_it(scores):
    gradient = jax.grad(lambda x: jnp.where(largest_of_each(x, 3), x, 0).sum())(scores)
    np.testing.assert_array_equal(gradient, np.asarray(largest_of_each(scores, 3), np.float32))
