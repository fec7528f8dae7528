"""The loop: killed, stopped or resumed anywhere, it ends with the weights and the log lines of a run that never was."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_sweep
from tiny_sweep import EVERY, POINTS, RESAMPLING, STEPS, run

from gsae.errors import Interrupted, RunError, SettingError
from gsae.training import checkpoints as checkpoints_module

PROGRAM = Path(tiny_sweep.__file__)


def values(states):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(states)[0]
    }


def assert_same(left, right):
    left, right = values(left), values(right)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


def log_lines(workdir):
    """The lines of the log without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "logs" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("timing")["tokens_per_second"] > 0
    return lines


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run: its states and its directory."""
    workdir = tmp_path_factory.mktemp("reference")
    return run(workdir), workdir


def start_program(workdir, pause, first=0):
    command = [sys.executable, PROGRAM, workdir, str(pause), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process, said):
    """Reads lines of its output up to one that has these words."""
    for line in process.stdout:
        if said in line:
            return
    raise AssertionError(f"ended without {said!r}")


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_the_log_has_every_metric_of_every_point(reference):
    lines = log_lines(reference[1])
    assert [line["step"] for line in lines] == list(range(3, STEPS + 1, 3))
    assert all(line["tokens"] == line["step"] * tiny_sweep.BATCH for line in lines)
    assert all(list(line["points"]) == [point.name for point in POINTS] for line in lines)
    wanted = {"loss", "reconstruction", "sparsity", "auxiliary", "l0", "fvu", "gamma", "norm_ratio", "dead_share"}
    wanted |= {"gradient_norm", "learning_rate", "active"}
    assert all(wanted <= point.keys() for line in lines for point in line["points"].values())
    first, last = (line["points"][POINTS[0].name]["loss"] for line in (lines[0], lines[-1]))
    assert last < 0.5 * first


def test_killed_and_started_again_equals_never_killed(reference, tmp_path, capsys):
    with start_program(tmp_path, 1000, first=2 * EVERY + 5) as process:  # further than it is saved, and not at its end
        read_until(process, "waits")
        wait_for((tmp_path / "checkpoints" / f"step-{2 * EVERY:09d}").exists, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    steps = []
    states = run(tmp_path, on_step=lambda step, states: steps.append(step))
    said = capsys.readouterr().out
    assert steps[0] > 2 * EVERY and f"training resumes at step {steps[0] - 1} of {STEPS}" in said
    assert_same(states, reference[0])
    assert log_lines(tmp_path) == log_lines(reference[1])


def test_sigterm_saves_and_the_same_command_goes_on(reference, tmp_path):
    # In this process: the handler is Python's own; the exit code of the program is looked at in the slow test.
    def stop(step, states):
        if step == 17:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match=rf"SIGTERM: saved at step 18 of {STEPS}"):
        run(tmp_path, on_step=stop)
    assert Interrupted.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    steps = []
    states = run(tmp_path, on_step=lambda step, states: steps.append(step))
    assert steps[0] == 19
    assert_same(states, reference[0])
    assert log_lines(tmp_path) == log_lines(reference[1])


def test_a_damaged_newest_checkpoint_costs_one_interval(reference, tmp_path, capsys):
    class Stop(Exception):
        pass

    def stop(step, states):
        if step == 35:
            raise Stop  # a failing evaluation ends the run; the checkpoints stay

    with pytest.raises(Stop):
        run(tmp_path, on_step=stop)
    newest = tmp_path / "checkpoints" / "step-000000030" / "state"
    file = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    states = run(tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "GFLOP" not in line]
    assert len(said) == 2 and "step-000000030: damaged, not used" in said[0] and "resumes at step 20" in said[1]
    assert_same(states, reference[0])
    assert log_lines(tmp_path) == log_lines(reference[1])


def test_a_finished_run_has_nothing_to_do(reference):
    states, workdir = reference
    before = (workdir / "logs" / "metrics.jsonl").read_bytes()

    def never(step, states):
        raise AssertionError("it trained again")

    assert_same(run(workdir, on_step=never), states)
    assert (workdir / "logs" / "metrics.jsonl").read_bytes() == before


def test_fewer_steps_than_were_made_are_refused(reference):
    with pytest.raises(SettingError, match=f"training.steps = {EVERY}.*step {STEPS}"):
        run(reference[1], steps=EVERY)


def test_all_checkpoints_damaged_is_an_error_not_a_new_start(tmp_path):
    run(tmp_path, steps=EVERY, resampling=None, points=POINTS[3:4])
    for file in (tmp_path / "checkpoints").glob("*/manifest.json"):
        file.write_text("{")
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        run(tmp_path, steps=EVERY, resampling=None, points=POINTS[3:4])


def test_a_save_that_fails_ends_the_run(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "flushed_files", full)
    with pytest.raises(RunError, match=r"step-0000000\d0.*(full|No space)"):
        run(tmp_path, points=POINTS[3:4], resampling=None)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_member_that_is_not_finite_is_frozen_and_named_once(tmp_path, capsys):
    # A learning rate of 1e30 overflows in the first update.
    wild = dataclasses.replace(POINTS[3], learning_rate=1e30)
    states = run(tmp_path, points=[POINTS[4], wild], resampling=None)
    (state,) = states.values()
    assert state.active.tolist() == [True, False]
    lines = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert len(lines) == 1 and wild.name in lines[0]
    last = log_lines(tmp_path)[-1]["points"]
    assert last[wild.name]["active"] == 0 and last[POINTS[4].name]["loss"] < 5


def test_checkpoints_continue_on_another_mesh(tmp_path):
    three = {"points": POINTS[3:], "resampling": None}
    one = run(tmp_path, steps=EVERY, **three)
    # Three members on a sweep axis of two: the group is padded to four.
    states = run(tmp_path, mesh_sizes=(2, 1, 1), steps=EVERY, **three)
    for name, state in states.items():
        assert state.active.tolist() == [True, True, True, False]
        assert_same(jax.tree.map(lambda leaf: np.asarray(leaf)[:3], state), one[name])
    states = run(tmp_path, mesh_sizes=(2, 1, 1), steps=2 * EVERY, **three)
    plain = run(tmp_path / "plain", steps=2 * EVERY, **three)
    for name, state in states.items():
        found, expected = (np.asarray(s.autoencoder.W_dec)[:3] for s in (state, plain[name]))
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_a_whole_run_on_a_mesh_ends_with_the_metrics_of_one_device(reference, tmp_path):
    """Three members on a sweep axis of two: one is padding. Weights may differ, gates flip; metrics are noise apart."""
    run(tmp_path, mesh_sizes=(2, 2, 2))
    one, many = log_lines(reference[1]), log_lines(tmp_path)
    assert [line["step"] for line in one] == [line["step"] for line in many]
    for expected, found in zip(one, many, strict=True):
        for name, metrics in expected["points"].items():
            near = 1e-2 if expected["step"] > RESAMPLING.steps[0] else 1e-3
            for metric, value in metrics.items():
                assert found["points"][name][metric] == pytest.approx(value, rel=near, abs=near), (name, metric)


@pytest.mark.slow
def test_killed_at_random_moments_equals_never_killed(reference, tmp_path):
    """SIGKILL after a random time, during saves too (one every two steps), until a run survives."""
    random = np.random.default_rng(time.time_ns())

    def published():
        return sorted((tmp_path / "checkpoints").glob("step-?????????"))

    kills, returncode = 0, None
    while returncode != 0 and kills < 20:
        before = published()
        with start_program(tmp_path, 0.04) as process:
            while process.poll() is None and published() == before:
                time.sleep(0.002)
            time.sleep(random.uniform(0, 0.3))
            process.kill()
        returncode = process.returncode
        kills += returncode != 0
    assert returncode == 0 and kills >= 3
    assert_same(run(tmp_path), reference[0])
    assert log_lines(tmp_path) == log_lines(reference[1])


@pytest.mark.slow
def test_sigterm_ends_the_program_with_75(reference, tmp_path):
    with start_program(tmp_path, 0.1) as process:
        wait_for((tmp_path / "checkpoints" / f"step-{EVERY:09d}").exists, process)
        process.terminate()
        said = process.stdout.read()
    assert process.returncode == 75 and "saved at step" in said
    with start_program(tmp_path, 0) as process:
        said = process.stdout.read()
    assert process.returncode == 0 and "training resumes at step" in said
    assert_same(run(tmp_path), reference[0])


@pytest.mark.slow
def test_a_second_sigint_kills_at_once(tmp_path):
    with start_program(tmp_path, 100, first=1) as process:
        read_until(process, "waits")
        process.send_signal(signal.SIGINT)
        read_until(process, "SIGINT: saving")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
