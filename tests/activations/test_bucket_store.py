"""A store in a bucket is the store on a disk, object for file and byte for byte."""

import numpy as np
import pytest
from bucket_servers import BUCKET
from tiny_harvest import HARVEST, SITES

from gsae.activations.batches import Batches
from gsae.activations.harvest import harvest
from gsae.activations.store import ActivationStore
from gsae.activations.writer import StoreWriter
from gsae.errors import RunError, SettingError
from gsae.places import place


@pytest.fixture(params=["gs", "s3"])
def url(request):
    request.getfixturevalue({"gs": "google", "s3": "amazon"}[request.param])
    return f"{request.param}://{BUCKET}/{request.node.originalname}/store"


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def objects(url):
    return {key: (place(url) / key).read_bytes() for key in place(url).keys()}  # noqa: SIM118


def read_everything(url):
    store = ActivationStore.open(url)
    for k in range(store.num_superblocks):
        store.provenance(k)
        for site in store.sites:
            store.read(site, k)


@pytest.fixture
def damageable(url, finished):
    """A finished store in a bucket, copied from the disk as anybody may."""
    for key, data in files(finished).items():
        (place(url) / key).write_bytes(data)
    return url


def test_interrupted_and_shared_out_it_ends_with_the_bytes_of_a_directory(
    url, monkeypatch, finished, language_model, token_store
):
    written, write = [], StoreWriter.write

    def failing(writer, k, *rest):
        if k == 4 and not written.count(-1):  # as if killed: some arrays of the superblock are there, some not
            array = next(iter(writer._arrays.values()))
            array.create()
            array.write(k, np.full(array.shape, 7, array.dtype))
            written.append(-1)
            raise KeyboardInterrupt
        written.append(k)
        write(writer, k, *rest)

    monkeypatch.setattr(StoreWriter, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        harvest(language_model, token_store, SITES, url, **HARVEST)
    with pytest.raises(RunError, match=f"{url}: is not a finished artifact"):
        ActivationStore.open(url)
    for index in (1, 0):
        harvest(language_model, token_store, SITES, url, **HARVEST, process_index=index, process_count=2)
    store = ActivationStore.open(url)
    assert sorted(written) == [-1, *range(store.num_superblocks)]  # none was made twice
    assert objects(url) == files(finished)
    with pytest.raises(SettingError, match=rf"config\.seed = 4: the store {url} was begun with 3"):
        harvest(language_model, token_store, SITES, url, **{**HARVEST, "seed": 4})


def test_finished_superblocks_are_found_though_the_list_is_refused(google, language_model, token_store, monkeypatch):
    url = f"gs://{BUCKET}/unlisted/store"
    harvest(language_model, token_store, SITES, url, **HARVEST)
    (place(url) / "manifest.json").unlink()
    (place(url) / "superblocks" / "00000003.json").unlink()
    written, write = [], StoreWriter.write
    monkeypatch.setattr(StoreWriter, "write", lambda self, k, *rest: (written.append(k), write(self, k, *rest)))
    google.refused = {"GET": f"/b/{BUCKET}/o?"}
    try:
        harvest(language_model, token_store, SITES, url, **HARVEST)
    finally:
        google.refused = {}
    assert written == [3]
    read_everything(url)


DAMAGES = {
    "altered": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0x10]) + data[len(data) // 2 + 1 :],
    "truncated": lambda data: data[: len(data) // 3],
    "missing": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_named(damageable, damage):
    read_everything(damageable)
    keys = place(damageable).keys()
    shards = [next(key for key in keys if key.startswith(f"arrays/{name}/c/3")) for name in (SITES[0], "position")]
    for key in ("manifest.json", "identity.json", f"arrays/{SITES[0]}/zarr.json", *shards):
        found = place(damageable) / key
        data = found.read_bytes()
        if DAMAGES[damage] is None:
            found.unlink()
        else:
            found.write_bytes(DAMAGES[damage](data))
        with pytest.raises(RunError) as error:
            read_everything(damageable)
        said = str(error.value)
        assert damageable in said and "\n" not in said and len(said) < 400
        assert "/c/" not in key or f"{key.partition('/c/')[0]}: superblock 3 " in said
        found.write_bytes(data)
    read_everything(damageable)


def test_batches_are_those_of_the_directory_and_take_one_request_a_shard(google, finished):
    url = f"gs://{BUCKET}/batches/store"
    for key, data in files(finished).items():
        (place(url) / key).write_bytes(data)
    here, there = ActivationStore.open(finished), ActivationStore.open(url)
    sites = [str(site) for site in SITES]
    count = 2 * here.rows // 64
    google.requests.clear()
    mine, theirs = (Batches(store, sites, 64, seed=5).stream(0, count) for store in (here, there))
    for one, other in zip(mine, theirs, strict=True):
        for site in sites:
            np.testing.assert_array_equal(np.asarray(one[site]["x"]), np.asarray(other[site]["x"]))
    shards = [request for request in google.requests if "%2Fc%2F" in request]
    assert len(shards) == 2 * sum(
        "/c/" in name and name.startswith(tuple(f"arrays/{s}" for s in sites)) for name in files(finished)
    )
