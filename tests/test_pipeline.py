"""The whole run: every stage, run again, run alone, interrupted, and with wrong input."""

import csv
import json

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file

import gsae
from gsae import config, pipeline
from gsae.errors import RunError, SettingError

COLUMNS = (
    "architecture, layer, site, width, sparsity_coefficient, learning_rate, seed, data_seed, steps, l0, "
    "loss_recovered, loss_recovered_se, ce_clean, ce_spliced, ce_zero, kl, gamma, gamma_centred, fvu, alive, status"
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_run.documents(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    pipeline.run(config.parse(tiny_run.configuration(texts)), workdir, command="python -m gsae.main")
    return workdir


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


def assert_equal_weights(ours, others):
    assert ours.keys() == others.keys() and len(ours) == 4
    for point, arrays in ours.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[point][name], err_msg=f"{point} {name}")


def test_a_run_leaves_what_the_readme_promises(finished):
    for name in ("results.csv", "frontier.png", "shrinkage.png", "density.png", "report.html", "logs/metrics.jsonl"):
        assert (finished / name).stat().st_size > 0, name
    assert any((finished / "checkpoints").iterdir())
    with open(finished / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:21] == COLUMNS.split(", ")
    assert len(rows) == 4
    assert {row["architecture"] for row in rows} == {"gated", "standard"}
    assert {row["width"] for row in rows} == {"64", "96"}
    assert all(row["status"] == "ok" and float(row["l0"]) > 0 for row in rows)
    for row in rows:  # of no more than 1000 tokens, spread over all that were judged by
        norms_N2 = np.load(finished / "evaluation" / row["point"] / "norms.npy")
        assert 500 < len(norms_N2) <= 1000 and np.isfinite(norms_N2).all() and float(row["error_bound"]) > 0
    assert "Norms of codes" in (finished / "report.html").read_text()


def test_the_weights_load_in_one_line_and_work_on_raw_activations(finished):
    [path] = (finished / "autoencoders").glob("gated*l0.1-*")
    sae = gsae.load(path)
    x = np.random.default_rng(0).normal(size=(3, 5, 128)).astype(np.float32)
    assert sae.decode(sae.encode(x)).shape == x.shape
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)


def test_the_report_says_how_well_the_jumprelu_forms_agree(finished):
    found = json.loads((finished / "equivalence" / "equivalence.json").read_text())
    assert len(found) == 4 and all(point["differ"] <= 1 and point["largest"] < 1e-5 for point in found.values())
    assert {point["rows"] for point in found.values()} == {2048}
    text = (finished / "report.html").read_text()
    assert "Written as JumpReLU autoencoders, 4 of these" in text


def test_points_know_where_they_come_from(finished):
    [path] = (finished / "autoencoders").glob("gated*l0.1-*")
    about = gsae.load(path).metadata
    assert (about["site"], about["layer"], about["language_model"], about["context_length"]) == (
        "attn_z",
        1,
        "bundled",
        64,
    )
    assert about["input_scale"] > 0


def test_the_normalisation_is_folded_into_the_weights(finished):
    """Evaluated on raw activations, the reconstruction explains what it explained of the scaled ones."""
    with open(finished / "results.csv") as file:
        evaluated = {row["point"]: float(row["fvu"]) for row in csv.DictReader(file)}
    last = json.loads((finished / "logs" / "metrics.jsonl").read_text().splitlines()[-1])["points"]
    for point, fvu in evaluated.items():
        assert abs(fvu - last[point]["fvu"]) < 0.25 * fvu, point


def test_a_second_run_has_nothing_to_do(finished, texts):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*.safetensors")}
    before |= {file: file.stat().st_mtime_ns for file in finished.rglob("row.json")}
    pipeline.run(config.parse(tiny_run.configuration(texts)), finished)
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_evaluation_settings_may_change_and_others_may_not(finished, texts):
    weights_before = weights(finished)
    changed = tiny_run.configuration(texts, evaluation__zero_ablation="all_positions")
    pipeline.run(config.parse(changed), finished, stage="evaluate")
    assert_equal_weights(weights_before, weights(finished))
    for name, value in {"sae__width": 128, "training__beta2": 0.9, "text__context_length": 32, "seed": 1}.items():
        with pytest.raises(
            SettingError, match=f"config.{name.replace('__', '.')} = {value}: this workdir was made with"
        ):
            pipeline.run(config.parse(tiny_run.configuration(texts, **{name: value})), finished)
    assert_equal_weights(weights_before, weights(finished))


