"""Whatever ends one of two processes ends the other within a bounded time, with one line and a fitting exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes_of_a_run import free_port

from gsae.processes.together import LOOK

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent.parent
KILLED = -signal.SIGKILL
CASES = {
    "exception": (
        [1, 1],
        "gsae: process 1: ZeroDivisionError: integer division or modulo by zero (the traceback is in {}/process-1.log)",
    ),
    "kill": (
        [1, KILLED],
        "gsae: process 0: process 1 has stopped without a word; " + LOOK,
    ),
    "kill first": (
        [KILLED, 1],
        "gsae: process 1: process 0, which coordinates the others, has stopped; " + LOOK,
    ),
    "abort": ([1, 1], "gsae: process 1: XLA ended this process; {}/process-1.log says why"),
    "nothing": ([0, 0], None),
    "signal": ([75, 75], "gsae: process 1: SIGTERM: stopped; the same command continues"),
}


def start(directory, what):
    port, environment = str(free_port()), os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, str(Path(__file__).with_name("one_of_two.py")), port]
    return [
        subprocess.Popen(
            [*program, str(index), str(directory), what],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]


def test_what_ends_one_ends_both(tmp_path):
    """All cases side by side: each takes seconds of waiting and little else."""
    running = {what: start(tmp_path / what.replace(" ", "-"), what) for what in CASES}
    log = tmp_path / "signal" / "process-0.log"
    limit = time.monotonic() + 100
    while not (log.exists() and "waits" in log.read_text()):
        assert time.monotonic() < limit and running["signal"][0].poll() is None
        time.sleep(0.05)
    running["signal"][1].send_signal(signal.SIGTERM)
    for what, (codes, line) in CASES.items():
        directory = tmp_path / what.replace(" ", "-")
        outputs = [process.communicate(timeout=100)[0] for process in running[what]]
        assert [process.returncode for process in running[what]] == codes, (what, outputs)
        told = [printed for printed in "".join(outputs).splitlines() if printed not in ("process 0 prints", "")]
        if what == "abort":  # the first to notice may be the one whose heartbeat is missed, or its peer
            told = [said for said in told if "has stopped without a word" not in said]
        assert told == ([line.format(directory)] if line else []), (what, outputs)
        assert outputs[1].count("prints") == 0 and "process 1 prints" in (directory / "process-1.log").read_text()
    log = (tmp_path / "exception" / "process-1.log").read_text()
    assert "Traceback" in log and "print(1 // 0)" in log
