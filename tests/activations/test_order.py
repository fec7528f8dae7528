import numpy as np
import pytest

from gsae.activations.order import RowOrder, permutation
from gsae.errors import SettingError


def test_a_permutation_is_a_function_of_its_arguments_for_ever():
    assert permutation(8, 3, 1, 2).tolist() == permutation(8, 3, 1, 2).tolist()
    assert sorted(permutation(1000, 0, 1).tolist()) == list(range(1000))
    others = [permutation(50, *key).tolist() for key in [(3, 1, 2), (4, 1, 2), (3, 2, 2), (3, 1, 3), (3, 1, 2, 0)]]
    assert len({tuple(order) for order in others}) == len(others)
    # Stores on disk and interrupted runs depend on this very order.
    assert permutation(8, 3, 1, 2).tolist() == GOLDEN


GOLDEN = [4, 3, 5, 0, 6, 1, 7, 2]


def test_superblocks_cut_the_permuted_row_stream(token_store):
    order = RowOrder(token_store, 100, seed=1)
    ids = permutation(token_store.num_sequences, 1, 0)
    stream = [(int(s), int(p)) for s in ids for p in np.flatnonzero(token_store.mask([s])[0])]
    assert order.rows_found == len(stream)
    assert order.num_superblocks == len(stream) // 100 > 20
    for k in range(order.num_superblocks):
        found = order.provenance(k)
        rows = list(zip(found["sequence_id"].tolist(), found["position"].tolist(), strict=True))
        assert sorted(rows) == sorted(stream[k * 100 : (k + 1) * 100])
        assert rows != stream[k * 100 : (k + 1) * 100]
        np.testing.assert_array_equal(found["token_id"], [token_store.tokens[row] for row in rows])


def test_no_special_token_and_no_first_position(token_store):
    order = RowOrder(token_store, 64, seed=0)
    found = [order.provenance(k) for k in range(order.num_superblocks)]
    assert not np.isin(np.concatenate([f["token_id"] for f in found]), [0, 5]).any()
    assert np.concatenate([f["position"] for f in found]).min() == 1


def test_a_superblock_may_be_smaller_than_a_sequence(token_store):
    order = RowOrder(token_store, 4, seed=0)
    whole = RowOrder(token_store, 64, seed=0)
    small = {(int(s), int(p)) for k in range(16) for s, p in zip(*_places(order, k), strict=True)}
    assert small == set(zip(*_places(whole, 0), strict=True))


def _places(order, k):
    found = order.provenance(k)
    return found["sequence_id"].tolist(), found["position"].tolist()


def test_the_cap_takes_the_beginning_of_the_same_stream(token_store):
    capped, whole = (RowOrder(token_store, 64, seed=0, max_rows=rows) for rows in (200, None))
    assert (capped.num_superblocks, capped.rows_found) == (3, 200)
    for k in range(3):
        np.testing.assert_equal(capped.provenance(k), whole.provenance(k))


@pytest.mark.parametrize(
    ("rows", "cap", "named"),
    [
        (10**6, None, "config.activations.superblock_rows = 1000000: must be at most the "),
        (0, None, "config.activations.superblock_rows = 0"),
        (64, 63, "config.activations.rows = 63: must be at least"),
    ],
)
def test_wrong_numbers_are_named(token_store, rows, cap, named):
    with pytest.raises(SettingError, match=named):
        RowOrder(token_store, rows, seed=0, max_rows=cap)
