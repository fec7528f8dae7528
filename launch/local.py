"""Several processes of one program on this machine, as jax.distributed wants them.

    python launch/local.py --processes=2 --devices_per_process=4 -- python -m gsae.main --config=...

Each process gets JAX_COORDINATOR_ADDRESS (a free port of this machine), JAX_NUM_PROCESSES and JAX_PROCESS_ID, and its
share of the devices: `--devices_per_process` CPU devices, or `--gpus_per_process` GPUs of its own. The terminal shows
process 0; what the others print goes to files, and the end of it to the terminal where one failed. SIGTERM and SIGINT
reach all.

Exit code: 0 when all finished; the code of the first that failed (128 + N after signal N), which ends the others; 75
when a signal stopped the run and none failed: the same command continues. 2: a mistake in this command line.
"""

import argparse
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

RESTART = 75  # gsae.errors.Interrupted.exit_code; this script must run without gsae installed
LAST_LINES = 30  # of a failed process, shown in the terminal
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; a mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="local.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.error = complain  # type: ignore[method-assign]  # argparse's own prints the usage as well
    parser.add_argument("--processes", type=int, required=True, help="how many processes")
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--devices_per_process", type=int, help="CPU devices of each process; runs on the CPU")
    devices.add_argument("--gpus_per_process", type=int, help="GPUs that each process has for itself")
    parser.add_argument(
        "--logs", type=Path, help="directory that keeps what processes 1, 2, ... print; default: none is kept"
    )
    parser.add_argument(
        "--grace", type=float, default=60, help="seconds that the others have to end after one ended badly"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the program with its arguments")
    options = parser.parse_args(arguments)
    options.command = options.command[options.command[:1] == ["--"] :]
    for name in ("processes", "devices_per_process", "gpus_per_process"):
        if (value := getattr(options, name)) is not None and value < 1:
            complain(f"--{name} = {value}: must be at least 1")
    if options.grace < 0:
        complain(f"--grace = {options.grace}: must be at least 0 (seconds)")
    if not options.command:
        complain(
            "no command: write it after --, for example -- python -m gsae.main --config=experiments/pareto_sweep.py"
        )
    return options


def complain(message: str) -> NoReturn:
    """Ends with one line and exit code 2."""
    print(f"local.py: {message}", file=sys.stderr)
    sys.exit(2)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environments(options: argparse.Namespace, inherited: Mapping[str, str], port: int) -> list[dict[str, str]]:
    """The environment of each process."""
    made = []
    gpus = visible_gpus(options, inherited) if options.gpus_per_process else []
    for index in range(options.processes):
        environment = dict(inherited)
        environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
        environment["JAX_NUM_PROCESSES"] = str(options.processes)
        environment["JAX_PROCESS_ID"] = str(index)
        if options.devices_per_process:
            others = re.sub(r"--xla_force_host_platform_device_count=\S*", "", inherited.get("XLA_FLAGS", "")).split()
            count = f"--xla_force_host_platform_device_count={options.devices_per_process}"
            environment["XLA_FLAGS"] = " ".join([*others, count])
            environment["JAX_PLATFORMS"] = "cpu"
        if gpus:
            first = index * options.gpus_per_process
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + options.gpus_per_process])
        made.append(environment)
    return made


def visible_gpus(options: argparse.Namespace, inherited: Mapping[str, str]) -> list[str]:
    """The GPUs to divide: those of CUDA_VISIBLE_DEVICES where that is set, else the first ones."""
    needed = options.processes * options.gpus_per_process
    if "CUDA_VISIBLE_DEVICES" not in inherited:
        return [str(index) for index in range(needed)]
    gpus = [gpu for gpu in inherited["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if len(gpus) < needed:
        given = f"CUDA_VISIBLE_DEVICES = {inherited['CUDA_VISIBLE_DEVICES']!r}"
        complain(f"--gpus_per_process = {options.gpus_per_process}: needs {needed} GPUs; {given} has {len(gpus)}")
    return gpus


def die_with_parent() -> None:
    """Of a process that is about to start: it is killed when this one is, which then cannot do it. Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Group:
    """The running processes. Each leads a session of its own, so that what it starts can be ended with it."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]], logs: Path):
        self.logs = [logs / f"process_{index}.log" for index in range(len(environments))]
        self.processes: list[subprocess.Popen] = []
        try:
            for index, environment in enumerate(environments):
                with contextlib.ExitStack() as stack:
                    log = None if index == 0 else stack.enter_context(open(self.logs[index], "wb"))
                    self.processes.append(
                        subprocess.Popen(
                            command,
                            env=environment,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=None if log is None else subprocess.STDOUT,
                            start_new_session=True,
                            preexec_fn=die_with_parent,  # there are no threads yet
                        )
                    )
        except OSError as error:
            self.kill(signal.SIGKILL)
            complain(f"{command[0]!r} cannot be started: {error.strerror}")

    def pass_on(self, number: int) -> None:
        """Sends a signal to every process that still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def kill(self, number: int) -> None:
        """The same, to everything that the processes started as well."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def wait(self, grace: float) -> int:
        """Waits for all; once one ended badly the others have `grace` seconds. The exit code of the whole."""
        codes: dict[int, int] = {}
        failure, deadline = 0, None  # the code of the first that failed; when patience with the others ends
        while len(codes) < len(self.processes):
            for index, process in enumerate(self.processes):
                if index in codes or process.poll() is None:
                    continue
                codes[index] = code = process.returncode if process.returncode >= 0 else 128 - process.returncode
                if code and deadline is None:
                    deadline = time.monotonic() + grace
                if code not in (0, RESTART) and not failure:
                    failure = code
                    self.report(index, code)
                    self.pass_on(signal.SIGTERM)
            late = [index for index in range(len(self.processes)) if index not in codes]
            if late and deadline is not None and time.monotonic() > deadline:
                say(f"process {', '.join(map(str, late))} did not end within {grace:g} s after another had: killed")
                self.kill(signal.SIGKILL)
                deadline += grace
            time.sleep(POLL_SECONDS)
        return failure or max(codes.values())

    def report(self, index: int, code: int) -> None:
        """Says which process failed, and how, where the terminal has not shown it."""
        say(f"process {index} ended with exit code {code}; ending the others")
        if index > 0:
            for line in self.logs[index].read_text(errors="replace").splitlines()[-LAST_LINES:]:
                print(f"process {index}: {line}", file=sys.stderr)
        sys.stderr.flush()


def say(message: str) -> None:
    """One line about the processes, apart from what they print."""
    print(f"local.py: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Starts the processes and waits for them."""
    options = parse(arguments)
    shares = environments(options, os.environ, free_port())
    with contextlib.ExitStack() as stack:
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gsae_local_")))
        early: list[int] = []  # signals that came while the processes were being started
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: early.append(received))
        group = Group(options.command, shares, logs)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: group.pass_on(received))
        for received in early:
            group.pass_on(received)
        return group.wait(options.grace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
