"""Stands for gcloud, and for a slice of two workers, where there is no cloud: `install(directory)` puts it on a PATH.

Every call is recorded with its exact arguments. A command for a worker goes through a real `bash -c`, as sshd would
have it, with a home directory of the worker's own, so launch/tpu_worker.sh runs for real. state.json is what the cloud
knows.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

WORKERS = 2
NOT_FOUND = "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/x' was not found"

GCLOUD = """#!{python}
import sys
sys.path.insert(0, {here!r})
import gcloud_stub
sys.exit(gcloud_stub.main({stub!r}, sys.argv[1:]))
"""
# the interpreter of an environment on a worker: remembers what it is called with, and ends as codes say
PYTHON = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
stub, home = Path({stub!r}), Path(os.environ["HOME"])
with open(home / "python_calls.jsonl", "a") as file:
    print(json.dumps({{"arguments": sys.argv[1:], "token": os.environ.get("HF_TOKEN"), "cwd": os.getcwd()}}), file=file)
if sys.argv[1:3] == ["-m", "pip"]:
    sys.exit(1 if (stub / "pip_fails").exists() else 0)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("a line of the log of", home.name)
code, *rest = json.loads((stub / (home.name + ".codes")).read_text())
(stub / (home.name + ".codes")).write_text(json.dumps(rest))
(home / "started").touch()
if code == "until a signal":
    time.sleep(1000)
sys.exit(code)
"""
# the interpreter that a worker comes with
SYSTEM_PYTHON = """#!/usr/bin/env bash
if [ "${{1:-}} ${{2:-}}" = "-m venv" ]; then mkdir -p "$3/bin" && cp {stub}/venv_python "$3/bin/python"; fi
"""
# What a worker mounts a bucket with. `mounted` in its home directory stands for the mount: a reboot removes that. The
# directories in `buckets` stand for buckets; apt has gcsfuse where `apt/gcsfuse` is there.
FUSE = {
    "sudo": """
[ "$*" = "apt-get install -y gcsfuse" ] && cp {stub}/apt/gcsfuse "$HOME/bin/" 2>/dev/null && exit
echo Reading package lists... && echo "E: Unable to locate package gcsfuse" >&2 && exit 100
""",
    "mountpoint": """[ "$1" = -q ] && [ -f "$HOME/mounted" ] && [ "$2" = "$HOME/gsae_bucket" ]""",
    "fusermount": """rm "$HOME/mounted" """,
}
GCSFUSE = """#!/usr/bin/env bash
[ -d "${{@: -1}}" ] && [ ! -f "$HOME/mounted" ] || exit 1
printf '%s\\n' "$*" >>"$HOME/gcsfuse_calls"
[ -d "{stub}/buckets/${{@: -2:1}}" ] || {{ echo "Error: daemonize.Run" && echo "bucket doesn't exist" >&2 && exit 1; }}
touch "$HOME/mounted"
"""


def install(directory: Path) -> Path:
    """A directory for PATH with gcloud and the workers' python3.13 in it; the state lives in `directory`."""
    binaries = directory / "bin"
    binaries.mkdir()
    (binaries / "gcloud").write_text(
        GCLOUD.format(python=sys.executable, here=str(Path(__file__).parent), stub=str(directory))
    )
    (binaries / "python3.13").write_text(SYSTEM_PYTHON.format(stub=directory))
    (directory / "venv_python").write_text(PYTHON.format(python=sys.executable, stub=str(directory)))
    (directory / "apt").mkdir()
    (directory / "apt" / "gcsfuse").write_text(GCSFUSE.format(stub=directory))
    for name, text in FUSE.items():
        (binaries / name).write_text("#!/usr/bin/env bash\n" + text.format(stub=directory))
    for program in (*binaries.iterdir(), directory / "venv_python", directory / "apt" / "gcsfuse"):
        program.chmod(0o755)
    write_codes(directory, [0], [0])
    write_state(directory, request=[], slice="ABSENT", account="someone@example.org", faults=[])
    return binaries


def read_state(directory: Path) -> dict:
    return json.loads((directory / "state.json").read_text())


def write_state(directory: Path, **changes) -> None:
    """`request`: what the next questions are told, the last one for ever. `faults`: see `on_workers`."""
    old = read_state(directory) if (directory / "state.json").exists() else {}
    (directory / "state.partial").write_text(json.dumps(old | changes))
    (directory / "state.partial").rename(directory / "state.json")


