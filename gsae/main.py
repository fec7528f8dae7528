"""Command line of a run: flags and a config file in, exit code out.

    python -m gsae.main --config=experiments/pareto_sweep.py [--config.sae.width=4096 ...] [--workdir=...] [--stage=...]

Exit codes: 0 finished; 1 the run failed; 2 a setting is wrong; 75 a signal stopped it, the same command continues.
"""

import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from absl import app, flags, logging
from ml_collections import config_flags

from gsae.errors import Interrupted, RunError, SettingError
from gsae.processes.launcher import first_by_name

STARTED = time.monotonic()  # what passes until the stages begin is counted as start-up
STAGES = ("all", "tokenise", "harvest", "train", "evaluate", "report")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, for example experiments/pareto_sweep.py; --config.a.b=value overrides a setting."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run keeps everything; a second run with the same one continues. Default: runs/<experiment>.",
)
_STAGE = flags.DEFINE_enum("stage", "all", STAGES, "Run only this stage; the ones before it must be finished.")


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses the command line; a mistake in it is one line and exit code 2 instead of a traceback."""
    try:
        left = flags.FLAGS(list(arguments))
        if not flags.FLAGS["config"].present:
            raise flags.Error("--config: must name a config file, for example --config=experiments/pareto_sweep.py")
        if not config_path().is_file():
            raise flags.Error(f"--config = {str(config_path())!r}: must name a config file; there is none")
        if len(left) > 1:
            raise flags.Error(f"{left[1]!r}: is not a flag; settings are given as --config.name=value")
        return left
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        complaint = _complaint_about_override(arguments) or " ".join(str(error).split())
    if not first_by_name():  # of several processes, all of which find the same mistake
        sys.exit(SettingError.exit_code)
    fail(complaint, SettingError.exit_code)


def _complaint_about_override(arguments: Sequence[str]) -> str | None:
    """Which --config.a.b=value names a setting that the config file lacks, or gives it a value of another type."""
    try:
        file = next(argument for argument in arguments if argument.startswith("--config=")).partition("=")[2]
        config = runpy.run_path(file.partition(":")[0])["get_config"]()
    except Exception:  # the config file itself is at fault: the first error says how
        return None
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if not name.startswith("config."):
            continue
        group, path = config, name.split(".")[1:]
        for depth, key in enumerate(path):
            known = list(group.keys()) if hasattr(group, "keys") else []
            if key not in known:
                where = ".".join(["config", *path[:depth]])
                return f"{name} = {value!r}: unknown setting; {where} has {', '.join(known) or 'no settings below it'}"
            group = group[key]
        try:
            type(group)(value) if isinstance(group, (int, float)) and not isinstance(group, bool) else None
        except ValueError:
            return f"{name} = {value!r}: must be of type {type(group).__name__}, like {group!r}"
    return None


def fail(complaint: str, code: int) -> NoReturn:
    """Says in one line what went wrong and exits with `code`."""
    print(f"gsae: {complaint}", file=sys.stderr, flush=True)
    sys.exit(code)


def config_path() -> Path:
    """The config file that --config names."""
    filename = cast(Any, flags.FLAGS["config"]).config_filename  # its own Flag class has it
    return Path(filename.partition(":")[0])


def run(arguments: Sequence[str]) -> None:
    """Checks the configuration, then runs the stages: alone, or as one of several processes."""
    from gsae import config  # jax and the rest are heavy: only after the flags are known to be good
    from gsae.processes import launcher

    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator that it does not find
    experiment = config_path().stem
    if "://" in (_WORKDIR.value or ""):
        allowed = "must be a directory, for example of a bucket mounted by gcsfuse; store and checkpoints may be URLs"
        fail(f"--workdir = {_WORKDIR.value!r}: {allowed}", SettingError.exit_code)
    workdir = Path(_WORKDIR.value or Path("runs") / experiment)
    try:
        processes = config.parse_processes(_CONFIG.value)
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
    settings = config.parse(_CONFIG.value)
    pipeline.run(settings, workdir, stage=_STAGE.value, command=command, started=STARTED, fresh=fresh)


if __name__ == "__main__":
    app.run(run, flags_parser=parse_flags)
