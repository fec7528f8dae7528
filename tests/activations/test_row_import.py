"""Rows of files end up in two stores: none twice, none altered, shuffled by the seed, and the same after a kill."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from gsae.activations.order import ROWS
from gsae.activations.row_import import import_tables
from gsae.activations.row_runs import RunOrder, run_length, split_runs
from gsae.activations.rows import Rows
from gsae.activations.store import ActivationStore
from gsae.activations.writer import StoreWriter
from gsae.errors import RunError, SettingError

SETTINGS = {"superblock_rows": 256, "held_out_fraction": 0.2, "dtype": "float32", "seed": 3, "progress": False}
N, T, D = 300, 6, 5


def sequences():
    """[N, T, D]: every row says its own number; the sites differ by sign."""
    return np.arange(N * T, dtype=np.float32).reshape(N, T, 1) + np.linspace(0, 0.5, D, dtype=np.float32)


@pytest.fixture
def rows(tmp_path):
    x = sequences()
    for part, start in enumerate(range(0, N, 70)):
        save_file({"a": x[start : start + 70], "b": -x[start : start + 70]}, tmp_path / f"{part}.safetensors")
    return Rows.open([str(tmp_path)])


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def stored(path, part, site):
    store = ActivationStore.open(path / part)
    found = [store.provenance(k) for k in range(store.num_superblocks)]
    provenance = {name: np.concatenate([some[name] for some in found]) for name in found[0]}
    return np.concatenate([store.read(site, k) for k in range(store.num_superblocks)]), provenance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_row_is_where_its_provenance_says(rows, tmp_path, dtype):
    import_tables(rows, tmp_path / "store", **{**SETTINGS, "dtype": dtype})
    flat, seen = sequences().reshape(-1, D).astype(jnp.dtype(dtype)), []
    for part in ("train", "held_out"):
        for site, sign in (("a", 1), ("b", -1)):
            x, provenance = stored(tmp_path / "store", part, site)
            number = provenance["sequence_id"] * T + provenance["position"]
            np.testing.assert_array_equal(x, sign * flat[number])
            assert set(provenance["token_id"]) == {-1} and provenance["position"].max() == T - 1
        seen.append(number)
    train, held_out = seen
    assert len(set(train)) == len(train) and len(set(held_out)) == len(held_out) and not set(train) & set(held_out)
    assert not set(train // T) & set(held_out // T)  # no sequence is on both sides
    assert len(held_out) == pytest.approx(0.2 * N * T, abs=3 * T)
    assert len(train) == (N * T - len(held_out)) // 256 * 256
    assert abs(np.corrcoef(train, np.arange(len(train)))[0, 1]) < 0.3  # shuffled over all superblocks


def test_the_seed_and_the_fraction_decide(rows, tmp_path):
    import_tables(rows, tmp_path / "one", **SETTINGS)
    import_tables(rows, tmp_path / "same", **SETTINGS)
    import_tables(rows, tmp_path / "other", **{**SETTINGS, "seed": 4})
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    for part in ("train", "held_out"):
        assert set(stored(tmp_path / "one", part, "a")[0][:, 0]) != set(stored(tmp_path / "other", part, "a")[0][:, 0])
    for setting, change in {
        "config.seed": {"seed": 4},
        "config.activations.dtype": {"dtype": "bfloat16"},
        "config.activations.superblock_rows": {"superblock_rows": 128},
        "config.activations.rows": {"max_rows": 512},
        "config.activations.paths": {"fingerprint": "other rows"},
    }.items():
        with pytest.raises(SettingError, match=f"{setting} = "):
            import_tables(rows, tmp_path / "one", **{**SETTINGS, **change})
    with pytest.raises(SettingError, match=r"config\.sweep"):
        import_tables(rows.of(("a",)), tmp_path / "one", **SETTINGS)


@pytest.mark.parametrize("stop_at", [0, 1, 4])
def test_killed_and_started_again_it_ends_with_the_same_bytes(rows, tmp_path, monkeypatch, stop_at):
    import_tables(rows, tmp_path / "whole", **SETTINGS)
    written, write = [], StoreWriter.write

    def failing(writer, *arguments):
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(1)
        write(writer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            import_tables(rows, tmp_path / "killed", **SETTINGS)
    with pytest.raises(RunError, match="not a finished artifact"):
        ActivationStore.open(tmp_path / "killed" / "train")
    import_tables(rows, tmp_path / "killed", **SETTINGS)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "bfloat16"), (3.4e38, "bfloat16")])
def test_a_row_that_is_not_finite_is_named_with_its_file(tmp_path, value, dtype):
    x = sequences().reshape(-1, D)
    x[700, 2] = value
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "first.npy", x[:500])
    np.save(tmp_path / "a" / "second.npy", x[500:])
    settings = {**SETTINGS, "superblock_rows": 32, "dtype": dtype}
    with pytest.raises(RunError, match=r"a/second\.npy: row 200 of a is not finite"):
        import_tables(Rows.open([str(tmp_path)]), tmp_path / "store", **settings)
    assert not (tmp_path / "store" / "train" / "manifest.json").exists()


def test_too_few_rows_are_refused(rows, tmp_path):
    with pytest.raises(SettingError, match=r"superblock_rows = 2048: must be at most the 14\d\d rows to train on"):
        import_tables(rows, tmp_path / "store", **{**SETTINGS, "superblock_rows": 2048})
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "0.npy", sequences()[:1])
    with pytest.raises(SettingError, match=r"held_out_fraction = 0\.2: cannot be held out of 6 rows"):
        import_tables(Rows.open([str(tmp_path / "c")]), tmp_path / "store", **SETTINGS)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("length", [0, 1, 7, 300])
@pytest.mark.parametrize("rows", [2, 100, 999, 70_000])
def test_the_segments_of_all_superblocks_are_all_rows_once(rows, length):
    rows -= rows % (length or 1)
    run = run_length(rows, length)
    if rows <= run:
        return
    assert run <= max(256, length) and (not length or run % length == 0)
    held_out, train = split_runs(rows, run, 0.3, seed=5)
    seen = []
    for runs in (held_out, train):
        found = RunOrder(runs, run, rows, 1, 5, ROWS).rows_found
        order = RunOrder(runs, run, rows, max(found // 3, 1), 5, ROWS)
        for k in range(order.num_superblocks):
            segments = order.superblock(k)
            assert sorted(np.concatenate([s.places for s in segments])) == list(range(order.superblock_rows))
            seen += [row for s in segments for row in range(s.start, s.stop)]
    assert len(seen) == len(set(seen)) >= rows - 4 and max(seen) < rows
