"""Killed with SIGKILL at any moment and started again, a run ends with the weights of one that never was."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny_rows
import tiny_run
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


class Moment(NamedTuple):
    """What a run looks like when it is killed: so many files match a pattern below the workdir, one of them new since
    it was started, and none the other pattern."""

    pattern: str
    count: int = 1
    later: str = "report.html"


TRAINED = "autoencoders/*/manifest.json"
LAST = "checkpoints/step-*24/manifest.json"
LATE = "checkpoints/step-*18/manifest.json"
SAVING, SAVED = "checkpoints/step-*partial*", "checkpoints/step-*[0-9]/manifest.json"
TRAINING = Moment(SAVED, later=TRAINED)
# in the order in which a run comes to them
MOMENTS = {
    "encoded": Moment("tokens/portions/*/manifest.json"),
    "tokenise": Moment("tokens/*partial*"),
    "harvest": Moment("activations/**/*.json", 2),
    "during a save": Moment(SAVING, later=LAST),
    "train": Moment(SAVED, later=LAST),
    "evaluate": Moment(TRAINED, 4),
    "report": Moment("evaluation/*/manifest.json", 4),
}
# the same, for a run whose rows are made live
LIVE_MOMENTS = {
    "statistics": Moment("statistics.json", later=TRAINED),
    "during a save": Moment(SAVING, later=LATE),
    "train": Moment(SAVED, later=LATE),
    "late": Moment(LATE, later=TRAINED),
}
LIVE = {"activations__source": "live"}
# the same, for a run on rows from elsewhere
ROWS_MOMENTS = {
    "import": Moment("activations/train/superblocks/*.json", 2),
    "train": TRAINING,
    "evaluate": Moment("evaluation/*/manifest.json"),
}
ATTEMPTS = 5


def start(texts, workdir, log, **changes):
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}  # who is killed has printed what it said
    command = [sys.executable, "-m", "gsae.main", f"--workdir={workdir}", *tiny_run.flags(texts, **changes)]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def log_of(workdir):
    return Path(f"{workdir}.log").read_text()


def run_to_the_end(texts, workdir, **changes):
    with open(f"{workdir}.log", "w+") as log:
        code = start(texts, workdir, log, **changes).wait(600)
        log.seek(0)
        text = log.read()
    assert code == 0, text[-3000:]
    return text


def kill_at(texts, workdir, moment, signal_number=signal.SIGKILL, **changes):
    """Starts a run and sends it a signal at a moment; its exit code. On a busy machine a run may be further by the time
    that the moment is seen: then it does not count, and another one goes on from where this one did."""
    before = Path(f"{workdir}.before")
    shutil.rmtree(before, ignore_errors=True)
    if workdir.exists():
        shutil.copytree(workdir, before)
    there = set(workdir.glob(moment.pattern))

    def has_come():
        found = set(workdir.glob(moment.pattern))
        return len(found) >= moment.count and not found <= there

    for _ in range(ATTEMPTS):
        with open(f"{workdir}.log", "w") as log:
            process = start(texts, workdir, log, **changes)
            while process.poll() is None and not has_come():
                time.sleep(0.002)
            process.send_signal(signal_number)
            code = process.wait(300)
        assert code in (0, 75, -signal_number), log_of(workdir)[-3000:]
        if code and not any(workdir.glob(moment.later)):
            return code
        shutil.rmtree(workdir)
        if before.exists():
            shutil.copytree(before, workdir)
    raise AssertionError(f"{ATTEMPTS} runs were further than {moment} by the time that it was seen")


def killed_at_each(texts, workdir, moments, **changes):
    """One run that is killed at every moment and each time started again; what it said before each kill."""
    said = {}
    for name, moment in moments.items():
        assert kill_at(texts, workdir, moment, **changes) == -signal.SIGKILL, name
        said[name] = log_of(workdir)
    return said


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return tiny_run.documents(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def uninterrupted(texts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_to_the_end(texts, workdir)
    return workdir


def assert_same_results(workdir, uninterrupted):
    ours, others = weights(workdir), weights(uninterrupted)
    assert ours.keys() == others.keys() and len(ours) == 4
    for point, arrays in ours.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[point][name], err_msg=f"{point} {name}")
    assert (workdir / "results.csv").read_text() == (uninterrupted / "results.csv").read_text()
    timing = re.compile(r'"timing": \{[^}]*\}')
    logs = [timing.sub("", (path / "logs" / "metrics.jsonl").read_text()) for path in (workdir, uninterrupted)]
    assert logs[0] == logs[1]


def resumed_at(text):
    found = re.search(r"training resumes at step (\d+) of 24", text)
    assert found, text[-3000:]
    return int(found[1])


def generations(text):
    return int(re.search(r"live: (\d+) generations of 2,048 rows made", text)[1])


def test_killed_at_every_moment_it_ends_the_same(texts, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    said = killed_at_each(texts, workdir, MOMENTS)
    assert resumed_at(said["evaluate"]) >= 6
    run_to_the_end(texts, workdir)
    assert_same_results(workdir, uninterrupted)


def test_killed_while_rows_are_made_live_it_ends_as_the_store_does(texts, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    killed_at_each(texts, workdir, LIVE_MOMENTS, **LIVE)
    text = run_to_the_end(texts, workdir, **LIVE)
    assert_same_results(workdir, uninterrupted)
    # Made again: the generation that the checkpoint was in and the next, which are 3 of 8 steps each in all.
    assert resumed_at(text) == 18 and generations(text) == 1
    assert not (workdir / "activations").exists()


def test_begun_live_it_goes_on_from_a_store(texts, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    assert kill_at(texts, workdir, TRAINING, **LIVE) == -signal.SIGKILL
    text = run_to_the_end(texts, workdir)
    assert resumed_at(text) >= 6 and "rows live, the others were stored" in report_of(workdir)
    assert_same_results(workdir, uninterrupted)


def report_of(workdir):
    return (workdir / "report.html").read_text()


@pytest.mark.parametrize("source", [{}, LIVE], ids=["store", "live"])
def test_a_terminated_run_says_so_and_goes_on(texts, uninterrupted, tmp_path, source):
    workdir = tmp_path / "run"
    assert kill_at(texts, workdir, TRAINING, signal.SIGTERM, **source) == 75
    assert "the same command continues" in log_of(workdir)
    text = run_to_the_end(texts, workdir, **source)
    assert_same_results(workdir, uninterrupted)
    assert not source or generations(text) == 3 - resumed_at(text) // 8


def test_a_damaged_newest_checkpoint_is_passed_over(texts, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    twelfth = Moment("checkpoints/step-*12/manifest.json", later=TRAINED)
    assert kill_at(texts, workdir, twelfth) == -signal.SIGKILL
    newest = max((workdir / "checkpoints").glob("step-*[0-9]"))
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    damaged = bytearray(largest.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    largest.write_bytes(bytes(damaged))
    text = run_to_the_end(texts, workdir)
    assert newest.name in text and resumed_at(text) >= 6
    assert_same_results(workdir, uninterrupted)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The settings of a run on rows from elsewhere, and such a run that nobody stopped."""
    files = tiny_rows.write(tmp_path_factory.mktemp("rows"))
    workdir = tmp_path_factory.mktemp("rows uninterrupted") / "run"
    run_to_the_end(files, workdir, **tiny_rows.changes(files))
    return files, workdir


def test_a_run_on_rows_from_elsewhere_killed_at_every_moment_ends_the_same(rows, tmp_path):
    files, uninterrupted = rows
    workdir = tmp_path / "run"
    killed_at_each(files, workdir, ROWS_MOMENTS, **tiny_rows.changes(files))
    run_to_the_end(files, workdir, **tiny_rows.changes(files))
    assert_same_results(workdir, uninterrupted)
