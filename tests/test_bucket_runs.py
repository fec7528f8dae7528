"""Whole runs whose store and checkpoints are in a bucket; what is wrong with one is said before anything is done."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from bucket_servers import BUCKET, FORBIDDEN
from safetensors.numpy import load_file

from gsae.places import names, place

ATTEMPTS = 5


def start(texts, workdir, log, **changes):
    command = [sys.executable, "-m", "gsae.main", f"--workdir={workdir}", *tiny_run.flags(texts, **changes)]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"XLA_FLAGS": ""})


def run(texts, workdir, **changes):
    """Exit code and what was said."""
    log = Path(f"{workdir}.log")
    with open(log, "w") as file:
        code = start(texts, workdir, file, **changes).wait(600)
    return code, log.read_text()


def kill_when(ready, texts, workdir, **changes):
    """Starts a run and kills it as soon as it is `ready`; whether there was something left to kill."""
    with open(f"{workdir}.log", "w") as log:
        process = start(texts, workdir, log, **changes)
        while not ready() and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        code = process.wait(60)
    assert code in (0, -signal.SIGKILL), Path(f"{workdir}.log").read_text()[-3000:]
    return code != 0


def killed_twice(texts, workdir):
    """A run that is killed while it harvests and while it trains; begun anew where a busy machine saw that too late.

    Returns: its place in the bucket, and the settings that name it.
    """
    for attempt in range(ATTEMPTS):
        here = place(f"gs://{BUCKET}/run{attempt}")
        urls = {"activations__store": f"{here}/store", "training__checkpoints": f"{here}/checkpoints"}
        harvests = kill_when(lambda here=here: len(names(here / "store" / "superblocks")) >= 2, texts, workdir, **urls)
        harvests = harvests and not (here / "store" / "manifest.json").exists()
        trains = harvests and kill_when((here / "checkpoints" / "index.json").exists, texts, workdir, **urls)
        if trains and not any(workdir.glob("autoencoders/*/manifest.json")):
            return here, urls
        shutil.rmtree(workdir)
    raise AssertionError(f"{ATTEMPTS} runs were seen too late")


def weights(workdir):
    return {file.parent.name: load_file(file) for file in sorted(workdir.glob("autoencoders/*/weights.safetensors"))}


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_weights_of_a_run_on_the_disk(google, tmp_path):
    texts = tiny_run.documents(tmp_path / "texts")
    code, said = run(texts, tmp_path / "local")
    assert code == 0, said[-3000:]
    workdir = tmp_path / "there"
    here, urls = killed_twice(texts, workdir)
    code, said = run(texts, workdir, **urls)
    assert code == 0 and "training resumes at step" in said, said[-3000:]
    ours, others = weights(workdir), weights(tmp_path / "local")
    assert ours.keys() == others.keys() and len(ours) == 4
    for point, arrays in ours.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[point][name], err_msg=f"{point} {name}")
    assert (workdir / "results.csv").read_text() == (tmp_path / "local" / "results.csv").read_text()
    assert not (workdir / "activations").exists() and not (workdir / "checkpoints").exists()
    files = {str(f.relative_to(tmp_path / "local" / "activations")): f for f in tmp_path.glob("local/activations/**/*")}
    files = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    assert {key: (here / "store" / key).read_bytes() for key in (here / "store").keys()} == files  # noqa: SIM118
    assert {name for name in names(here / "checkpoints") if "step" in name} == {"step-000000018", "step-000000024"}


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (
            {"activations__store": "gs://UPPER/store"},
            2,
            r"config.activations.store = 'gs://UPPER/store': must be a dir",
        ),
        ({"training__checkpoints": "ftp://x/y"}, 2, "config.training.checkpoints = 'ftp://x/y': must be a directory"),
        ({"training__checkpoints": "s3://bucket/y"}, 2, "config.training.checkpoints = 's3://bucket/y': must be a dir"),
        ({"text__store": "gs://bucket/tokens"}, 2, "config.text.store = 'gs://bucket/tokens': must be a directory"),
        ({"activations__store": f"gs://{FORBIDDEN}/store"}, 1, "PERMISSION_DENIED"),
        ({"activations__store": "gs://no-such-bucket/store"}, 1, "is there such a bucket?"),
        ({"training__checkpoints": f"gs://{FORBIDDEN}/x"}, 1, "PERMISSION_DENIED"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_done(google, tmp_path, changes, code, said):
    from gsae import config, pipeline
    from gsae.errors import RunError, SettingError

    settings = config.parse(tiny_run.configuration(tmp_path, **changes))
    with pytest.raises((RunError, SettingError)) as error:
        pipeline.run(settings, tmp_path / "run")
    assert error.value.exit_code == code and said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_no_traceback_for_it_on_the_command_line(google, tmp_path):
    texts = tiny_run.documents(tmp_path / "texts")
    for changes, expected in (
        ({"activations__store": f"gs://{FORBIDDEN}/store"}, 1),
        ({"activations__store": "http://bucket/store"}, 2),
    ):
        code, said = run(texts, tmp_path / "run", **changes)
        lines = [line for line in said.splitlines() if "google_auth_provider" not in line]  # TensorStore's own remark
        assert code == expected and len(lines) == 1 and lines[0].startswith("gsae: "), said
    with open(tmp_path / "log", "w+") as log:
        assert start(texts, f"gs://{BUCKET}/run", log).wait(300) == 2
        log.seek(0)
        assert log.read().startswith("gsae: --workdir = 'gs://bucket/run': must be a directory")
