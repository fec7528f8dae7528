"""launch/local.py with real processes: what they are given, how they end, and what its own exit code then is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"
PATIENCE = 120  # seconds: machines are slow

# sums one number of every device of every process, through a collective
JAX_PROGRAM = """
import os, jax
jax.distributed.initialize(
    os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"]))
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((jax.device_count(),), ("data",))
x = np.arange(1.0, jax.device_count() + 1)
x = jax.make_array_from_callback(x.shape, NamedSharding(mesh, P("data")), lambda index: x[index])
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))(x)
print(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of {jax.device_count()}"
      f" devices, sum {float(total)}")
"""


def local(*options, program, arguments=(), environment=None):
    command = [sys.executable, str(LOCAL), *options, "--", sys.executable, "-c", program, *arguments]
    plain = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain | (environment or {})
    )


def ended(process):
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_for(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "what was waited for did not come"
        time.sleep(0.02)


def test_two_jax_processes_meet_and_sum_over_all_their_devices(tmp_path):
    started = local("--processes=2", "--devices_per_process=3", f"--logs={tmp_path}/logs", program=JAX_PROGRAM)
    code, out, err = ended(started)
    assert code == 0, err
    assert "process 0 of 2: 3 of 6 devices, sum 21.0" in out
    assert "process 1" not in out
    assert "process 1 of 2: 3 of 6 devices, sum 21.0" in (tmp_path / "logs" / "process_1.log").read_text()


SHOW = "import os; print({name: value for name, value in os.environ.items() if name[:4] in ('JAX_', 'XLA_', 'CUDA')})"


def test_each_process_gets_its_index_and_its_own_gpus(tmp_path):
    given = {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "XLA_FLAGS": "--xla_dump_to=here"}
    started = local("--processes=2", "--gpus_per_process=2", f"--logs={tmp_path}", program=SHOW, environment=given)
    code, out, _ = ended(started)
    first, second = (eval(text) for text in (out, (tmp_path / "process_1.log").read_text()))
    assert code == 0
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("4,5", "6,7")
    assert (first["JAX_PROCESS_ID"], second["JAX_PROCESS_ID"]) == ("0", "1")
    assert first["JAX_NUM_PROCESSES"] == second["JAX_NUM_PROCESSES"] == "2"
    assert first["JAX_COORDINATOR_ADDRESS"] == second["JAX_COORDINATOR_ADDRESS"]
    assert first["XLA_FLAGS"] == "--xla_dump_to=here"


def test_a_device_count_replaces_another_and_leaves_other_flags():
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_dump_to=here"}
    code, out, _ = ended(local("--processes=1", "--devices_per_process=2", program=SHOW, environment=given))
    assert code == 0
    assert eval(out)["XLA_FLAGS"] == "--xla_dump_to=here --xla_force_host_platform_device_count=2"
    assert eval(out)["JAX_PLATFORMS"] == "cpu"


def test_arguments_arrive_as_they_were_given():
    words = ['--config.sweep.gated.sites=("attn_z.1", "resid_post.2")', "it's $HOME", "", "a  b", "--processes=9", "--"]
    code, out, _ = ended(local("--processes=1", program="import sys; print(sys.argv[1:])", arguments=words))
    assert code == 0
    assert eval(out) == words


# process 1 fails; the others would run on, and do not listen to SIGTERM where they are told so
ONE_FAILS = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
if os.environ["JAX_PROCESS_ID"] == "1":
    while len(list(here.iterdir())) < 2:
        time.sleep(0.01)
    print("what went wrong")
    sys.exit(3)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(here / os.environ["JAX_PROCESS_ID"]).touch()
time.sleep(1000)
"""


@pytest.mark.parametrize("arguments", [[], ["deaf"]])
def test_one_failing_ends_all_in_bounded_time_with_its_code_and_its_last_words(tmp_path, arguments):
    given = [str(tmp_path), *arguments]
    code, _, err = ended(local("--processes=3", "--grace=1", program=ONE_FAILS, arguments=given))
    assert code == 3
    assert "local.py: process 1 ended with exit code 3; ending the others" in err
    assert "process 1: what went wrong" in err
    assert ("did not end within 1 s after another had: killed" in err) == bool(arguments)


def test_a_process_that_a_signal_killed_is_a_failure():
    program = (
        "import os, signal, time\nos.environ['JAX_PROCESS_ID'] == '0' and os.kill(os.getpid(), 9)\ntime.sleep(1000)"
    )
    code, _, err = ended(local("--processes=2", program=program))
    assert code == 128 + signal.SIGKILL
    assert "process 0 ended with exit code 137" in err


# ends with 75 after a signal, as gsae.main does
SAVES = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    code = 75
    if sys.argv[2:] and os.environ["JAX_PROCESS_ID"] == "1":
        code = int(sys.argv[2])
    sys.exit(code)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
pathlib.Path(sys.argv[1], os.environ["JAX_PROCESS_ID"]).touch()
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("number", "ends", "code"), [(signal.SIGTERM, [], 75), (signal.SIGINT, ["0"], 75), (signal.SIGTERM, ["4"], 4)]
)
def test_a_signal_reaches_all_and_75_means_restart_unless_one_failed(tmp_path, number, ends, code):
    started = local("--processes=2", program=SAVES, arguments=[str(tmp_path), *ends])
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    started.send_signal(number)
    assert ended(started)[0] == code


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_processes_do_not_outlive_a_launcher_that_is_killed(tmp_path):
    program = SAVES.replace(".touch()", ".write_text(str(os.getpid()))")
    started = local("--processes=2", program=program, arguments=[str(tmp_path)])
    wait_for(lambda: all(pid.strip() for pid in pids(tmp_path)) and len(pids(tmp_path)) == 2)
    started.kill()
    wait_for(lambda: not any(is_running(int(pid)) for pid in pids(tmp_path)))
    ended(started)


def pids(directory):
    return [path.read_text() for path in directory.iterdir()]


def is_running(pid):
    """Whether there is such a process that has not ended; an ended one may wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--processes=0", "--", "x"], "--processes = 0: must be at least 1"),
        (["--processes=2", "--grace=-1", "--", "x"], "--grace = -1.0: must be at least 0 (seconds)"),
        (["--processes=2"], "no command: write it after --"),
        (["--", "x"], "the following arguments are required: --processes"),
        (["--processes=2", "--devices_per_process=0", "--", "x"], "--devices_per_process = 0: must be at least 1"),
        (["--processes=2", "--gpus_per_process=2", "--", "x"], "needs 4 GPUs; CUDA_VISIBLE_DEVICES = '0,1' has 2"),
        (["--processes=2", "--gpus_per_process=1", "--devices_per_process=1", "--", "x"], "not allowed with argument"),
        (["--processes=2", "--", "/no/such/program"], "'/no/such/program' cannot be started: No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, complaint):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"}
    done = subprocess.run([sys.executable, LOCAL, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
