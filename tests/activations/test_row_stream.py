"""Rows of an iterator: what comes out is what went in, in one pass, and a killed call leaves nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

import gsae
from gsae.activations.store import ActivationStore
from gsae.errors import RunError, SettingError

SETTINGS = {"superblock_rows": 128, "held_out_fraction": 0.2, "progress": False}


def numbered(rows, width=4):
    return np.arange(rows, dtype=np.float32)[:, None] + np.linspace(0, 0.5, width, dtype=np.float32)


def everything(path, site="rows"):
    stores = [ActivationStore.open(path / part) for part in ("train", "held_out")]
    return [np.concatenate([store.read(site, k) for k in range(store.num_superblocks)]) for store in stores]


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: x.astype(np.float16)])
def test_rows_come_out_once_in_another_order(tmp_path, make):
    x = numbered(1000)
    batches = (make(x[start : start + 90]) for start in range(0, 1000, 90))
    assert gsae.import_rows(batches, tmp_path / "rows", dtype="float32", **SETTINGS) == tmp_path / "rows"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent == tmp_path / "rows") == [
        "held_out",
        "train",
    ]
    train, held_out = everything(tmp_path / "rows")
    numbers = np.concatenate([train[:, 0], held_out[:, 0]])
    assert len(numbers) == len(set(numbers)) > 1000 - 128 and len(held_out) == pytest.approx(200, abs=14)
    np.testing.assert_allclose(np.concatenate([train, held_out]), x[numbers.astype(int)], rtol=1e-3)
    assert list(train[:, 0]) != sorted(train[:, 0])


def test_several_sites_keep_their_rows_together_and_sequences_too(tmp_path):
    x = numbered(1200).reshape(200, 6, 4)
    batches = ({"a": x[i : i + 10], "b.hook": jnp.asarray(-x[i : i + 10], jnp.bfloat16)} for i in range(0, 200, 10))
    gsae.import_rows(batches, tmp_path / "rows", dtype="bfloat16", **SETTINGS)
    for ours, theirs in zip(everything(tmp_path / "rows", "a"), everything(tmp_path / "rows", "b.hook"), strict=True):
        np.testing.assert_array_equal(ours, -theirs)
    parts = [ActivationStore.open(tmp_path / "rows" / part).provenance(0) for part in ("train", "held_out")]
    assert not set(parts[0]["sequence_id"]) & set(parts[1]["sequence_id"]) and parts[0]["position"].max() == 5


def test_other_rows_have_another_fingerprint(tmp_path):
    prints = set()
    for name, change in (("one", 0), ("same", 0), ("other", 1)):
        x = numbered(600)
        x[317, 1] += change
        gsae.import_rows([x], tmp_path / name, dtype="float32", **SETTINGS)
        prints.add(ActivationStore.open(tmp_path / name / "train").fingerprint)
    assert len(prints) == 2


def test_a_killed_call_leaves_nothing_that_looks_finished(tmp_path):
    def some():
        yield numbered(500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gsae.import_rows(some(), tmp_path / "rows", **SETTINGS)
    assert not list(tmp_path.iterdir())
    left = tmp_path / "rows.partial-1"  # what a SIGKILL leaves
    (left / "spool").mkdir(parents=True)
    (left / "spool" / "rows").write_bytes(b"half")
    gsae.import_rows([numbered(500)], tmp_path / "rows", **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize(
    ("batches", "change", "complaint"),
    [
        ([numbered(9), numbered(9, 3)], {}, r"batch 1 = .*: must have the widths of the others, \{'rows': 4\}"),
        ([numbered(9).astype(np.float64)], {}, r"batch 0 of rows = '\[9, 4\] float64': must be"),
        ([numbered(9)[0]], {}, r"batch 0 of rows = '\[4\] float32': must be"),
        ([{"a": numbered(9), "b": numbered(8)}], {}, r"batch 0 = .*: must have as many rows at every site"),
        ([{"a": numbered(9)}, {"b": numbered(9)}], {}, r"batch 1 = .*: must have the widths of the others"),
        ([{"a/b": numbered(9)}], {}, r"site = 'a/b': names of sites"),
        ([], {}, r"batches = 0: must give at least one row"),
        ([numbered(100)], {}, r"superblock_rows = 128: must be at most the 8\d rows to train on"),
        ([numbered(9)], {"dtype": "float16"}, r"dtype = 'float16': must be one of bfloat16, float32"),
        ([numbered(9)], {"held_out_fraction": 1.0}, r"held_out_fraction = 1\.0: must be between"),
    ],
)
def test_what_is_wrong_is_named_and_leaves_nothing(tmp_path, batches, change, complaint):
    with pytest.raises(SettingError, match=complaint):
        gsae.import_rows(batches, tmp_path / "rows", **{**SETTINGS, **change})
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_and_a_directory_that_is_there_are_refused(tmp_path):
    x = numbered(20)
    x[7, 1] = np.nan
    with pytest.raises(RunError, match=r"batch 1 of rows: row 7 is not finite"):
        gsae.import_rows([numbered(20), x], tmp_path / "rows", **SETTINGS)
    (tmp_path / "rows").mkdir()
    with pytest.raises(SettingError, match="is there already"):
        gsae.import_rows([numbered(500)], tmp_path / "rows", **SETTINGS)
