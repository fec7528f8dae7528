"""Rows made live are the rows of the store, and no more than two generations of them are there at a time."""

import re
import threading
import time

import jax
import numpy as np
import pytest
from tiny_harvest import HARVEST, SITES, make_language_model

from gsae.activations.batches import Batches
from gsae.activations.live import GENERATIONS, Live
from gsae.activations.store import ActivationStore
from gsae.errors import RunError, SettingError
from gsae.language_models.sites import Site

NAMES = tuple(map(str, SITES))


@pytest.fixture
def live(language_model, token_store, tmp_path):
    with_a_file = tmp_path / "statistics.json"
    source = Live.of(language_model, token_store, SITES, with_a_file, **HARVEST)
    yield source
    source.close()


def assert_same_batches(ours, others):
    for one, other in zip(ours, others, strict=True):
        for site in NAMES:
            assert np.asarray(one[site]["x"]).tobytes() == np.asarray(other[site]["x"]).tobytes()


def test_everything_is_as_in_the_store(live, finished):
    store = ActivationStore.open(finished)
    for name in ("sites", "rows", "superblock_rows", "num_superblocks", "fingerprint"):
        assert getattr(live, name) == getattr(store, name), name
    for k in (3, 0, store.num_superblocks - 1):
        for site in store.sites:
            ours, others = live.read(site, k), store.read(site, k)
            assert ours.dtype == others.dtype and ours.tobytes() == others.tobytes()
            assert live.width(site) == store.width(site)
        np.testing.assert_equal(dict(live.provenance(k)), store.provenance(k))
    with pytest.raises(IndexError):
        live.read(NAMES[0], store.num_superblocks)


def test_batches_are_the_same_across_epochs_from_any_step_on(live, finished):
    store = Batches(ActivationStore.open(finished), NAMES, 64, 1)
    ours = Batches(live, NAMES, 64, 1)
    stop = 2 * store.steps_per_epoch + 3
    assert_same_batches(ours.stream(0, stop), store.stream(0, stop))
    assert live.made == 2 * store.superblocks.num_superblocks + 1  # each generation once
    start = store.steps_per_epoch + 2
    assert_same_batches(ours.stream(start, start + 5), store.stream(start, start + 5))
    assert live.made == 2 * store.superblocks.num_superblocks + 1 + 2  # the one in use when it stopped, and the next


