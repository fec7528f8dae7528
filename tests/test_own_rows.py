"""Whole runs on rows from elsewhere: without a language model, from files to a frontier in FVU."""

import csv

import numpy as np
import pytest
import tiny_rows
from safetensors.numpy import load_file

import gsae
from gsae import config, pipeline
from gsae.activations.store import ActivationStore
from gsae.activations.synthetic import SITE
from gsae.errors import RunError, SettingError

EMPTY = ("layer", "loss_recovered", "loss_recovered_se", "ce_clean", "ce_spliced", "ce_zero", "kl", "ce_difference")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_rows.write(tmp_path_factory.mktemp("files"))


def run(files, workdir, stage="all", **changes):
    pipeline.run(config.parse(tiny_rows.configuration(files, **changes)), workdir, stage=stage)


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run(files, workdir, training__steps=60)
    return workdir


def results(workdir):
    with open(workdir / "results.csv") as file:
        return list(csv.DictReader(file))


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


@pytest.mark.slow
def test_results_have_all_columns_those_of_a_language_model_empty(finished):
    rows = results(finished)
    assert len(rows) == 4 and {row["site"] for row in rows} == {"own.site"}
    for row in rows:
        assert [row[name] for name in EMPTY] == [""] * len(EMPTY)
        for name in (
            "l0",
            "fvu",
            "gamma",
            "gamma_centred",
            "cosine",
            "norm_ratio",
            "error_bound",
            "alive",
            "l1",
            "mean_share",
        ):
            assert np.isfinite(float(row[name])), name
        assert float(row["fvu"]) < 1 and row["status"] == "ok" and row["tokens"] == "1500"


@pytest.mark.slow
def test_fvu_is_that_of_rows_that_never_trained(finished):
    held_out = ActivationStore.open(finished / "activations" / "held_out")
    judged = np.concatenate([held_out.read("own.site", k) for k in range(held_out.num_superblocks)])[:1500]
    for row in results(finished):
        sae = gsae.load(finished / "autoencoders" / row["point"])
        assert tiny_rows.reconstructed(judged, sae) == pytest.approx(float(row["fvu"]), rel=1e-4)
    train = ActivationStore.open(finished / "activations" / "train")
    assert train.sites == ("own.site",)  # the sweep names no other
    trained = np.concatenate([train.read("own.site", k) for k in range(train.num_superblocks)])
    given = np.concatenate([tiny_rows.truth().read(SITE, k) for k in range(5)]) + 0.5
    known = {row.tobytes() for row in given}
    held = np.concatenate([held_out.read("own.site", k) for k in range(held_out.num_superblocks)])
    ours, theirs = ({row.tobytes() for row in rows} for rows in (trained, held))
    assert ours | theirs <= known and not ours & theirs
    assert len(theirs) == pytest.approx(0.1 * len(known), rel=0.1) and len(trained) == 8 * 2048


@pytest.mark.slow
def test_the_report_speaks_of_fvu(finished):
    page = (finished / "report.html").read_text()
    assert "for the same FVU" in page or "share no fixed value of FVU" in page
    assert "loss recovered" not in page.lower() and "judged on 1,500 held-out rows" in page
    assert "per row" in page and "per token" not in page and "on the held-out rows" in page
    for name in ("frontier.png", "shrinkage.png", "density.png"):
        assert (finished / name).stat().st_size > 0


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do_and_needs_no_files(finished, files, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*.json") if "evaluation" in str(file)}
    moved = files.rename(tmp_path / "elsewhere")
    try:
        run(files, finished, training__steps=60)
    finally:
        moved.rename(files)
    assert before == {file: file.stat().st_mtime_ns for file in before}


@pytest.mark.slow
def test_rows_of_an_iterator_train_the_same_sweep(files, tmp_path):
    rows = tiny_rows.truth()
    batches = (rows.read(SITE, k) + 0.5 for k in range(rows.num_superblocks))
    store = gsae.import_rows(batches, tmp_path / "rows", site="own.site", superblock_rows=2048, dtype="float32")
    run(files, tmp_path / "from files", "harvest")
    one = {"sweep__gated__sparsity_coefficients": (0.1,), "sweep__standard__sparsity_coefficients": (0.1,)}
    run(files, tmp_path / "run", activations__paths=(), activations__store=str(store), training__steps=8, **one)
    assert len(results(tmp_path / "run")) == 2
    for part in ("train", "held_out"):
        one = ActivationStore.open(tmp_path / "from files" / "activations" / part)
        other = ActivationStore.open(store / part)
        np.testing.assert_array_equal(one.read("own.site", 0), other.read("own.site", 0))
    for name, value in {"dtype": "bfloat16", "superblock_rows": 1024, "rows": 4096}.items():
        changes = {"activations__paths": (), "activations__store": str(store), f"activations__{name}": value}
        with pytest.raises(SettingError, match=rf"config\.activations\.{name} = .*: must be .* were imported"):
            run(files, tmp_path / "refused", **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sweep__gated__sites": ("mlp_out.1",)}, r"config\.sweep\.gated\.sites\[0\] = 'mlp_out\.1': the rows have"),
        ({"language_model__name": "bundled"}, r"config\.language_model\.name = 'bundled': must be ''"),
        ({"activations__paths": ()}, r"config\.activations\.paths = \(\): must name files"),
        (
            {"activations__paths": (), "activations__store": "/nowhere"},
            r"config\.activations\.store = '/nowhere': has no",
        ),
        ({"activations__paths": ("/nowhere",)}, r"config\.activations\.paths = .*'/nowhere'"),
        ({"activations__superblock_rows": 2**15}, r"config\.activations\.superblock_rows = 32768: must be at most"),
        ({"evaluation__skip_tokens": 5000}, r"config\.evaluation\.skip_tokens = 5000: passes over all"),
        ({"activations__source": "store"}, r"config\.language_model\.name = '': must be a text that is not empty"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(files, tmp_path, changes, complaint):
    with pytest.raises(SettingError, match=complaint) as caught:
        run(files, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_stages_run_alone_in_order_only(files, tmp_path):
    for stage, missing in (("train", "harvest"), ("evaluate", "train"), ("report", "evaluate")):
        with pytest.raises(RunError, match=f"run --stage={missing} first"):
            run(files, tmp_path / "run", stage)
        if missing == "harvest":
            run(files, tmp_path / "run", "tokenise")
            run(files, tmp_path / "run", missing)
