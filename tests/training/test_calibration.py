"""What an initial state takes from the rows: the same on any mesh, once, and not where a run goes on."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from tiny_sweep import BATCH, run

from gsae.activations.batches import Batches
from gsae.activations.synthetic import SITE, Synthetic
from gsae.autoencoders import topk
from gsae.autoencoders.registry import make_options
from gsae.autoencoders.statistics import geometric_median
from gsae.mesh import AXES, make_mesh
from gsae.training.calibration import calibrated, with_decoder_bias
from gsae.training.groups import Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings, initial_state

SETTINGS = StepSettings(batch_size=BATCH, schedules=Schedules(total_steps=10), input_scale=0.5)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(topk, "MEDIAN_ROWS", 3 * BATCH - 1)  # rounded up to three batches


def points(name="topk", **options):
    return [Point(name, SITE, 32, 4, 1e-2, seed, make_options(name, options)) for seed in (0, 1)]


def before_step_0(mesh_sizes, name="topk", **options):
    mesh = make_mesh(*mesh_sizes)
    batches = Batches(
        Synthetic(16, 24, 3.0, 2048, 512, seed=3),
        [SITE],
        BATCH,
        5,
        sharding=NamedSharding(mesh, jax.sharding.PartitionSpec(AXES)),
    )
    (group,) = group_points(points(name, **options), mesh_sizes[0])
    state = with_decoder_bias(initial_state(group, 16, mesh), np.full(16, 0.3))
    rows = np.concatenate([np.asarray(batches.at(t)[SITE]["x"], np.float32) for t in range(3)])
    return state, *calibrated(group, state, batches, SETTINGS, mesh), rows


def test_a_sample_of_the_first_batches_is_the_same_on_any_mesh():
    _, one, count, rows = before_step_0((1, 1, 1))
    assert count == 3 * BATCH
    bias_SD = np.asarray(one.autoencoder.b_dec)
    np.testing.assert_allclose(bias_SD[0], geometric_median(rows * np.float32(0.5)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(bias_SD[0], bias_SD[1])
    before, many, _, _ = before_step_0((2, 2, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, many)
    kept = jax.tree.map(lambda old, new: old.sharding == new.sharding and old.dtype == new.dtype, before, many)
    assert all(jax.tree.leaves(kept))


def test_nothing_is_read_where_nobody_asks():
    for options in ({"name": "gated"}, {"name": "rescaled_standard"}, {"geometric_median": False}):
        before, after, count, _ = before_step_0((1, 1, 1), **options)
        assert after is before and count == 0
        np.testing.assert_allclose(after.autoencoder.b_dec, 0.3)


def test_a_run_calibrates_before_its_first_step_and_not_when_it_goes_on(tmp_path, capsys):
    def stop(step, states):
        if step == 12:
            raise KeyError

    some = [dataclasses.replace(points()[0], sparsity_coefficient=float(k)) for k in (2, 4)]
    with pytest.raises(KeyError):
        run(tmp_path, points=some, steps=20, resampling=None, on_step=stop)
    assert f"calibrated on {3 * BATCH:,} rows" in capsys.readouterr().out
    run(tmp_path, points=some, steps=20, resampling=None)
    said = capsys.readouterr().out
    assert "resumes at step 10" in said and "calibrated" not in said


def test_the_geometric_median_is_where_the_directions_to_all_rows_cancel():
    rows_ND = np.random.default_rng(0).exponential(size=(501, 6)).astype(np.float32)
    rows_ND[:100] += 1000  # far away, and yet they pull no harder than others
    median_D = np.asarray(geometric_median(rows_ND), np.float64)
    to_ND = rows_ND - median_D
    assert np.linalg.norm(np.mean(to_ND / np.linalg.norm(to_ND, axis=1, keepdims=True), axis=0)) < 1e-3
    assert np.all(median_D < 3) and np.all(rows_ND.mean(axis=0) > 100)
    np.testing.assert_allclose(geometric_median(np.full((5, 3), 2.0, np.float32)), 2, rtol=1e-6)


@pytest.mark.slow
def test_two_processes_calibrate_as_one_does():
    program = Path(__file__).with_name("calibrating.py")

    def printed(processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, program, port, str(processes)]
        where = {"env": os.environ | {"PYTHONPATH": str(program.parents[2])}, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen([*command, str(i)], **where) for i in range(processes)]
        lines = [process.communicate(timeout=300)[0].splitlines() for process in started]
        return [[line.split()[1:] for line in own if line.startswith("calibrated ")] for own in lines]

    (alone,), pair = printed(1), printed(2)
    assert pair[0] == pair[1] and [line[:2] for line in alone] == [["topk", "2048"], ["jumprelu_tanh", "2048"]]
    for one, two in zip(alone, pair[0], strict=True):
        values, others = (np.frombuffer(bytes.fromhex(line[2]), np.float32) for line in (one, two))
        assert np.all(values != 0)
        np.testing.assert_allclose(values, others, rtol=1e-5, atol=1e-6)
