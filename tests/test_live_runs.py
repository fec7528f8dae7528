"""Whole runs on rows made live: the weights, results and logs of the same run on a store."""

import json

import numpy as np
import pytest
import tiny_run
from safetensors.numpy import load_file

from gsae import config, pipeline
from gsae.errors import RunError

# Three generations an epoch and a bit more than two epochs; no resampling, which other tests look at.
SHORT = {
    "activations__rows": 3072,
    "activations__superblock_rows": 1024,
    "training__steps": 26,
    "sweep__gated__sparsity_coefficients": (0.1,),
    "sweep__standard__sparsity_coefficients": (0.05,),
    "sae__decoder_bias": "mean",
    "evaluation__every": 0,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_run.documents(tmp_path_factory.mktemp("texts"))


def run(texts, workdir, source, stage="all", **changes):
    settings = tiny_run.configuration(texts, activations__source=source, **(SHORT | changes))
    pipeline.run(config.parse(settings), workdir, stage=stage)


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


def assert_equal(ours, others, points=2):
    assert ours.keys() == others.keys() and len(ours) == points
    for point, arrays in ours.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[point][name], err_msg=f"{point} {name}")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "logs" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_live_equals_cached_bit_for_bit(texts, tmp_path, capsys):
    cached, live = tmp_path / "cached", tmp_path / "live"
    wanted = {"sweep__gated__sparsity_coefficients": (), "sweep__gated__target_l0": (8.0,)}
    wanted |= {"training__target_l0__pilot": "8 steps", "training__target_l0__held_out_tokens": 512}
    run(texts, cached, "store", **wanted)
    assert "times the L0 of training rows" in capsys.readouterr().err
    with pytest.raises(RunError, match="run --stage=tokenise first"):
        run(texts, live, "live", stage="train")
    run(texts, live, "live", **wanted)
    assert "harvest: nothing to do" in capsys.readouterr().out
    assert not (live / "activations").exists()
    assert_equal(weights(live), weights(cached))
    assert (live / "results.csv").read_text() == (cached / "results.csv").read_text()
    timings = {workdir: [line.pop("timing") for line in lines(workdir)] for workdir in (live, cached)}
    assert all(0 <= timing["language_model_stall_share"] < 1.01 for timing in timings[live])
    assert not any("language_model_stall_share" in timing for timing in timings[cached])
    assert "The language model made the rows live while the sweep trained" in (live / "report.html").read_text()
    assert "The rows were stored before the training" in (cached / "report.html").read_text()
    # The weights are the same whichever way the rows came: nothing is left to train for the other source.
    capsys.readouterr()
    run(texts, live, "store", **wanted)
    assert "GFLOP a step" not in capsys.readouterr().out
    # A point more, and more steps for the one with a target: rounds of their own.
    more = wanted | {"sweep__standard__sparsity_coefficients": (0.05, 0.1), "sweep__gated__steps": 32}
    run(texts, cached, "store", stage="train", **more)
    run(texts, live, "live", stage="train", **more)
    assert_equal(weights(live), weights(cached), points=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices",
    [
        {"mesh__sweep": 1, "mesh__data": 2, "mesh__feature": 2},  # the language model shares them
        {"mesh__sweep": 1, "mesh__data": -1, "mesh__feature": 2, "activations__devices": 4},  # it has four of its own
        # its parameters are split, so that both have collectives on the same devices
        {"mesh__sweep": 1, "mesh__data": 2, "mesh__feature": 2, "language_model__parts": 2, "evaluation__every": 10},
    ],
    ids=["shared", "of its own", "split"],
)
def test_on_several_devices_live_equals_cached(texts, tmp_path, devices):
    for source in ("store", "live"):
        run(texts, tmp_path / source, source, stage="tokenise", **devices)
        run(texts, tmp_path / source, source, stage="harvest", **devices)
        run(texts, tmp_path / source, source, stage="train", **devices)
    assert_equal(weights(tmp_path / "live"), weights(tmp_path / "store"))
