"""Command line of a run: flags and a config file in, exit code out.

    python -m gsae.main --config=experiments/pareto_sweep.py [--config.sae.width=4096 ...] [--workdir=...] [--stage=...]

Exit codes: 0 finished; 1 the run failed; 2 a setting is wrong; 75 a signal stopped it, the same command continues.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from gsae.cpu_devices import enough_threads
from gsae.errors import Interrupted, RunError, SettingError
from gsae.run_flags import CONFIG, config_path, fail, parse_flags

STARTED = time.monotonic()  # what passes until the stages begin is counted as start-up
STAGES = ("all", "tokenise", "harvest", "train", "evaluate", "report")

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run keeps everything; a second run with the same one continues. Default: runs/<experiment>.",
)
_STAGE = flags.DEFINE_enum("stage", "all", STAGES, "Run only this stage; the ones before it must be finished.")


def run(arguments: Sequence[str]) -> None:
    """Checks the configuration, then runs the stages: alone, or as one of several processes."""
    from gsae import config  # jax and the rest are heavy: only after the flags are known to be good
    from gsae.processes import launcher

    enough_threads()
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator that it does not find
    experiment = config_path().stem
    if "://" in (_WORKDIR.value or ""):
        allowed = "must be a directory, for example of a bucket mounted by gcsfuse; store and checkpoints may be URLs"
        fail(f"--workdir = {_WORKDIR.value!r}: {allowed}", SettingError.exit_code)
    workdir = Path(_WORKDIR.value or Path("runs") / experiment)
    try:
        processes = config.parse_processes(CONFIG.value)
        launch = launcher.find(processes.coordinator, processes.count, processes.index, processes.start_timeout)
    except (SettingError, RunError) as error:
        fail(str(error), error.exit_code)
    if launch is None:
        try:
            run_stages(workdir, fresh=not workdir.exists())
        except (SettingError, RunError) as error:
            fail(str(error), error.exit_code)
        except Interrupted as stop:
            fail(f"{stop}; the same command continues", stop.exit_code)
    else:
        run_together(workdir, launch, processes)


def run_together(workdir: Path, launch: Any, processes: Any) -> None:
    """Runs the stages as one of several processes; however one ends, all do."""
    from gsae.processes.together import Together

    fresh = not workdir.exists()  # said by the first process, before any other may make it
    together = Together(launch, start_timeout=processes.start_timeout, heartbeat_timeout=processes.heartbeat_timeout)
    try:
        together.log_in(workdir / "logs")
        run_stages(workdir, fresh=fresh)
    except (SettingError, RunError) as error:
        together.fail(str(error), error.exit_code)
    except Interrupted as stop:
        together.finish(f"{stop}; the same command continues", stop.exit_code)
    except Exception as error:
        together.fail_unexpectedly(error)
    together.finish()


def run_stages(workdir: Path, *, fresh: bool) -> None:
    """The run itself; `fresh`: whether the directory was not there when the program started."""
    from gsae import config, pipeline

    command = shlex.join(["python", "-m", "gsae.main", *sys.argv[1:]])
    settings = config.parse(CONFIG.value)
    pipeline.run(settings, workdir, stage=_STAGE.value, command=command, started=STARTED, fresh=fresh)


if __name__ == "__main__":
    app.run(run, flags_parser=parse_flags)
