import threading
import time
import weakref

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny_harvest import make_token_store

from gsae.activations.batches import Batches
from gsae.activations.order import RowOrder
from gsae.activations.store import ActivationStore
from gsae.errors import RunError, SettingError
from gsae.mesh import AXES, make_mesh


class Counting:
    """Superblocks whose rows say which they are: [number of the row over all, the same + 1/2]."""

    sites = ("one", "other")
    fingerprint = "counting"

    def __init__(self, num_superblocks=5, superblock_rows=24):
        self.num_superblocks, self.superblock_rows = num_superblocks, superblock_rows
        self.rows = num_superblocks * superblock_rows
        self.alive, self.most_alive, self.lock = 0, 0, threading.Lock()

    def width(self, site):
        return 8

    def statistics(self, site):
        return {"mean": np.zeros(8), "mean_squared_norm": 1.0}

    def provenance(self, k):
        return {}

    def read(self, site, k):
        rows = np.arange(k * self.superblock_rows, (k + 1) * self.superblock_rows, dtype=np.float32)
        rows = np.tile(rows[:, None], (1, 8)) + (0.5 if site == "other" else 0)
        self._count(1)
        weakref.finalize(rows, self._count, -1)
        return rows

    def _count(self, change):
        with self.lock:
            self.alive += change
            self.most_alive = max(self.most_alive, self.alive)


def numbers(batch):
    x = np.asarray(batch["one"]["x"])
    np.testing.assert_array_equal(np.asarray(batch["other"]["x"]), x + 0.5)  # row r is the same token at every site
    return x[:, 0].astype(int).tolist()


def both(source=None, batch_size=8, seed=0, **options):
    return Batches(source or Counting(), Counting.sites, batch_size, seed, **options)


