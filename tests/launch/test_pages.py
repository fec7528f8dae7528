"""The commands on the pages of launch/: shell that parses, files and settings that are there."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "launch").glob("*.md"))


def usage():
    return subprocess.run(["bash", ROOT / "launch" / "tpu_vm.sh", "-h"], capture_output=True, text=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_name_what_is_there(page):
    text = page.read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    assert blocks
    assert [line for line in text.splitlines() if re.search(r"--workdir=\S*://", line)] == []  # the program refuses it
    for block in blocks:
        done = subprocess.run(["bash", "-n", "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    named = re.findall(r"(?<![\w/.])(?:launch|experiments)/[\w/]+\.\w+", text)
    assert [path for path in named if not (ROOT / path).exists()] == []
    commands = re.findall(r"launch/tpu_vm\.sh ([a-z]\w*)", text)
    assert set(commands) - set(re.findall(r"^  ([a-z]\w+) ", usage(), re.M)) == set()
    assert [name for name in re.findall(r"SLICE_[A-Z]+", text) if name not in usage()] == []
    known = runpy.run_path(str(ROOT / "experiments" / "pareto_sweep.py"))["get_config"]()
    for setting in re.findall(r"--config\.([\w.]+)", text):
        value = known
        for name in setting.split("."):
            assert name in value, setting
            value = value[name]


def test_every_command_of_the_script_is_on_the_page():
    text = (ROOT / "launch" / "README.md").read_text()
    commands = re.findall(r"^  ([a-z]\w+) ", usage(), re.M)
    assert len(commands) == 10
    assert [name for name in commands if not re.search(rf"\b{name}\b", text)] == []
