"""launch/slurm.sbatch where there is no Slurm: what jax makes of its layout, and the script with a stub of srun."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from jax._src.clusters import ClusterEnv

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
PATIENCE = 120  # seconds: machines are slow
JAX_READS = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")

# starts the tasks as the real one does, each with its own variables, and exits with their highest code
SRUN = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
here = Path({here!r})
with open(here / "calls.jsonl", "a") as file:
    print(json.dumps(sys.argv), file=file)
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
tasks = int(os.environ["SLURM_NTASKS"])
step = dict(os.environ, SLURM_STEP_NODELIST="localhost")
running = [subprocess.Popen(command, env=dict(step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))) for i in range(tasks)]
sys.exit(max(task.wait() for task in running))
"""
SCONTROL = """#!{python}
import json, sys
with open({here!r} + "/calls.jsonl", "a") as file:
    print(json.dumps(sys.argv), file=file)
"""
# jax is told nothing: it must recognise Slurm by itself
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize()
from jax.experimental.multihost_utils import process_allgather
numbers = process_allgather(jax.numpy.array([jax.process_index() + 1]))
who = f"process {jax.process_index()} of {jax.process_count()}"
sys.stdout.write(f"{who} sees {numbers.sum()} and {jax.device_count()} devices\\n")  # in one piece
"""


def layout():
    """What the #SBATCH lines ask for."""
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", SCRIPT.read_text(), re.M))


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu[07-08]", "gpu07"), ("gpu07,gpu08", "gpu07"), ("gpu[007,011],other2", "gpu007")]
)
def test_jax_recognises_the_tasks_that_the_script_asks_for(monkeypatch, nodes, first):
    asked = layout()
    per_node = int(asked["ntasks-per-node"])
    tasks = int(asked["nodes"]) * per_node
    seen = []
    for index in range(tasks):
        values = ("4711", nodes, str(tasks), str(index), str(index % per_node))
        for name, value in zip(JAX_READS, values, strict=True):
            monkeypatch.setenv(name, value)
        seen.append(ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300))
    port = 4711 % 2**12 + 65536 - 2**12
    expected = [(f"{first}:{port}", tasks, index, [index % per_node]) for index in range(tasks)]
    assert seen == expected
    # a task's device is one of those that it sees: all of its node's
    assert per_node == int(asked["gpus-per-node"])
    assert "gpus-per-task" not in asked


def test_the_script_leaves_time_for_a_checkpoint_and_goes_back_into_the_queue():
    signal, _, seconds = layout()["signal"].partition("@")
    assert signal == "TERM"  # without B: the tasks get it, not this script
    assert int(seconds) >= 60
    assert "\n#SBATCH --requeue\n" in SCRIPT.read_text()


@pytest.fixture
def slurm(tmp_path):
    """A directory with srun and scontrol in it; returns a function that runs the script in a job of two tasks."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text.format(python=sys.executable, here=str(tmp_path)))
        (tmp_path / name).chmod(0o755)

    def run(program, **changes):
        known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_", "XLA_"))}
        job = {"SLURM_JOB_ID": str(job_with_a_free_port()), "SLURM_NTASKS": "2", "JAX_PLATFORMS": "cpu"}
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", SCRIPT, "python", "-c", program, "a word", '("it\'s", $HOME)'],
            env=known | job | {"PATH": path, "HOME": str(tmp_path)} | changes,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


def job_with_a_free_port():
    """A job number from which jax makes a port that nobody uses."""
    for number in range(os.getpid(), os.getpid() + 2**12):
        with socket.socket() as listener:
            try:
                listener.bind(("", number % 2**12 + 65536 - 2**12))
            except OSError:
                continue
        return number
    raise AssertionError("no free port")


def calls(directory):
    return [json.loads(line) for line in (directory / "calls.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_tasks_meet_through_what_slurm_says(slurm, tmp_path):
    done = slurm(PROGRAM)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("process")]  # gloo prints, too
    assert sorted(said) == [f"process {i} of 2 sees 3 and 4 devices" for i in range(2)]
    ((_, *call),) = calls(tmp_path)
    options = ["--kill-on-bad-exit=0", "--wait=300"]
    assert call == [*options, "python", "-c", PROGRAM, "a word", '("it\'s", $HOME)']


def test_75_goes_back_into_the_queue_and_a_failure_does_not(slurm, tmp_path):
    one = "import os, sys; sys.exit({} if os.environ['SLURM_PROCID'] == '1' else 0)"
    assert slurm(one.format(75), SLURM_JOB_ID="4711").returncode == 0
    assert calls(tmp_path)[-1][1:] == ["requeue", "4711"]
    assert slurm(one.format(3)).returncode == 3
    assert slurm(one.format(75), SLURM_RESTART_COUNT="100").returncode == 75
    assert [Path(call[0]).name for call in calls(tmp_path)] == ["srun", "scontrol", "srun", "srun"]


def test_secrets_come_from_a_file_that_nobody_else_may_read(slurm, tmp_path):
    secrets = tmp_path / ".config" / "gsae" / "secrets"
    secrets.parent.mkdir(parents=True)
    secrets.write_text("HF_TOKEN=hf_nobodyMaySee\n")
    secrets.chmod(0o644)
    done = slurm("print('started')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"slurm.sbatch: {secrets} can be read by others: chmod 600 it\n"
    secrets.chmod(0o600)
    done = slurm("import os, sys; sys.stdout.write(f\"{len(os.environ['HF_TOKEN'])}\\n\")")
    assert (done.returncode, done.stdout) == (0, "15\n15\n")
    assert "hf_nobodyMaySee" not in (tmp_path / "calls.jsonl").read_text() + done.stderr


def test_without_a_command_it_is_one_line():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no command: sbatch launch/slurm.sbatch python" in done.stderr
