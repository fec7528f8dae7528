"""A finished sweep: points are added, extended, removed and brought back, and all others stay byte for byte."""

import csv
import shutil

import numpy as np
import pytest
import tiny_rows
from safetensors.numpy import load_file

from gsae import config, pipeline
from gsae.autoencoders.saving import read_metadata
from gsae.errors import RunError, SettingError

# The learning rate does not fall and nothing is said in shares of the run: more steps are the same training, longer.
AT_ONCE = {"training__decay": "constant", "training__resampling__at": ("12 steps",), "evaluation__every": 0}
SWEEP = {"sweep__gated__sparsity_coefficients": (0.4,), "sweep__standard__sparsity_coefficients": (0.05, 0.2)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny_rows.write(tmp_path_factory.mktemp("rows"))


def run(rows, workdir, **changes):
    pipeline.run(config.parse(tiny_rows.configuration(rows, **AT_ONCE | SWEEP | changes)), workdir)


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run(rows, workdir)
    return workdir


def kept(workdir, *, without=()):
    """What is kept of every point, by the file's place."""
    files = [file for part in ("autoencoders", "evaluation") for file in (workdir / part).rglob("*") if file.is_file()]
    return {
        str(file.relative_to(workdir)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in files
        if file.relative_to(workdir).parts[1] not in without
    }


def results(workdir):
    with open(workdir / "results.csv") as file:
        return {row["point"]: row for row in csv.DictReader(file)}


def assert_equal(ours, others, **tolerance):
    ours, others = (load_file(path / "weights.safetensors") for path in (ours, others))
    for name, array in ours.items():
        np.testing.assert_allclose(array, others[name], err_msg=name, **tolerance)


@pytest.mark.slow
def test_points_are_added_and_extended_and_the_others_stay(finished, rows, tmp_path):
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(finished, workdir)
    before = kept(workdir)
    added = {"sweep__gated__sparsity_coefficients": (0.1, 0.4), "sweep__standard__sparsity_coefficients": (0.2,)}

    # One point more, one less.
    run(rows, workdir, **added)
    new = "gated-own.site-32-l0.1-lr0.004-s0"
    assert kept(workdir, without=(new,)) == before, "what was there has been touched"
    assert results(workdir).keys() == {new, "gated-own.site-32-l0.4-lr0.004-s0", "standard-own.site-48-l0.2-lr0.008-s0"}
    report = (workdir / "report.html").read_text()
    assert new in report and "l0.05" not in report

    # As if it had been there from the start, and the one that was removed is back, untouched.
    run(rows, whole, **added)
    assert_equal(workdir / "autoencoders" / new, whole / "autoencoders" / new, rtol=0, atol=0)
    after = kept(workdir)
    run(rows, workdir, **SWEEP)
    assert kept(workdir) == after and len(results(workdir)) == 3

    # The gated entry goes on to 40 steps, the standard one stays.
    longer = {"sweep__gated__sparsity_coefficients": (0.1, 0.4), "sweep__gated__steps": 40}
    run(rows, workdir, **longer)
    extended = [name for name in results(workdir) if name.startswith("gated")]
    assert len(extended) == 2
    for name in extended:
        row, about = results(workdir)[name], read_metadata(workdir / "autoencoders" / name)
        assert (row["steps"], row["extended_from"], about["steps"], about["extended_from"]) == ("40", "24", 40, [24])
    same = {name: entry for name, entry in after.items() if "/standard" in name}
    assert same and same.items() <= kept(workdir).items()
    run(rows, tmp_path / "direct", **longer)
    for name in extended:
        assert_equal(workdir / "autoencoders" / name, tmp_path / "direct" / "autoencoders" / name, rtol=0, atol=0)

    with pytest.raises(SettingError, match=r"config\.training\.steps = 24: gated.* is trained for 40 steps already"):
        run(rows, workdir, **longer | {"sweep__gated__steps": 0})
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint of step 40"):
        run(rows, workdir, **longer | {"sweep__gated__steps": 48})


@pytest.mark.slow
def test_targets_are_found_and_a_killed_run_finds_the_same(rows, tmp_path, monkeypatch, capsys):
    wanted = {"sweep__gated__sparsity_coefficients": (), "sweep__gated__target_l0": (2.0, 5.0)}
    wanted |= {"training__target_l0__pilot": "12 steps", "evaluation__every": 7, "training__checkpoint_every": 5}
    few = r"held_out_tokens = 32768: must be at most \d+: of \d+ held-out tokens .* take 1500; 0 aims at"
    with pytest.raises(SettingError, match=few):
        run(rows, tmp_path / "never", **wanted)
    wanted["training__target_l0__held_out_tokens"] = 400
    run(rows, tmp_path / "never", **wanted)
    assert capsys.readouterr().err.count("times the L0 of training rows on held-out tokens") == 2
    look, asked = pipeline._look, []

    def killed(job, groups, step, states):
        asked.append(step)
        if step == 21:  # its last checkpoint is from after the measurement on held-out rows
            raise KeyboardInterrupt
        look(job, groups, step, states)

    monkeypatch.setattr(pipeline, "_look", killed)
    with pytest.raises(KeyboardInterrupt):
        run(rows, tmp_path / "killed", **wanted)
    monkeypatch.undo()
    capsys.readouterr()
    run(rows, tmp_path / "killed", **wanted)
    out, err = capsys.readouterr()
    assert asked == [7, 14, 21] and "resumes at step 20" in out and "times the L0" not in err
    never, killed_results = results(tmp_path / "never"), results(tmp_path / "killed")
    assert never == killed_results and len(never) == 4
    for name, row in never.items():
        place = tmp_path / "never" / "autoencoders" / name
        assert_equal(place, tmp_path / "killed" / "autoencoders" / name, rtol=0, atol=0)
        if name.startswith("standard"):
            continue
        about = read_metadata(place)
        assert float(row["sparsity_coefficient"]) == about["sparsity_coefficient"] > 0
        assert float(row["target_l0"]) == about["target_l0"]
