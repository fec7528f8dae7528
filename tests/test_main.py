"""The command line: fast help, one line and exit code 2 for a mistake, nothing written."""

import subprocess
import sys

import pytest

ARGUMENTS = ["-m", "gsae.main"]
CONFIG = "--config=experiments/pareto_sweep.py"


def run(*arguments, **kwargs):
    return subprocess.run([sys.executable, *ARGUMENTS, *arguments], capture_output=True, text=True, **kwargs)


def test_help_names_the_flags():
    shown = run("--help").stdout
    for flag in ("--config", "--workdir", "--stage", "tokenise|harvest|train|evaluate|report"):
        assert flag in shown


def test_importing_gsae_and_its_command_line_is_light():
    """No time in a test: the heavy packages are simply not imported."""
    heavy = ("jax", "transformers", "matplotlib", "datasets", "orbax")
    code = f"import sys, gsae, gsae.main; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--config: must name a config file"),
        (["--config=experiments/nothing.py"], "must name a config file; there is none"),
        (["--config=experiments/architectures.py:all"], "gsae: architectures.py:all: must be one of seeds, tuning"),
        ([CONFIG, "--config.sae.widht=3"], "config.sae.widht = '3': unknown setting; config.sae has"),
        ([CONFIG, "--config.sae.width=wide"], "config.sae.width = 'wide': must be of type int"),
        ([CONFIG, "--config.sae.width=-1"], "config.sae.width = -1: must be a positive number"),
        ([CONFIG, "--config.sweep.gatd.seeds=1"], "config.sweep.gatd.seeds = '1': unknown setting"),
        ([CONFIG, "--stage=trian"], "--stage=trian"),
        ([CONFIG, "--workdri=x"], "workdri"),
        ([CONFIG, "extra"], "'extra': is not a flag"),
    ],
)
def test_a_mistake_is_one_line(arguments, complaint, tmp_path):
    done = run(*arguments, *([f"--workdir={tmp_path}/w"] if arguments else []))
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("    return wdith", "NameError: name 'wdith' is not defined"), ("    return (", "'(' was never closed")],
)
def test_a_fault_of_the_config_file_is_named_with_its_line(line, complaint, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config():\n{line}\n")
    done = run(f"--config={file}")
    assert done.returncode == 2
    assert done.stderr == f"gsae: --config: {file}, line 2: {complaint}\n"
