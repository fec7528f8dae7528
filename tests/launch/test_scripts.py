"""Every shell script of the project: valid, and clean by shellcheck (in the extra `test`)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHING = [*sorted((ROOT / "launch").rglob("*.sh")), ROOT / "launch" / "slurm.sbatch"]
SCREEN = 60  # lines


def name(path):
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("script", [*LAUNCHING, ROOT / ".ci" / "run"], ids=name)
def test_a_shell_script_is_valid_and_clean(script):
    subprocess.run(["bash", "-n", script], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, 'shellcheck is missing: pip install -e ".[test]"'
    done = subprocess.run([shellcheck, "--external-sources", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", LAUNCHING, ids=name)
def test_a_script_that_launches_is_a_screen_long(script):
    assert len(script.read_text().splitlines()) <= SCREEN
