"""Files of rows are found, opened and refused; what is read is what was written."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.flax import save_file as save_flax
from safetensors.numpy import save_file

from gsae.activations.rows import Rows
from gsae.errors import SettingError

BFLOAT16 = np.dtype(jnp.bfloat16)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def all_rows(rows, site):
    return rows.read(site, 0, rows.rows).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
def test_npy_files_of_a_directory_are_a_site_of_its_name(tmp_path, dtype):
    x = numbers(50, 6).astype(dtype)
    for site in ("here", "there"):
        (tmp_path / site).mkdir()
        for part, some in enumerate((x[:20], x[20:21], x[21:])):
            np.save(tmp_path / site / f"{part}.npy", some)
    rows = Rows.open([str(tmp_path)])
    assert rows.sites == ("here", "there") and rows.rows == 50 and rows.width("here") == 6
    np.testing.assert_array_equal(rows.read("there", 0, 50), x)
    for start, stop in ((0, 1), (19, 22), (20, 21), (21, 50)):
        np.testing.assert_array_equal(rows.read("here", start, stop), x[start:stop])
    assert rows.place("here", 20).endswith("here/1.npy: row 0")
    assert set(rows.token_ids(18, 23)) == {-1}
    globbed = Rows.open([str(tmp_path / "*" / "0.npy"), str(tmp_path / "here" / "2.npy")])
    assert globbed.sites == ("here", "there") and [len(tables) for tables in globbed.tables.values()] == [2, 1]


def test_sequences_are_known_from_three_axes(tmp_path):
    x = numbers(12, 5, 3)
    save_file({"a": x[:8], "b.hook": -x[:8]}, tmp_path / "0.safetensors")
    save_flax({"a": jnp.asarray(x[8:], jnp.bfloat16), "b.hook": jnp.asarray(-x[8:])}, tmp_path / "1.safetensors")
    rows = Rows.open([str(tmp_path)])
    assert rows.sites == ("a", "b.hook") and rows.sequence_length == 5 and rows.rows == 60
    np.testing.assert_array_equal(rows.read("b.hook", 0, 60), -x.reshape(60, 3))
    np.testing.assert_array_equal(rows.read("b.hook", 38, 43), -x.reshape(60, 3)[38:43])
    np.testing.assert_allclose(all_rows(rows, "a"), x.reshape(60, 3), rtol=2**-8)
    assert rows.place("a", 42).endswith("1.safetensors: row 2 (sequence 0, position 2)")


def data_set(path, x_NTD, hook="blocks.1.hook_resid_post", dtype="float32", tokens=True):
    """As SAELens' CacheActivationsRunner makes it: the same features, saved by `datasets`."""
    from datasets import Array2D, Dataset, Features, Sequence, Value

    features = {hook: Array2D(shape=x_NTD.shape[1:], dtype=dtype)}
    columns = {hook: x_NTD.astype(dtype)}
    if tokens:
        features["token_ids"] = Sequence(Value("int32"), length=x_NTD.shape[1])
        columns["token_ids"] = np.arange(x_NTD[..., 0].size, dtype=np.int32).reshape(x_NTD.shape[:2])
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(path, num_shards=2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_saved_data_set_is_a_site_for_each_column(tmp_path, dtype):
    x = numbers(9, 4, 3)
    data_set(tmp_path / "cached", x, dtype=dtype)
    rows = Rows.open([str(tmp_path)])
    assert rows.sites == ("blocks.1.hook_resid_post",) and rows.rows == 36 and rows.sequence_length == 4
    np.testing.assert_array_equal(rows.read(rows.sites[0], 0, 36), x.reshape(36, 3).astype(dtype))
    np.testing.assert_array_equal(rows.read(rows.sites[0], 15, 22), x.reshape(36, 3).astype(dtype)[15:22])
    np.testing.assert_array_equal(rows.token_ids(15, 22), np.arange(15, 22))
    data_set(tmp_path / "other", x, hook="a", tokens=False)
    two = Rows.open([str(tmp_path)]).of(("a", "blocks.1.hook_resid_post"))
    np.testing.assert_array_equal(two.token_ids(3, 9), np.arange(3, 9))


def test_the_same_rows_in_another_format_are_the_same_rows(tmp_path):
    x = numbers(300, 3)
    save_file({"a": x}, tmp_path / "x.safetensors")
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "x.npy", x)
    prints = {Rows.open([str(tmp_path / name)]).fingerprint for name in ("x.safetensors", "a")}
    x[299, 2] += 1
    np.save(tmp_path / "a" / "x.npy", x)
    assert len(prints) == 1 and Rows.open([str(tmp_path / "a")]).fingerprint not in prints


def spoil(tmp_path, what):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "1.npy"
    np.save(tmp_path / "a" / "0.npy", numbers(8, 4))
    np.save(file, {"width": numbers(8, 5), "dtype": numbers(8, 4).astype(np.float64), "axes": numbers(8)}.get(what, 0))
    if what == "text":
        file.write_text("rows")
    if what == "truncated":
        save_file({"a": numbers(8, 4)}, tmp_path / "2.safetensors")
        (tmp_path / "2.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes()[:-3])
        file.unlink()


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("width", r"paths = '.*a/1\.npy': rows of 'a' have width 5, those of .*a/0\.npy 4"),
        ("dtype", r"a/1\.npy': 'a' holds float64; rows are float32, float16 or bfloat16"),
        ("axes", r"a/1\.npy': 'a' has shape \[8\]"),
        ("text", r"a/1\.npy': is not an array of numbers"),
        ("truncated", r"2\.safetensors': is not a safetensors file"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, what, complaint):
    spoil(tmp_path, what)
    with pytest.raises(SettingError, match=complaint) as caught:
        Rows.open([str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_nothing_and_unsafe_names_and_unequal_sites_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"config\.activations\.paths = .*nowhere.*: has no \.npy or"):
        Rows.open([str(tmp_path / "nowhere")])
    save_file({"a": numbers(8, 4), "b": numbers(7, 4)}, tmp_path / "x.safetensors")
    rows = Rows.open([str(tmp_path)])
    with pytest.raises(SettingError, match=r"\{'a': 8, 'b': 7\}: every site must have as many rows"):
        rows.of(("a", "b"))
    with pytest.raises(SettingError, match=r"config\.sweep = 'c': the rows have the sites a, b"):
        rows.of(("c",))
    assert rows.of(("b",)).rows == 7
    for name in ("a/b", "token_id", "a.gradient"):
        save_file({name: numbers(8, 4)}, tmp_path / "x.safetensors")
        with pytest.raises(SettingError, match=rf"'{name}': names of sites are made of"):
            Rows.open([str(tmp_path)])
