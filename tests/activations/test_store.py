import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from gsae.activations.arrays import SuperblockArray, digest_rows
from gsae.activations.store import PROVENANCE, ActivationStore
from gsae.errors import RunError


def read_everything(path):
    store = ActivationStore.open(path)
    for k in range(store.num_superblocks):
        store.provenance(k)
        for site in store.sites:
            store.read(site, k)


def test_what_was_harvested_reads(finished):
    read_everything(finished)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


DAMAGES = {
    "first byte": lambda data: flipped(data, 0),
    "middle byte": lambda data: flipped(data, len(data) // 2),
    "last byte": lambda data: flipped(data, len(data) - 1),
    "third of it": lambda data: data[: len(data) // 3],
    "all but two bytes": lambda data: data[:-2],  # the last one of a JSON file is a line's end
    "nothing": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "deleted": None,
}


def a_file_of_every_kind(path):
    arrays = sorted(path.glob("arrays/*"))
    assert len(arrays) == 3 + len(PROVENANCE)
    shards = [sorted(file for file in array.glob("c/**/*") if file.is_file())[9] for array in arrays]
    return [path / "manifest.json", path / "identity.json", *(array / "zarr.json" for array in arrays), *shards]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_named(copy, damage):
    for file in a_file_of_every_kind(copy):
        data = file.read_bytes()
        if DAMAGES[damage] is None:
            file.unlink()
        else:
            file.write_bytes(DAMAGES[damage](data))
        with pytest.raises(RunError) as error:
            read_everything(copy)
        if "arrays" in file.parts:
            assert str(file.relative_to(copy).parent).split("/c/")[0] in str(error.value)
        if file.name.isdigit():
            assert "superblock " in str(error.value)
        file.write_bytes(data)
    read_everything(copy)


def test_every_byte_of_a_shard_counts(copy):
    shard = sorted(file for file in copy.glob("arrays/mlp_out.0/c/**/*") if file.is_file())[0]
    data = shard.read_bytes()
    for position in range(0, len(data), 41):
        shard.write_bytes(flipped(data, position))
        with pytest.raises(RunError, match=r"mlp_out.0: superblock \d+ cannot be read"):
            read_everything(copy)


def test_exchanged_shards_are_noticed_though_each_is_whole(copy):
    first, second = sorted(file for file in copy.glob("arrays/mlp_out.0/c/**/*") if file.is_file())[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    with pytest.raises(RunError, match=r"mlp_out.0: superblock \d+ is not what was written \(SHA-256 differs\)"):
        read_everything(copy)


def test_a_store_that_is_not_finished_is_none(copy, tmp_path):
    (copy / "manifest.json").unlink()
    for path in (copy, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="is not a finished artifact"):
            ActivationStore.open(path)


def test_the_fingerprint_follows_the_rows(finished, copy):
    shutil.move(copy, copy.parent / "elsewhere")
    assert ActivationStore.open(finished).fingerprint == ActivationStore.open(copy.parent / "elsewhere").fingerprint


@pytest.mark.parametrize(("rows", "width"), [(7, 3), (12, 1), (1 << 17, 40)])
def test_superblocks_are_whole_shards_and_zeros_are_kept(tmp_path, rows, width):
    array = SuperblockArray(tmp_path / "x", 3, (rows, width), jnp.dtype(jnp.bfloat16))
    array.create()
    array.write(1, np.zeros((rows, width), array.dtype))
    shards = {file for file in (tmp_path / "x").rglob("c/**/*") if file.is_file()}
    np.testing.assert_array_equal(array.read(1), np.zeros((rows, width)))
    with pytest.raises(RunError, match="superblock 2 cannot be read: NOT_FOUND"):
        array.read(2)
    rising = np.arange(rows * width).reshape(rows, width).astype(array.dtype)
    array.write(2, rising)
    assert {file for file in (tmp_path / "x").rglob("c/**/*") if file.is_file()} > shards
    assert len(shards) == (2 if rows == 1 << 17 else 1)
    np.testing.assert_array_equal(array.read(2), rising)
    np.testing.assert_array_equal(array.read(1), np.zeros((rows, width)))
    with pytest.raises(IndexError):
        array.read(3)


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "x").write_text("a file where the array should be")
    array = SuperblockArray(tmp_path / "x", 1, (8, 2), jnp.dtype(jnp.float32))
    with pytest.raises(RunError, match="x: cannot be made: "):
        array.create()


def test_the_digest_covers_every_piece():
    rows = np.arange(1 << 22, dtype=np.float32).reshape(-1, 4)  # 16 MiB: four pieces
    digests = {digest_rows(rows)}
    for place in (0, len(rows) // 2, len(rows) - 1):
        changed = rows.copy()
        changed[place, 1] += 1
        digests.add(digest_rows(changed))
    assert len(digests) == 4
    assert digest_rows(rows[::2]) == digest_rows(rows[::2].copy())