@pytest.mark.parametrize("prefetch", [1, 2, 7])
def test_the_stream_is_the_batch_of_every_step_whatever_is_prefetched(prefetch):
    batches = both(prefetch=prefetch)
    assert batches.steps_per_epoch == 15
    expected = [numbers(both().at(t)) for t in range(35)]
    assert [numbers(batch) for batch in batches.stream(0, 35)] == expected
    assert [numbers(batch) for batch in batches.stream(13, 31)] == expected[13:31]
    assert list(batches.stream(4, 4)) == []


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    epochs = []
    for epoch in range(4):
        found = [numbers(batch) for batch in both().stream(epoch * 15, (epoch + 1) * 15)]
        epochs.append([row for batch in found for row in batch])
        assert sorted(epochs[-1]) == list(range(120))
        assert all(len({row // 24 for row in batch}) == 1 for batch in found)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [row % 24 for row in epochs[0]] == list(range(24)) * 5  # as stored: the store has permuted them
    inside = {tuple(row % 24 for row in epoch[at : at + 24]) for epoch in epochs[1:] for at in range(0, 120, 24)}
    assert len(inside) == 15
    assert [numbers(b) for b in both(seed=1).stream(0, 15)] != [numbers(b) for b in both().stream(0, 15)]


def test_at_most_two_superblocks_of_a_site_are_in_memory():
    source = Counting(num_superblocks=6)
    kept = []
    for batch in both(source).stream(0, 36):
        kept.append(batch)  # batches that somebody keeps do not keep their superblock
        time.sleep(0.003)
        assert source.most_alive <= 2 * 2
    del batch
    assert source.alive == 0


def test_rows_of_a_store_arrive_in_its_dtype(finished):
    store = ActivationStore.open(finished)
    batches = Batches(store, store.sites, 64, seed=5)
    rows = {site: np.concatenate([store.read(site, k) for k in range(store.num_superblocks)]) for site in store.sites}
    for site in store.sites:
        found = np.concatenate([batch[site]["x"] for batch in batches.stream(0, batches.steps_per_epoch)])
        assert found.dtype == rows[site].dtype
        assert sorted(row.tobytes() for row in found) == sorted(row.tobytes() for row in rows[site])


def test_batches_land_sharded_over_the_mesh():
    mesh = make_mesh(2, 2, 2)
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    plain = both()
    for t, batch in enumerate(both(sharding=sharding).stream(0, 20)):
        assert batch["one"]["x"].sharding == sharding
        assert {shard.data.shape for shard in batch["one"]["x"].addressable_shards} == {(1, 8)}
        assert numbers(batch) == numbers(plain.at(t))
    with pytest.raises(SettingError, match=r"config.training.batch_size = 12: must be a multiple of the 8 devices"):
        both(batch_size=12, sharding=sharding)


def test_wrong_settings_are_named():
    with pytest.raises(SettingError, match=r"config.training.batch_size = 7: .*superblock_rows = 24"):
        both(batch_size=7)
    with pytest.raises(SettingError, match=r"config.sweep = 'third': the activations have one, other"):
        Batches(Counting(), ["third"], 8, 0)


class Broken(Counting):
    def read(self, site, k):
        if k == self.broken and site == "other":
            raise RunError("superblock cannot be read")
        return super().read(site, k)


def test_what_a_reader_raises_reaches_the_consumer_at_its_step():
    source = Broken()
    source.broken = numbers(both().at(7))[0] // 24  # the third superblock, steps 6 to 8
    arrived = []
    with pytest.raises(RunError, match="superblock cannot be read"):
        arrived.extend(map(numbers, both(source).stream(0, 15)))
    assert len(arrived) == 6
    with pytest.raises(RunError, match="superblock cannot be read"):
        both(source).at(7)


def test_a_consumer_may_stop_early():
    before = threading.active_count()
    stream = both(Counting(num_superblocks=50)).stream(0, 10**6)
    assert numbers(next(stream)) == numbers(both(Counting(num_superblocks=50)).at(0))
    stream.close()
    assert threading.active_count() == before


class Slow(Counting):
    def read(self, site, k):
        time.sleep(0.1)
        return super().read(site, k)


def test_the_time_that_the_consumer_waits_is_counted():
    slow, fast = both(Slow(3)), both(Counting(3))
    began = time.perf_counter()
    for batches in (slow, fast):
        for _ in batches.stream(0, 9):
            pass
    assert 0.25 < slow.stall_seconds < time.perf_counter() - began
    patient = both(Slow(3))
    for _ in patient.stream(0, 9):
        time.sleep(0.05)  # the next superblock is read meanwhile
    assert patient.stall_seconds < slow.stall_seconds
    assert fast.stall_seconds < slow.stall_seconds


class Documents:
    """Superblocks that hold, instead of activations, the document of every row."""

    sites = ("document",)

    def __init__(self, token_store, order):
        self.token_store, self.order = token_store, order
        self.num_superblocks, self.superblock_rows = order.num_superblocks, order.superblock_rows

    def width(self, site):
        return 1

    def read(self, site, k):
        found = self.order.provenance(k)
        documents = self.token_store.documents_of(found["sequence_id"])
        return documents[np.arange(self.superblock_rows), found["position"]][:, None].astype(np.float32)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    token_store = make_token_store(tmp_path_factory.mktemp("text") / "tokens", 500)
    return Documents(token_store, RowOrder(token_store, 6400, seed=0))


@pytest.mark.parametrize("epoch", [0, 1])
def test_neighbours_in_a_batch_share_a_document_no_more_often_than_chance(documents, epoch):
    batches = Batches(documents, documents.sites, 640, seed=0)
    shared = pairs = expected = 0.0
    for batch in batches.stream(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        x = np.asarray(batch["document"]["x"])[:, 0]
        shared, pairs = shared + (x[1:] == x[:-1]).sum(), pairs + len(x) - 1
    everything = np.concatenate([documents.read("document", k)[:, 0] for k in range(documents.num_superblocks)])
    # Chance, were the rows of a superblock in uniformly random order, ...
    for k in range(documents.num_superblocks):
        expected += same(documents.read("document", k)[:, 0]) * pairs / documents.num_superblocks
    deviation = np.sqrt(expected)
    assert abs(shared - expected) < 4 * deviation
    # ... which exceeds chance over all rows only by that of meeting one's own sequence, T / R.
    assert shared / pairs < same(everything) + 15 / 6400 + 4 * deviation / pairs
    # Rows in the order of the text are another matter: the statistic sees it.
    plan = documents.order.superblock(0)
    in_stream_order = documents.read("document", 0)[plan.destination, 0]
    assert (in_stream_order[1:] == in_stream_order[:-1]).mean() > 20 * expected / pairs


def same(documents_N):
    """The probability that two different rows, drawn at random, share a document."""
    counts = np.unique(documents_N, return_counts=True)[1].astype(float)
    return (counts * (counts - 1)).sum() / (len(documents_N) * (len(documents_N) - 1))


def test_the_first_device_is_the_default():
    assert both().at(0)["one"]["x"].devices() == {jax.local_devices()[0]}