@pytest.mark.parametrize("statistics_rows", [0, 1, 700])
def test_statistics_are_those_of_the_same_rows_of_the_store(
    language_model, token_store, finished, tmp_path, statistics_rows
):
    file, store = tmp_path / "statistics.json", ActivationStore.open(finished, statistics_rows)
    live = Live.of(language_model, token_store, SITES, file, statistics_rows=statistics_rows, **HARVEST)
    rows = min(-(-statistics_rows // 256) * 256 or store.rows, store.rows)
    for site in NAMES:
        ours, others = live.statistics(site), store.statistics(site)
        assert ours["mean"].tobytes() == others["mean"].tobytes()
        assert ours["mean_squared_norm"] == others["mean_squared_norm"]
        expected = np.concatenate([store.read(site, k) for k in range(store.num_superblocks)])[:rows].astype(float)
        np.testing.assert_allclose(ours["mean_squared_norm"], np.square(expected).sum(1).mean(), rtol=1e-6)
    assert live.made == rows // 256
    live.close()
    again = Live.of(language_model, token_store, SITES, file, statistics_rows=statistics_rows, **HARVEST)
    assert again.statistics(NAMES[1])["mean"].tobytes() == others_mean(store)
    assert again.made == 0  # kept on the disk
    file.write_text(file.read_text().replace("mean", "main", 1))
    assert Live(again._forward, file, progress=False).statistics(NAMES[1]) is not None
    again.close()


def others_mean(store):
    return store.statistics(NAMES[1])["mean"].tobytes()


def test_kept_statistics_of_other_rows_are_not_used(language_model, token_store, tmp_path):
    file = tmp_path / "statistics.json"
    for change in ({}, {"seed": 4}, {"statistics_rows": 256}):
        live = Live.of(language_model, token_store, SITES, file, **(HARVEST | change))
        live.statistics(NAMES[0])
        assert live.made == (1 if "statistics_rows" in change else live.num_superblocks)
        live.close()


def test_two_generations_are_in_memory_and_both_sides_wait(live, monkeypatch):
    made, forward = [], live._forward.superblock
    monkeypatch.setattr(live._forward, "superblock", lambda k, tell: made.append(k) or forward(k, tell))
    batches = Batches(live, NAMES, 64, 1)
    stream = batches.stream(0, batches.steps_per_epoch)
    next(stream)
    deadline = time.monotonic() + 120
    while (live.made < 2 or live.idle_seconds < 0.2) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == GENERATIONS  # the third is not begun while nobody needs it
    assert live.idle_seconds >= 0.2
    assert batches.stall_seconds > 0
    idle = live.idle_seconds
    for _ in range(batches.steps_per_superblock):
        next(stream)
    while live.made < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == GENERATIONS + 1 and live.idle_seconds > idle
    assert len(live._generations) == GENERATIONS
    stream.close()


def test_a_second_reader_shares_what_the_first_one_holds(live, finished):
    """As when features are revived: behind the first reader, which has gone on to the next superblock already."""
    batches, store = Batches(live, NAMES, 64, 1), Batches(ActivationStore.open(finished), NAMES, 64, 1)
    first = batches.stream(0, batches.steps_per_epoch)
    for _ in range(batches.steps_per_superblock):  # reads ahead, into the second superblock
        next(first)
    for _ in range(2):
        start, stop = batches.steps_per_superblock - 1, batches.steps_per_superblock + 2
        assert_same_batches(batches.stream(start, stop), store.stream(start, stop))
    for batch, expected in zip(first, store.stream(batches.steps_per_superblock, batches.steps_per_epoch), strict=True):
        assert_same_batches([batch], [expected])
    assert live.made == live.num_superblocks + 1  # the superblock that was left came once more


def test_devices_share_a_pass_without_a_word(language_model, token_store, live, tmp_path):
    """Three devices and eight sequences: padded to nine. Nothing crosses between devices."""
    file = tmp_path / "statistics.json"
    shared = Live.of(language_model, token_store, SITES, file, devices=jax.devices()[5:8], **HARVEST)
    assert shared.fingerprint == live.fingerprint
    for site in NAMES:
        ours, others = (source.read(site, 1).astype(np.float32) for source in (shared, live))
        np.testing.assert_allclose(ours, others, rtol=0, atol=2**-7 * np.abs(others).max())
    forward = shared._forward
    (captured, *_) = forward.batch(0)
    assert captured.sharding.device_set == set(jax.devices()[5:8]) and captured.shape[0] == 9
    placement = forward._placement
    parameters, sharding, parts = placement.parameters, placement.batch, placement.parts
    assert parts == 3
    batch = (jax.ShapeDtypeStruct((9, 16), kind, sharding=sharding) for kind in (np.int32, np.bool_))
    program = forward._capture.lower(parameters, *batch).compile().as_text()
    assert not re.search("all-gather|all-reduce|all-to-all|collective-permute", program)
    shared.close()


def test_it_stops_in_the_middle_of_a_generation(live, monkeypatch):
    begun, batch = threading.Event(), live._forward.batch

    def slow(j):
        begun.set()
        time.sleep(0.1)
        return batch(j)

    monkeypatch.setattr(live._forward, "batch", slow)
    future = live._generation(0)
    assert begun.wait(30)
    live.close()
    with pytest.raises(RunError, match="told to stop"):
        future.result(0)


def test_an_activation_that_is_not_finite_names_the_document(token_store, tmp_path):
    language_model = make_language_model()
    model, token = language_model.model, int(token_store.tokens[7, 5])
    model.embedding[...] = model.embedding[...].at[token].set(np.inf)
    live = Live.of(language_model, token_store, [Site(0, "resid_pre")], tmp_path / "statistics.json", **HARVEST)
    with pytest.raises(RunError, match=r"at resid_pre\.0 is not finite: sequence \d+, position \d+, of document '"):
        for batch in Batches(live, ["resid_pre.0"], 64, 1).stream(0, 100):
            assert batch
    live.close()


def test_wrong_settings_are_named(language_model, token_store, tmp_path):
    with pytest.raises(SettingError, match=r"config\.activations\.superblock_rows = 1000000"):
        Live.of(language_model, token_store, SITES, tmp_path / "s.json", **(HARVEST | {"superblock_rows": 10**6}))
