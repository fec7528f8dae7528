"""The commands on the pages of launch/: shell that parses, files and settings that are there."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import gcloud_stub
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


@pytest.mark.slow
def test_the_section_on_slices_can_be_followed_line_by_line(tmp_path):
    """All of its commands, in a shell, in a checkout, with a stub of gcloud that has two workers."""
    section = (ROOT / "launch" / "README.md").read_text().partition("## A Cloud TPU slice")[2].partition("## GKE")[0]
    section = re.sub(r"\bPROJECT\b", "my-project", re.sub(r"\bBUCKET\b", "my-bucket", section))
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) == 5
    checkout, cloud, home = (tmp_path / name for name in ("checkout", "cloud", "home"))
    for file in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, checkout / file)
    (home / ".ssh").mkdir(parents=True)
    for directory in (cloud / "buckets" / "my-bucket", cloud / "secrets"):
        directory.mkdir(parents=True)
    (cloud / "secrets" / "HF_TOKEN").write_text("hf_x")
    gcloud_stub.install(cloud)
    gcloud_stub.write_codes(cloud, [0, 75, 0], [0, 75, 0])
    for program in ("ssh-keygen", "ssh-agent", "ssh-add"):
        (cloud / "bin" / program).write_text("#!/bin/sh\n")
        (cloud / "bin" / program).chmod(0o755)
    once, where, walk, again, secret = blocks
    walk = walk.replace("launch/tpu_vm.sh delete", "")  # the next sections go on with the slice
    script = ["set -e", "git init -q . && git add -A && git -c user.name=x -c user.email=x@x commit -qm x", once, where]
    script += ["export SLICE_POLL=0", walk, secret, again, "launch/tpu_vm.sh delete"]
    environment = {"HOME": str(home), "PATH": f"{cloud}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=checkout, env=environment, input="hf_x\n", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("finished; gsae costs until") == 2
    assert "starting again" in done.stderr
    assert (checkout / "runs" / "worker_1.log").read_text() == "a line of the log of worker_1\n"
    assert gcloud_stub.read_state(cloud)["slice"] == "ABSENT"
