"""One of two processes that wait while something happens: python one_of_two.py PORT INDEX DIRECTORY WHAT.

`exception`, `kill`, `abort`: to process 1; `kill first`; `signal`: SIGTERM comes from outside; `nothing`: they finish.
"""

import os
import signal
import sys
from pathlib import Path

from gsae.processes.launcher import Launch
from gsae.processes.terminal import LOG
from gsae.processes.together import Together
from gsae.processes.waiting import wait_for_all

port, index, directory, what = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
together = Together(Launch(f"127.0.0.1:{port}", 2, index), start_timeout=60, heartbeat_timeout=5)
together.log_in(directory)
print(f"process {index} prints")
try:
    wait_for_all("all are here")
    if what == "nothing":
        together.finish()
    if index == (what == "kill first"):
        LOG.info("waits")
        wait_for_all("the other, which does not come")
    elif what == "exception":
        print(1 // 0)
    elif what.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "abort":
        os.abort()
    else:
        wait_for_all("nobody")
except Exception as error:
    together.fail_unexpectedly(error)
