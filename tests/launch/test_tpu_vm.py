"""launch/tpu_vm.sh against a stub of gcloud: the exact calls, what reaches the workers, and every way to fail."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import gcloud_stub
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds: machines are slow
SLICE = {
    "SLICE_NAME": "gsae",
    "SLICE_ZONE": "us-central1-a",
    "SLICE_TYPE": "v5litepod-16",
    "SLICE_RUNTIME": "v2-alpha-tpuv5-lite",
    "SLICE_POLL": "0",
}
COMMON = ["--zone=us-central1-a", "--quiet"]
# what a shell would take apart, somewhere
WORDS = [
    "python",
    "-m",
    "gsae.main",
    "--config=experiments/pareto_sweep.py",
    '--config.sweep.gated.sites=("attn_z.1", "resid_post.2")',
    "--config.text.paths=('it''s $HOME/a  b.txt', `id`)",
    "--workdir=../gsae_bucket/run & more; #\\ \\n * ~ {a,b} !",
    "",
    "two\nlines\tand é",
]


@pytest.fixture
def cloud(tmp_path):
    directory = tmp_path / "cloud"
    directory.mkdir()
    gcloud_stub.install(directory)
    return directory


def start(cloud, *arguments, **changes):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLICE_")}
    environment |= SLICE | {"PATH": f"{cloud}/bin:{os.environ['PATH']}"} | changes
    environment = {name: value for name, value in environment.items() if value is not None}
    command = ["bash", ROOT / "launch" / "tpu_vm.sh", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)


def tpu_vm(cloud, *arguments, **changes):
    process = start(cloud, *arguments, **changes)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def last_line(text):
    return text.strip().splitlines()[-1]


def tpus(cloud):
    """The calls of `gcloud compute tpus`, without those words."""
    return [call[2:] for call in gcloud_stub.calls(cloud) if call[:2] == ["compute", "tpus"]]


def of_python(cloud, worker):
    """What a worker's python was called with, pip aside."""
    lines = (cloud / f"worker_{worker}" / "python_calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["arguments"][:2] != ["-m", "pip"]]


def test_create_asks_once_and_waits(cloud):
    code, _, err = tpu_vm(cloud, "create", SLICE_SPOT="yes", SLICE_ACCOUNT="sae@p.iam", SLICE_PROJECT="a project")
    assert code == 0, err
    assert re.findall("gsae: (.*)", err) == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    common = ["--zone=us-central1-a", "--project=a project", "--quiet"]
    request = ["queued-resources", "describe", "gsae", "--format=value(state.state)", *common]
    assert tpus(cloud) == [
        [
            *["queued-resources", "create", "gsae", "--node-id=gsae", "--runtime-version=v2-alpha-tpuv5-lite"],
            *["--accelerator-type=v5litepod-16", "--spot", "--service-account=sae@p.iam", *common],
        ],
        *[request] * 3,
        ["tpu-vm", "describe", "gsae", "--format=value(state)", *common],
    ]


def test_a_topology_is_asked_for_by_type_and_shape(cloud):
    assert tpu_vm(cloud, "create", SLICE_TYPE="v4", SLICE_TOPOLOGY="2x2x4")[0] == 0
    asked = ["--runtime-version=v2-alpha-tpuv5-lite", "--type=v4", "--topology=2x2x4", *COMMON]
    assert tpus(cloud)[0] == ["queued-resources", "create", "gsae", "--node-id=gsae", *asked]


def test_a_run_from_creation_to_deletion(cloud, tmp_path):
    """Arguments reach python as they are, secrets reach it and nothing else, logs and results come back."""
    secret = "hf_thatNobodyMaySee"
    (cloud / "secrets").mkdir()
    (cloud / "secrets" / "HF_TOKEN").write_text(secret)
    printed = ""
    for command in (["create"], ["setup"], ["run", *WORDS], ["status"], ["logs", f"{tmp_path}/logs"]):
        code, out, err = tpu_vm(cloud, *command, SLICE_SECRETS="HF_TOKEN", HF_TOKEN=secret)
        assert code == 0, err
        printed += out + err
    assert "a line of the log of worker_0" in printed
    assert "a line of the log of worker_1" not in printed
    assert "finished; gsae costs until launch/tpu_vm.sh delete" in printed
    for worker in range(2):
        (call,) = of_python(cloud, worker)
        assert ["python", *call["arguments"]] == WORDS
        assert call["token"] == secret
        assert call["cwd"] == str(cloud / f"worker_{worker}" / "gsae")
        assert (cloud / f"worker_{worker}" / "gsae" / "gsae" / "main.py").is_file()
        log = (tmp_path / "logs" / f"worker_{worker}.log").read_text()
        assert log == f"a line of the log of worker_{worker}\n"
    assert secret not in printed
    assert secret not in (cloud / "calls.jsonl").read_text()

    (cloud / "worker_0" / "results").mkdir()
    (cloud / "worker_0" / "results" / "results.csv").write_text("l0\n")
    assert tpu_vm(cloud, "fetch", "results", str(tmp_path / "fetched"))[0] == 0
    assert (tmp_path / "fetched" / "results" / "results.csv").read_text() == "l0\n"
    assert tpu_vm(cloud, "delete")[0] == 0
    assert [call[:3] for call in tpus(cloud) if "describe" not in call] == [
        ["queued-resources", "create", "gsae"],
        ["tpu-vm", "scp", tpus(cloud)[5][2]],
        *[["tpu-vm", "ssh", "gsae"]] * 4,  # setup, start, follow, result
        *[["tpu-vm", "scp", f"gsae:{path}"] for path in ["gsae_runs/last/log", "gsae_runs/last/log", "results"]],
        ["queued-resources", "delete", "gsae"],
    ]
    assert tpus(cloud)[5][2:] == [tpus(cloud)[5][2], "gsae:gsae.tar.gz", "--worker=all", *COMMON]
    assert tpus(cloud)[-2][2:] == ["gsae:results", str(tmp_path / "fetched"), "--recurse", "--worker=0", *COMMON]
    assert tpus(cloud)[-1] == ["queued-resources", "delete", "gsae", "--force", *COMMON]


def test_a_bucket_is_mounted_on_every_worker_and_again_after_a_reboot(cloud):
    """Before a run begins, where setup was told of one; with gcsfuse from apt."""
    for name in ("first-bucket", "other.bucket"):
        (cloud / "buckets" / name).mkdir(parents=True)

    def calls(worker):
        home = cloud / f"worker_{worker}"
        given = (home / "gcsfuse_calls").read_text().replace(str(home), "~").splitlines()
        assert all(call.endswith(" ~/gsae_bucket") for call in given)
        flags = "--implicit-dirs --rename-dir-limit=1000 --metadata-cache-ttl-secs=0 "
        return [call.removeprefix(flags).removesuffix(" ~/gsae_bucket") for call in given]

    def reach(*command, bucket=None):
        code, _, err = tpu_vm(cloud, *command, SLICE_BUCKET=bucket)
        assert code == 0, err

    reach("create")
    for _ in range(2):
        reach("setup", bucket="first-bucket")  # what is mounted stays
    assert [calls(worker) for worker in range(2)] == [["first-bucket"]] * 2
    (call,) = [json.loads(line) for line in (cloud / "worker_0" / "python_calls.jsonl").read_text().splitlines()][:1]
    assert call["arguments"][-1] == f"{cloud}/worker_0/gsae[tpu,gcs]"
    (cloud / "worker_1" / "mounted").unlink()
    gcloud_stub.write_codes(cloud, [0, 0], [0, 0])
    reach("run", *WORDS)
    assert [calls(worker) for worker in range(2)] == [["first-bucket"], ["first-bucket"] * 2]
    reach("setup", bucket="other.bucket")
    assert calls(0) == ["first-bucket", "other.bucket"]
    (cloud / "buckets" / "other.bucket").rmdir()
    (cloud / "worker_1" / "mounted").unlink()
    code, _, err = tpu_vm(cloud, "run", *WORDS)
    assert code == 1
    assert ": the bucket other.bucket cannot be mounted: bucket doesn't exist\n" in err
    assert len(of_python(cloud, 1)) == 1  # only the run before
    reach("setup")  # without a bucket from here
    assert [(cloud / f"worker_{worker}" / "mounted").exists() for worker in range(2)] == [False, False]
    assert len(calls(1)) == 4


def test_without_gcsfuse_setup_says_where_to_get_it(cloud):
    (cloud / "apt" / "gcsfuse").unlink()
    assert tpu_vm(cloud, "create")[0] == 0
    code, _, err = tpu_vm(cloud, "setup", SLICE_BUCKET="first-bucket")
    assert code == 1
    missing = (
        "gcsfuse is missing (E: Unable to locate package gcsfuse): Google's page 'Install Cloud Storage FUSE' says"
    )
    lines = [line.split(": ", 2)[2] for line in err.splitlines() if line.startswith("tpu_worker.sh: ")]
    assert lines == [f"{missing} how to get it"] * 2
    assert last_line(err) == "tpu_vm.sh: the code could not be installed on all workers"


@pytest.mark.slow
def test_until_done_goes_on_after_75_and_makes_a_slice_that_is_gone_again(cloud):
    gcloud_stub.write_codes(cloud, [75, "until a signal", 0], [75, "until a signal", 0])
    process = start(cloud, "until_done", *WORDS)
    wait_for(lambda: all((cloud / f"worker_{index}.codes").read_text() == "[0]" for index in range(2)))
    wait_for(lambda: len([call for call in tpus(cloud) if " follow " in call[-3]]) == 2)
    preempt(cloud)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "stopped with a checkpoint: starting again" in err
    assert "asking again" in err
    assert err.count("finished") == 1
    did = [call[1] if call[0] == "queued-resources" else call[2] for call in tpus(cloud) if "describe" not in call]
    assert did.count("create") == 2
    assert did.count("delete") == 1
    assert [["python", *call["arguments"]] for call in of_python(cloud, 1)] == [WORDS]  # on the second slice


@pytest.mark.parametrize(
    ("arguments", "changes", "state", "code", "complaint"),
    [
        (["create"], {"SLICE_NAME": None}, {}, 2, "SLICE_NAME is not set; launch/tpu_vm.sh -h says what it is"),
        (["create"], {"SLICE_ZONE": ""}, {}, 2, "SLICE_ZONE is not set; launch/tpu_vm.sh -h says what it is"),
        (["create"], {"SLICE_TYPE": None}, {}, 2, "SLICE_TYPE is not set; launch/tpu_vm.sh -h says what it is"),
        (
            ["setup"],
            {"SLICE_BUCKET": "gs://b"},
            {},
            2,
            "SLICE_BUCKET = 'gs://b': must be a bucket's name, without gs:// or a path",
        ),
        ([], {}, {}, 2, "no command; -h shows all"),
        (["begin"], {}, {}, 2, "begin: is not a command; -h shows all"),
        (["create", "spot"], {}, {}, 2, "create takes no arguments; -h shows all"),
        (["run"], {}, {}, 2, "run needs a command; -h shows all"),
        (["fetch", "x"], {}, {}, 2, "fetch needs a path and a directory; -h shows all"),
        (["run", "env", "HF_TOKEN=hf_x", "python"], {}, {}, 2, "others can read a command line: use SLICE_SECRETS"),
        (["create"], {}, {"account": ""}, 1, "gcloud is not logged in: gcloud auth login"),
        (
            ["until_done", "python"],
            {},
            {"refusal": "ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUs' has been exceeded. Limit: 0"},
            1,
            "gsae was refused: ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUs' has been exceeded. Limit: 0"
            " (Quotas in launch/costs.md)",
        ),
        (
            ["run", "python"],
            {},
            {},
            1,
            "not all workers answer; a run that goes on is shown by launch/tpu_vm.sh follow",
        ),
        (["setup"], {}, {}, 1, "the code could not be installed on all workers"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(cloud, arguments, changes, state, code, complaint):
    gcloud_stub.write_state(cloud, **state)
    ended, out, err = tpu_vm(cloud, *arguments, **changes)
    assert (ended, out, last_line(err)) == (code, "", f"tpu_vm.sh: {complaint}")
    if code == 2:
        assert err.count("\n") == 1
        assert not (cloud / "calls.jsonl").exists() or not tpus(cloud)


def test_help_needs_nothing(cloud):
    code, out, err = tpu_vm(cloud, "-h", SLICE_NAME=None)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: launch/tpu_vm.sh COMMAND")


def test_without_gcloud_it_says_where_to_get_it(cloud):
    (cloud / "bin" / "gcloud").unlink()
    for program in ("bash", "dirname", "cat"):
        (cloud / "bin" / program).symlink_to(shutil.which(program))
    code, _, err = tpu_vm(cloud, "status", PATH=str(cloud / "bin"))
    assert (code, err) == (1, "tpu_vm.sh: gcloud is not on PATH: https://cloud.google.com/sdk/docs/install\n")


def test_a_request_that_cannot_be_met_is_said_and_not_repeated(cloud):
    gcloud_stub.write_state(cloud, request=["WAITING_FOR_RESOURCES", "FAILED"])
    code, _, err = tpu_vm(cloud, "until_done", *WORDS)
    assert (code, last_line(err)) == (1, "tpu_vm.sh: gsae is FAILED; launch/tpu_vm.sh status says why")


@pytest.fixture
def installed(cloud):
    """A slice with the code on it."""
    for command in ("create", "setup"):
        assert tpu_vm(cloud, command)[0] == 0
    (cloud / "calls.jsonl").unlink()
    return cloud


def test_how_runs_end(installed):
    """One run after another on one slice, each with its own exit code."""
    gcloud_stub.write_codes(installed, [75, 75, 0, "until a signal"], [75, 3, 0, "until a signal"])
    assert tpu_vm(installed, "run", *WORDS)[0] == 75
    # gcloud's own exit code would be 75 here, that of worker 0
    code, _, err = tpu_vm(installed, "run", *WORDS)
    assert (code, last_line(err)) == (3, "tpu_vm.sh: failed with exit code 3; gsae costs until launch/tpu_vm.sh delete")
    assert re.search("^.*: a line of the log of worker_1$", err, re.M)
    # a secret that may not be read
    code, _, err = tpu_vm(installed, "run", *WORDS, SLICE_SECRETS="WANDB_API_KEY")
    assert code == 1
    assert "the secret WANDB_API_KEY cannot be read; launch/README.md says who may" in err
    assert len(of_python(installed, 0)) == 2
    # a broken connection to one worker while the run begins
    gcloud_stub.write_state(installed, faults=[{"in": " start ", "worker": 1, "exit": 255}])
    code, _, err = tpu_vm(installed, "run", *WORDS)
    complaint = "not all workers answer; a run that goes on is shown by launch/tpu_vm.sh follow"
    assert (code, last_line(err)) == (1, f"tpu_vm.sh: {complaint}")
    wait_for(lambda: len(of_python(installed, 0)) == 3)  # worker 0 had begun
    assert len(of_python(installed, 1)) == 2


@pytest.mark.slow
def test_a_run_that_goes_on_is_neither_doubled_nor_lost(installed):
    gcloud_stub.write_codes(installed, ["until a signal", 0], ["until a signal", 0])
    first = start(installed, "run", *WORDS)
    wait_for(lambda: all((installed / f"worker_{index}" / "started").exists() for index in range(2)))
    # gcloud repeats a command whose connection broke
    call = next(call for call in gcloud_stub.calls(installed) if " start " in call[-3])
    assert subprocess.run([installed / "bin" / "gcloud", *call]).returncode == 0
    code, _, err = tpu_vm(installed, "run", *WORDS)
    assert code == 1
    assert "a run is going; tpu_vm.sh follow shows it, stop ends it" in err
    assert tpu_vm(installed, "setup")[0] == 1
    # Ctrl-C leaves it alone. It comes once the log is shown: a process that is only just starting can miss it.
    assert any("a line of the log of worker_0" in line for line in first.stdout)
    os.killpg(first.pid, signal.SIGINT)
    err = first.communicate(timeout=PATIENCE)[1]
    assert (first.returncode, last_line(err)) == (
        130,
        "tpu_vm.sh: a run goes on without this: follow shows it, stop ends it",
    )
    follower = start(installed, "follow")
    attached = start(installed, "until_done", *WORDS)
    wait_for(lambda: len([call for call in tpus(installed) if " follow " in call[-3]]) == 3)
    assert tpu_vm(installed, "stop")[0] == 0
    assert follower.wait(PATIENCE) == 75
    assert attached.wait(PATIENCE) == 0  # it followed the first, and started again after 75
    assert "following it" in attached.stderr.read()
    assert [len(of_python(installed, worker)) for worker in range(2)] == [2, 2]


@pytest.mark.slow
def test_until_done_gives_up_where_a_slice_is_there_and_does_not_work(installed):
    (installed / "pip_fails").touch()
    code, _, err = tpu_vm(installed, "until_done", *WORDS)
    assert (code, last_line(err)) == (1, "tpu_vm.sh: the code could not be installed on all workers")
    (installed / "pip_fails").unlink()
    gcloud_stub.write_state(installed, faults=[{"in": " start ", "worker": 1, "exit": 255}] * 4)
    code, _, err = tpu_vm(installed, "until_done", *WORDS)
    assert code == 1
    assert err.count("not all workers answer") == 4
    # a failure is the end, unless it came because workers went away
    gcloud_stub.write_codes(installed, [1, 4, *[75] * 9], [1, 0, *[75] * 9])
    gcloud_stub.write_state(installed, faults=[{"in": " result ", "slice": "PREEMPTED"}])
    code, _, err = tpu_vm(installed, "until_done", *WORDS)
    assert code == 4
    assert "gsae is SUSPENDED: asking again" in err
    code, _, err = tpu_vm(installed, "until_done", *WORDS, SLICE_ATTEMPTS="2")
    assert (code, last_line(err)) == (1, "tpu_vm.sh: not done after SLICE_ATTEMPTS = 2 attempts")


def preempt(cloud):
    gcloud_stub.write_state(cloud, request=["ACTIVE", "SUSPENDED"], slice="PREEMPTED")
    for pid in cloud.glob("worker_*/gsae_runs/last/pid"):
        os.killpg(int(pid.read_text()), 9)


def wait_for(condition):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "what was waited for did not come"
        time.sleep(0.02)
