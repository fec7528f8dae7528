"""Starts a tiny run in several real processes on this machine. Used by several tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import tiny_run

LIMIT = 300  # seconds for whatever a test waits for
# smaller than a tiny run where nothing is lost by it; logs of every step, so that single steps can be compared
CHANGES = {
    "logging__every": 1,
    "logging__tensorboard": False,
    "evaluation__every": 0,
    "training__steps": 12,
    "training__checkpoint_every": 3,
    "evaluation__tokens": 1024,
}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def by_variables(count, port):
    """How a launcher of this project says who is who."""
    return [
        {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
        for index in range(count)
    ]


def by_slurm(count, port):
    """What `srun` sets, as far as jax reads it; the port would follow from the job's number."""
    return [
        {
            "SLURM_JOB_ID": "4242",
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_NTASKS": str(count),
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_COORDINATOR_PORT": str(port),
        }
        for index in range(count)
    ]


class Run:
    """Processes 0 to count - 1 of one run, each with so many devices; they print into `<workdir>.<index>.txt`."""

    def __init__(
        self, texts, workdir, count, devices, *, launcher=by_variables, only=None, own=(), stage="all", **changes
    ):
        """`only`: the processes that really start; `own`: further flags of the last process."""
        self.workdir = Path(workdir)
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        flags = [f"--workdir={workdir}", f"--stage={stage}", *tiny_run.flags(texts, **(CHANGES | changes))]
        said = launcher(count, free_port()) if count > 1 else [{}]
        self.processes = {}
        for index in range(count) if only is None else only:
            with open(self._output(index), "w") as output:
                last = list(own) if index == count - 1 else []
                self.processes[index] = subprocess.Popen(
                    [sys.executable, "-m", "gsae.main", *flags, *last],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment | said[index],
                )

    def _output(self, index):
        return self.workdir.with_name(f"{self.workdir.name}.{index}.txt")

    def printed(self, index):
        """What a process has printed to its terminal, bars left out."""
        lines = self._output(index).read_text().splitlines()
        return [line for line in lines if "\r" not in line and "%|" not in line and line.strip()]

    def log(self, index):
        """What it has kept in its own file."""
        return (self.workdir / "logs" / f"process-{index}.log").read_text()

    def codes(self, limit=LIMIT):
        """Waits for all; their exit codes."""
        return [process.wait(limit) for process in self.processes.values()]

    def to_the_end(self):
        """Waits for all, which must be fine."""
        codes = self.codes()
        assert set(codes) == {0}, "\n".join(self.text(index) for index in self.processes)
        return self

    def text(self, index):
        """Both, for a failing test's message."""
        log = self.workdir / "logs" / f"process-{index}.log"
        kept = log.read_text()[-3000:] if log.exists() else ""
        return f"--- {index}\n{self._output(index).read_text()[-3000:]}\n{kept}"
