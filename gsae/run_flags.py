"""What the command lines that take a run's configuration share: --config, its overrides, and how a mistake is said."""

import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from absl import flags
from ml_collections import config_flags

from gsae.errors import SettingError
from gsae.processes.launcher import first_by_name

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, for example experiments/pareto_sweep.py; --config.a.b=value overrides a setting."
)


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
        complaint = _refused_by_file(error) or _complaint_about_override(arguments) or " ".join(str(error).split())
    except Exception as error:  # of the config file's own code
        complaint = _fault_in_file(error)
    if not first_by_name():  # of several processes, all of which find the same mistake
        sys.exit(SettingError.exit_code)
    fail(complaint, SettingError.exit_code)


def _refused_by_file(error: Exception) -> str | None:
    """What a config file says of the part after its colon, which comes with a traceback in the text of the error."""
    text = str(error)
    said = text.strip().splitlines()[-1] if "Traceback (most recent call last)" in text else ""
    return said.partition(": ")[2] or None


def _fault_in_file(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"--config: {error.filename}, line {error.lineno}: {error.msg}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"--config: {frame.filename}, line {frame.lineno}: {type(error).__name__}: {' '.join(str(error).split())}"


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