def test_stages_run_alone_in_order_only(texts, tmp_path):
    settings = config.parse(tiny_run.configuration(texts))
    order = (("harvest", "tokenise"), ("train", "harvest"), ("evaluate", "train"), ("report", "evaluate"))
    for stage, missing in order:
        with pytest.raises(RunError, match=f"run --stage={missing} first"):
            pipeline.run(settings, tmp_path / "run", stage=stage)
        if missing in ("tokenise", "harvest"):
            pipeline.run(settings, tmp_path / "run", stage=missing)


@pytest.mark.slow
def test_runs_share_a_store_and_a_point_trains_alone_as_in_the_sweep(finished, texts, tmp_path):
    alone = tiny_run.configuration(
        texts,
        text__store=str(finished / "tokens"),
        activations__store=str(finished / "activations"),
        sweep__gated__sparsity_coefficients=(0.4,),
        sweep__standard__sparsity_coefficients=(0.2,),
    )
    pipeline.run(config.parse(alone), tmp_path / "run")
    assert not (tmp_path / "run" / "activations").exists()
    together, single = weights(finished), weights(tmp_path / "run")
    assert single.keys() < together.keys()
    for point, arrays in single.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(array, together[point][name], atol=2e-4, err_msg=f"{point} {name}")


def test_a_store_made_otherwise_is_refused(finished, texts, tmp_path):
    other = tiny_run.configuration(texts, text__store=str(finished / "tokens"), text__held_out_fraction=0.3)
    with pytest.raises(SettingError, match=r"config\.text\.store"):
        pipeline.run(config.parse(other), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sweep__gated__sites": ("mlp_out.9",)}, r"config\.sweep\.gated\.sites\[0\] = 'mlp_out\.9': .* layers 0 to 3"),
        ({"sweep__gated__sites": ("mlp_in.1",)}, r"config\.sweep\.gated\.sites\[0\] = 'mlp_in\.1': .*resid_post"),
        (
            {"sweep__gated__architecture": "gatd"},
            r"config\.sweep\.gated\.architecture = 'gatd': must be one of abstopk",
        ),
        (
            {"sweep__gated__options__reconstruction_scale": "max"},
            r"config\.sweep\.gated\.options\.reconstruction_scale",
        ),
        ({"sweep__standard__width_factor": 1.01}, r"config\.sweep\.standard\.width_factor = 1\.01: .*whole number"),
        ({"mesh__data": 64}, r"config\.mesh = .* needs 64 devices"),
        ({"mesh__data": 3, "training__batch_size": 256}, r"config\.training\.batch_size = 256: .*multiple"),
        (
            {"mesh__feature": 5, "training__batch_size": 5, "activations__superblock_rows": 2000},
            r"config\.sae\.width = 64: .*feature = 5",
        ),
        ({"language_model__name": "/nowhere/at/all"}, r"config\.language_model\.name = '/nowhere/at/all'"),
        ({"text__paths": ("/nowhere/at/all.txt",)}, r"config\.text\.paths"),
        ({"text__context_length": 4096}, r"config\.text\.context_length = 4096: .*at most 256"),
        ({"activations__superblock_rows": 2**24, "activations__rows": 0}, r"config\.activations\.superblock_rows"),
        ({"training__resampling__at": ("90%",)}, r"config\.training\.resampling\.at = '90%'"),
        ({"evaluation__baseline": "topk"}, r"config\.evaluation\.baseline = 'topk': must be one of gated, standard"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(texts, tmp_path, changes, complaint):
    with pytest.raises(SettingError, match=complaint) as caught:
        pipeline.run(config.parse(tiny_run.configuration(texts, **changes)), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_empty_text_and_unsupported_families_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(SettingError, match=r"config\.text"):
        pipeline.run(config.parse(tiny_run.configuration(tmp_path / "empty")), tmp_path / "run")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(SettingError, match=r"config\.language_model\.name.*mamba.*gpt_neox"):
        pipeline.run(
            config.parse(tiny_run.configuration(tmp_path, language_model__name=str(tmp_path / "model"))),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written_is_one_line(texts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written"):
        pipeline.run(config.parse(tiny_run.configuration(texts)), tmp_path / "file" / "run")