def write_codes(directory: Path, *codes: list[int | str]) -> None:
    """How the commands on each worker end, one after the other: an exit code, or "until a signal" (then 75)."""
    for index, of_worker in enumerate(codes):
        (directory / f"worker_{index}.codes").write_text(json.dumps(of_worker))


def calls(directory: Path) -> list[list[str]]:
    return [json.loads(line) for line in (directory / "calls.jsonl").read_text().splitlines()]


def failed(message: str, code: int = 1) -> int:
    print(f"a line before\n{message}", file=sys.stderr)
    return code


def option(arguments: list[str], name: str) -> str:
    return next(argument for argument in arguments if argument.startswith(f"--{name}=")).partition("=")[2]


def answer(directory: Path, arguments: list[str]) -> int:
    """What gcloud prints and how it exits."""
    state = read_state(directory)
    match arguments:
        case ["auth", "list", *_]:
            print(state["account"])
        case ["secrets", "versions", "access", "latest", secret]:
            file = directory / "secrets" / secret.partition("=")[2]
            if not file.exists():
                return failed("ERROR: (gcloud.secrets.versions.access) PERMISSION_DENIED: Permission denied")
            print(file.read_text(), end="")
        case ["auth" | "config" | "services" | "iam" | "storage" | "secrets", *_]:
            pass  # what is done once for a project; nothing here depends on it
        case ["compute", "tpus", "queued-resources", "create", *_]:
            if "refusal" in state:
                return failed(state["refusal"])
            for index in range(WORKERS):
                shutil.rmtree(directory / f"worker_{index}", ignore_errors=True)
                (directory / f"worker_{index}" / "bin").mkdir(parents=True)
            write_state(directory, request=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], slice="READY")
        case ["compute", "tpus", "queued-resources", "describe", *_]:
            if not state["request"]:
                return failed(NOT_FOUND)
            print(state["request"][0])
            write_state(directory, request=state["request"][1:] or state["request"])
        case ["compute", "tpus", "queued-resources", "delete", *_]:
            write_state(directory, request=[], slice="ABSENT")
        case ["compute", "tpus", "tpu-vm", "describe", *rest]:
            if state["slice"] == "ABSENT":
                return failed(NOT_FOUND)
            print(WORKERS if "len()" in option(rest, "format") else state["slice"])
        case ["compute", "tpus", "tpu-vm", "scp", source, target, *_]:
            return copy(directory, source, target, option(arguments, "worker"))
        case ["compute", "tpus", "tpu-vm", "ssh", _, *rest]:
            return on_workers(directory, option(rest, "worker"), option(rest, "command"))
        case _:
            return failed(f"ERROR: (gcloud) Invalid choice: {arguments}", 2)
    return 0


def copy(directory: Path, source: str, target: str, worker: str) -> int:
    for index in range(WORKERS) if worker == "all" else [int(worker)]:
        home = directory / f"worker_{index}"
        here, there = (home / path.partition(":")[2] if ":" in path else Path(path) for path in (source, target))
        if here.is_dir():
            shutil.copytree(here, there / here.name if there.is_dir() else there)
        else:
            shutil.copy(here, there)
    return 0


def on_workers(directory: Path, worker: str, command: str) -> int:
    """Runs a command on one worker or all at once; the exit code is that of the first that failed, as gcloud has it.

    A fault happens once. {"in": a part of the command, "worker": i, "exit": code}: that worker does nothing;
    {"in": ..., "slice": state}: the slice is in that state afterwards.
    """
    state = read_state(directory)
    if state["slice"] != "READY":
        return failed(f"ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state {state['slice']!r}")
    fault = next((fault for fault in state["faults"] if fault["in"] in command), None)
    if fault is not None:
        write_state(directory, faults=[other for other in state["faults"] if other is not fault])
    asked = range(WORKERS) if worker == "all" else [int(worker)]
    running = {}
    for index in asked:
        if fault is not None and fault.get("worker") == index:
            continue
        home = directory / f"worker_{index}"
        environment = {"HOME": str(home), "PATH": f"{home}/bin:{directory}/bin:/usr/bin:/bin"}
        running[index] = subprocess.Popen(["bash", "-c", " ".join(command.split(" "))], cwd=home, env=environment)
    codes = [running[index].wait() if index in running else fault["exit"] for index in asked]
    if fault is not None and "slice" in fault:
        write_state(directory, slice=fault["slice"])
    return next((code for code in codes if code), 0)


def main(directory: str, arguments: list[str]) -> int:
    with open(Path(directory, "calls.jsonl"), "a") as file:
        print(json.dumps(arguments), file=file)
    return answer(Path(directory), arguments)
