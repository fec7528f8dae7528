import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_harvest import HARVEST, SITES, make_language_model, make_token_store

from gsae.activations import harvest as harvesting
from gsae.activations.harvest import harvest
from gsae.activations.store import ActivationStore
from gsae.activations.writer import StoreWriter
from gsae.errors import RunError, SettingError
from gsae.language_models.sites import Site


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def all_rows(store, site):
    return np.concatenate([store.read(site, k) for k in range(store.num_superblocks)]).astype(np.float64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_rows_are_what_the_model_computes_at_their_sequence_and_position(tmp_path, language_model, token_store, dtype):
    harvest(language_model, token_store, SITES, tmp_path / "store", **{**HARVEST, "dtype": dtype})
    store = ActivationStore.open(tmp_path / "store")
    model = language_model.model
    tokens = jnp.asarray(token_store.tokens[:].astype(int))
    captured = nnx.jit(lambda model: model.blocks(model.embed(tokens), 0, 2, capture=SITES)[1])(model)
    assert store.sites == tuple(map(str, SITES))
    assert store.rows == store.num_superblocks * 256 > 2000
    for site in SITES:
        assert store.width(str(site)) == model.site_width(site.name)
        for k in range(store.num_superblocks):
            rows, found = store.read(str(site), k), store.provenance(k)
            expected = np.asarray(captured[site])[found["sequence_id"], found["position"]]
            assert rows.dtype == jnp.dtype(dtype)
            bound = 1e-5 if dtype == "float32" else 2**-8 * np.abs(expected).max()
            np.testing.assert_allclose(rows.astype(np.float32), expected, rtol=0, atol=bound)


def test_statistics_are_those_of_the_stored_rows(finished):
    store = ActivationStore.open(finished)
    for site in store.sites:
        rows, found = all_rows(store, site), store.statistics(site)
        np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-6, atol=1e-7 * np.abs(rows).max())
        np.testing.assert_allclose(found["mean_squared_norm"], np.square(rows).sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("stop_at", [0, 5, 9])
def test_an_interrupted_harvest_continues_to_the_same_bytes(
    tmp_path, monkeypatch, finished, language_model, token_store, stop_at
):
    path, written, write = tmp_path / "store", [], StoreWriter.write

    def failing(writer, k, *rest):
        if k == stop_at and not written.count(-1):
            for array in list(writer._arrays.values())[:2]:  # killed in the middle: some arrays are there, some not
                array.create()
                array.write(k, np.full(array.shape, 7, array.dtype))
            written.append(-1)
            raise KeyboardInterrupt
        written.append(k)
        write(writer, k, *rest)

    monkeypatch.setattr(StoreWriter, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        harvest(language_model, token_store, SITES, path, **HARVEST)
    with pytest.raises(RunError, match="not a finished artifact"):
        ActivationStore.open(path)
    harvest(language_model, token_store, SITES, path, **HARVEST)
    assert sorted(written) == [-1, *range(ActivationStore.open(path).num_superblocks)]  # none was made twice
    assert contents(path) == contents(finished)
    written.clear()
    harvest(language_model, token_store, SITES, path, **HARVEST)
    assert not written


def test_any_number_of_processes_writes_the_same_store(tmp_path, finished, language_model, token_store):
    path = tmp_path / "store"
    for index in (2, 0, 1):
        assert not (path / "manifest.json").exists()
        harvest(language_model, token_store, SITES, path, **HARVEST, process_index=index, process_count=3)
    assert contents(path) == contents(finished)


def test_the_batch_size_changes_no_row(tmp_path, finished, language_model, token_store):
    harvest(language_model, token_store, SITES, tmp_path / "store", **{**HARVEST, "batch_size": 5})
    one, other = ActivationStore.open(finished), ActivationStore.open(tmp_path / "store")
    for k in range(one.num_superblocks):
        np.testing.assert_equal(one.provenance(k), other.provenance(k))
    for site in one.sites:
        rows = all_rows(one, site)
        np.testing.assert_allclose(rows, all_rows(other, site), rtol=0, atol=2**-7 * np.abs(rows).max())


def test_other_settings_do_not_continue_a_store(tmp_path, copy, language_model, token_store):
    changes = [
        ("config.activations.dtype", {"dtype": "float32"}),
        ("config.activations.superblock_rows", {"superblock_rows": 128}),
        ("config.activations.rows", {"max_rows": 600}),
        ("config.seed", {"seed": 4}),
    ]
    before = contents(copy)
    for named, change in changes:
        with pytest.raises(SettingError, match=named):
            harvest(language_model, token_store, SITES, copy, **{**HARVEST, **change})
    with pytest.raises(SettingError, match=r"config\.sweep"):
        harvest(language_model, token_store, SITES[:1], copy, **HARVEST)
    with pytest.raises(SettingError, match=r"config\.language_model"):
        harvest(make_language_model(1), token_store, SITES, copy, **HARVEST)
    # As many superblocks of other text.
    with pytest.raises(SettingError, match=r"config\.text"):
        harvest(
            language_model, make_token_store(tmp_path / "tokens", 60, seed=1), SITES, copy, **HARVEST, max_rows=256 * 9
        )
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("sites", "change", "named"),
    [
        ((), {}, "config.sweep"),
        (SITES[:1] * 2, {}, "config.sweep"),
        ((Site(3, "mlp_out"),), {}, r"config.sweep = 'mlp_out.3': the language model has layers 0 to 2"),
        (SITES, {"dtype": "float16"}, "config.activations.dtype = 'float16'"),
        (SITES, {"batch_size": -1}, "config.activations.sequences_at_once = -1"),
        (SITES, {"superblock_rows": 10**6}, "config.activations.superblock_rows = 1000000"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(tmp_path, language_model, token_store, sites, change, named):
    with pytest.raises(SettingError, match=named):
        harvest(language_model, token_store, sites, tmp_path / "store", **{**HARVEST, **change})
    assert not (tmp_path / "store").exists()


def test_says_what_it_will_write_and_refuses_without_room(tmp_path, monkeypatch, capsys, language_model, token_store):
    harvest(language_model, token_store, SITES[:1], tmp_path / "one", **{**HARVEST, "progress": True, "max_rows": 600})
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("harvest: ")]
    before, expected, after = (line for line in said if "rows/s" not in line)
    assert "2 superblocks of 256 rows, 2 to make: 576 tokens to run, 0.0 MB to write (the last 88 rows" in before
    assert re.match(
        r"harvest: 8 sequences of 16 tokens at once \(as .*\); the first batch took .* s: about .* s in all", expected
    )
    assert re.match(r"harvest: 5\d\d tokens in .* s: [\d,]+ tokens/s, .* TFLOP/s, .* MB/s written", after)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(harvesting.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(RunError, match=r"the activations need 0\.3 MB and the disk has 0\.0 MB left"):
        harvest(language_model, token_store, SITES, tmp_path / "store", **HARVEST)
    assert not list((tmp_path / "store").rglob("c"))


def test_a_batch_size_that_is_not_given_is_found(tmp_path, capsys, finished, language_model, token_store):
    found = {**HARVEST, "batch_size": 0, "progress": True}
    harvest(language_model, token_store, SITES, tmp_path / "store", **found)
    assert re.search(r"harvest: 16 sequences of 16 tokens at once \(a CPU's cache", capsys.readouterr().err)
    one, other = ActivationStore.open(finished), ActivationStore.open(tmp_path / "store")
    assert one.identity == other.identity
    np.testing.assert_equal(one.provenance(3), other.provenance(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_an_activation_that_is_not_finite_names_the_document(tmp_path, token_store, value):
    language_model = make_language_model()
    store_path = tmp_path / "store"
    token = int(token_store.tokens[7, 5])
    model = language_model.model
    model.embedding[...] = model.embedding[...].at[token].set(value)
    with pytest.raises(RunError, match=r"at resid_pre\.0 is not finite: sequence \d+, position \d+, of doc") as error:
        harvest(language_model, token_store, [Site(0, "resid_pre")], store_path, **HARVEST)
    words = str(error.value).replace(",", "").split()
    sequence, position = int(words[words.index("sequence") + 1]), int(words[words.index("position") + 1])
    assert token_store.tokens[sequence, position] == token
    document = token_store.documents_of([sequence])[0, position]
    assert str(error.value).endswith(f"{token_store.document_names[document]!r}")
    assert not (store_path / "manifest.json").exists()


def test_an_altered_record_is_named(copy, language_model, token_store):
    (copy / "manifest.json").unlink()
    record = copy / "superblocks" / "00000003.json"
    record.write_text(record.read_text().replace('"superblock": 3', '"superblock": 4'))
    with pytest.raises(RunError, match=r"00000003\.json"):
        harvest(language_model, token_store, SITES, copy, **HARVEST)
    record.unlink()
    harvest(language_model, token_store, SITES, copy, **HARVEST)
    ActivationStore.open(copy)
    (copy / "identity.json").unlink()
    with pytest.raises(RunError, match=r"identity\.json: is missing"):
        harvest(language_model, token_store, SITES, copy, **HARVEST)


KILLED = """
import sys, time
from pathlib import Path
from gsae.activations import harvest, writer
from gsae.text.tokens import TokenStore
from tiny_harvest import HARVEST, SITES, make_language_model
write, written = writer.StoreWriter.write, []
def held(*arguments):
    if len(written) == int(sys.argv[3]):
        time.sleep(1000)
    write(*arguments)
    written.append(arguments)
writer.StoreWriter.write = held
harvest.harvest(make_language_model(), TokenStore.open(sys.argv[1]), SITES, Path(sys.argv[2]), **HARVEST)
"""


@pytest.mark.slow
@pytest.mark.parametrize("superblocks", [1, 4])
def test_killed_by_the_system_it_continues(tmp_path, finished, language_model, token_store, superblocks):
    path = tmp_path / "store"
    command = [sys.executable, "-c", KILLED, str(token_store.path), str(path), str(superblocks)]
    process = subprocess.Popen(command, env={"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])})
    deadline = time.monotonic() + 120
    while len(list(path.glob("superblocks/*.json"))) < superblocks:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (path / "manifest.json").exists()
    harvest(language_model, token_store, SITES, path, **HARVEST)
    left = {name: data for name, data in contents(path).items() if not name.endswith("__lock")}
    assert left == contents(finished)
    shutil.rmtree(path)
