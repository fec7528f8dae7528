import numpy as np
import pytest

from gsae.activations.batches import Batches
from gsae.activations.recovery import firing_f1, match, mean_max_cosine_similarity
from gsae.activations.synthetic import MAGNITUDES, Synthetic
from gsae.errors import SettingError


def make(**changes):
    return Synthetic(
        **{
            "width": 16,
            "dictionary_size": 40,
            "active_per_row": 3,
            "rows": 9000,
            "superblock_rows": 2000,
            "seed": 1,
            **changes,
        }
    )


def test_rows_are_sparse_combinations_of_unit_vectors():
    source = make()
    assert (source.rows, source.num_superblocks, source.width("synthetic")) == (8000, 4, 16)
    np.testing.assert_allclose(np.linalg.norm(source.dictionary, axis=1), 1, rtol=1e-6)
    codes = source.codes(2)
    assert codes.min() >= 0
    assert abs((codes > 0).sum(1).mean() - 3) < 4 * np.sqrt(3 / 2000)
    np.testing.assert_allclose(source.read("synthetic", 2), codes @ source.dictionary, atol=1e-6)
    assert not np.array_equal(source.codes(2), source.codes(1))
    np.testing.assert_array_equal(source.codes(2), make().codes(2))
    assert not np.array_equal(source.codes(2), make(seed=2).codes(2))


@pytest.mark.parametrize("law", MAGNITUDES)
def test_every_law_has_mean_one(law):
    codes = make(magnitude=law, active_per_row=10).codes(0)
    assert abs(codes[codes > 0].mean() - 1) < 0.03


def test_correlation_is_within_groups_and_leaves_the_frequency():
    fires = make(correlation=0.8, correlated=4, active_per_row=8, superblock_rows=9000).codes(0) > 0
    found = np.corrcoef(fires.T)
    group = np.arange(40) // 4
    inside = group[:, None] == group
    assert found[inside & ~np.eye(40, dtype=bool)].min() > 0.4
    assert np.abs(found[~inside]).max() < 0.06
    assert abs(fires.sum(1).mean() - 8) < 0.3


def test_noise_is_added():
    clean, noisy = make(), make(noise=0.25)
    difference = noisy.read("synthetic", 0) - clean.read("synthetic", 0)
    assert abs(difference.std() - 0.25) < 0.005
    assert clean.fingerprint != noisy.fingerprint


def test_statistics_and_batches():
    source = make(noise=0.1)
    rows = np.concatenate([source.read("synthetic", k) for k in range(4)]).astype(np.float64)
    found = source.statistics("synthetic")
    np.testing.assert_allclose(found["mean"], rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["mean_squared_norm"], np.square(rows).sum(1).mean(), rtol=1e-6)
    batches = Batches(source, source.sites, 500, seed=0)
    seen = np.concatenate([batch["synthetic"]["x"] for batch in batches.stream(0, batches.steps_per_epoch)])
    assert sorted(map(bytes, seen)) == sorted(map(bytes, rows.astype(np.float32)))
    numbers = np.concatenate([source.provenance(k)["sequence_id"] for k in range(4)])
    np.testing.assert_array_equal(numbers, np.arange(8000))


@pytest.mark.parametrize(
    "change",
    [{"magnitude": "zipf"}, {"active_per_row": 0}, {"correlation": 1.0}, {"superblock_rows": 10**5}],
)
def test_wrong_values_are_named(change):
    with pytest.raises(SettingError, match=f"{next(iter(change))} = "):
        make(**change)


def test_recovery_of_the_truth_is_one_in_any_order():
    source = make()
    order = np.random.default_rng(0).permutation(40)
    learned = np.concatenate([3 * source.dictionary[order], np.zeros((5, 16))])
    codes = source.codes(0)
    fires = np.concatenate([codes[:, order], np.ones((2000, 5))], axis=1)
    assert mean_max_cosine_similarity(source.dictionary, learned) == pytest.approx(1)
    matched = match(source.dictionary, learned)
    np.testing.assert_array_equal(order[matched], np.arange(40))
    assert firing_f1(codes, fires, matched) == 1


def test_a_signed_feature_has_found_a_vector_with_its_opposite():
    source = make()
    learned = source.dictionary * np.where(np.arange(40) % 2, 1, -1)[:, None]
    assert mean_max_cosine_similarity(source.dictionary, learned) < 0.9
    assert mean_max_cosine_similarity(source.dictionary, learned, signed=True) == pytest.approx(1)
    np.testing.assert_array_equal(match(source.dictionary, learned, signed=True), np.arange(40))


def test_what_is_not_found_lowers_recovery():
    source = make(width=64)
    codes, half = source.codes(0), source.dictionary[:20]
    matched = match(source.dictionary, half)
    np.testing.assert_array_equal(matched[:20], np.arange(20))
    assert (matched[20:] == -1).all()
    assert firing_f1(codes, codes[:, :20], matched) == pytest.approx(0.5)
    nearest = (source.dictionary[20:] @ half.T).max(1).mean()
    assert mean_max_cosine_similarity(source.dictionary, half) == pytest.approx((1 + nearest) / 2, rel=1e-5)
    # A feature that fires twice as often, always when it should: precision 1/2, recall 1, F1 2/3.
    true, learned = np.array([[1.0], [0], [0], [1]]), np.array([[1.0], [1], [1], [1]])
    assert firing_f1(true, learned, np.array([0])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no true feature fires"):
        firing_f1(np.zeros((4, 2)), np.zeros((4, 2)), np.array([0, 1]))
