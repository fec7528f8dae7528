"""Nothing is half-written, and altered bytes are noticed."""

import json
import os
import subprocess
import sys

import pytest

from gsae import artifacts
from gsae.errors import RunError


def make(path, text="hello"):
    with artifacts.publish(path, {"kind": "test"}) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.txt").write_text(text)
    return path


def test_a_published_artifact_verifies(tmp_path):
    path = make(tmp_path / "a")
    assert artifacts.verify(path)["kind"] == "test"
    assert artifacts.read_manifest(path)["files"]["inner/a.txt"]["bytes"] == 5
    make(path, "other")  # replaces the older one, whole
    assert (path / "inner" / "a.txt").read_text() == "other"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_an_exception_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), artifacts.publish(tmp_path / "a", {}) as folder:
        (folder / "x").write_text("half")
        raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_artifact_and_the_next_one_cleans_up(tmp_path):
    script = (
        "import os, signal, pathlib\nfrom gsae import artifacts\n"
        f"with artifacts.publish(pathlib.Path({str(tmp_path / 'a')!r}), {{}}) as folder:\n"
        "    (folder / 'x').write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert artifacts.read_manifest(tmp_path / "a") is None
    make(tmp_path / "a")
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_names_the_file(tmp_path, damage):
    file = make(tmp_path / "a") / "inner" / "a.txt"
    if damage == "flip":
        file.write_text("hellp")
    elif damage == "truncate":
        os.truncate(file, 2)
    else:
        file.unlink()
    with pytest.raises(RunError, match=r"inner/a\.txt"):
        artifacts.verify(tmp_path / "a")


def test_an_unreadable_manifest_is_said(tmp_path):
    path = make(tmp_path / "a")
    (path / artifacts.MANIFEST).write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json"):
        artifacts.read_manifest(path)


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        make(tmp_path / "file" / "a")
    with pytest.raises(RunError, match="cannot be written"):
        artifacts.write_json(tmp_path / "file" / "b.json", {})


def test_a_full_disk_is_one_line(tmp_path):
    """Writes to a file system that has no room: /dev/full says ENOSPC like a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(RunError, match="disk is full"), artifacts.explained(tmp_path), open("/dev/full", "w") as file:
        file.write("x" * 100)
        file.flush()


def test_fingerprints_do_not_depend_on_order():
    assert artifacts.fingerprint({"a": 1, "b": [1.5, "x"]}) == artifacts.fingerprint({"b": [1.5, "x"], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})
    assert json.loads(artifacts.canonical_json({"b": 1, "a": 2})) == {"a": 2, "b": 1}
