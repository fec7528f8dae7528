"""Names that are looked up on a hub: what is fetched, what is pinned, and what happens when there is no network."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_hub import Hub

TOKEN = "hf_of_this_test"
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "tokenizer_config.json": b"[0]",
    "model.safetensors.index.json": INDEX,
    "model-1.safetensors": b"one",
    "model-2.safetensors": b"two",
}
OTHERS = {
    "README.md": b"words",
    "consolidated.safetensors": b"all of it once more",
    "onnx/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "original/params.json": b"{}",
}


class Asking:
    """A process that finds models, with a cache and an environment of its own."""

    def __init__(self, home, seconds=20.0, **environment):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ask_hub.py"), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(home.parent / "stderr", "w"),  # noqa: SIM115 - it lives as long as the process
            env=inherited | {"HF_HOME": str(home), "PYTHONPATH": str(root), "HF_HUB_DISABLE_XET": "1"} | environment,
            text=True,
        )
        self.stderr = home.parent / "stderr"

    def __call__(self, name, revision="main"):
        self.process.stdin.write(json.dumps([name, revision]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "\n" not in answer.get("error", "")
        assert answer["seconds"] < 30
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    asking = Asking(tmp_path_factory.mktemp("online") / "home", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    yield asking
    asking.close()


def test_the_needed_files_are_fetched_once_with_the_token(hub, ask):
    sha = hub.commit("some/model", FILES | OTHERS)
    found = ask("some/model")
    assert found["commit"] == sha
    assert hub.fetched() == set(FILES)
    assert {token for _, path, token in hub.requests if "some/model" in path} == {f"Bearer {TOKEN}"}
    assert {path.name: path.read_bytes() for path in Path(found["directory"]).iterdir()} == FILES
    hub.requests.clear()
    assert ask("some/model")["commit"] == sha
    assert hub.fetched() == set()


def test_a_single_file_is_preferred_and_a_branch_may_move(hub, ask):
    files = {"config.json": b"{}", "model.safetensors": b"all"}
    first = hub.commit("some/mover", files)
    assert ask("some/mover")["commit"] == first
    second = hub.commit("some/mover", files | {"model.safetensors": b"other"})
    hub.commit("some/mover", files, branch="step1000")
    assert ask("some/mover")["commit"] == second
    assert ask("some/mover", "step1000")["commit"] == first
    hub.requests.clear()
    pinned = ask("some/mover", first)
    assert pinned["commit"] == first
    assert Path(pinned["directory"], "model.safetensors").read_bytes() == b"all"
    assert hub.requests == []


def test_what_is_not_there_is_a_wrong_setting(hub, ask):
    hub.commit("some/other", {"config.json": b"{}", "tf_model.h5": b"weights"})
    hub.commit("some/secret", FILES)
    hub.gated.add("some/secret")
    for name, revision, words in [
        ("no/such-model", "main", ["config.language_model.name = 'no/such-model'", "the hub has no such model"]),
        ("some/other", "no-branch", ["config.language_model.revision = 'no-branch'", "some/other"]),
        ("some/secret", "main", ["config.language_model.name = 'some/secret'", "HF_TOKEN"]),
        ("some/other", "main", ["config.language_model.name", "model.safetensors"]),
        ("no--such..name", "main", ["config.language_model.name = 'no--such..name'"]),
    ]:
        answer = ask(name, revision)
        assert answer["exit_code"] == 2, answer
        assert all(word in answer["error"] for word in words), answer


def test_without_a_hub_the_cache_serves_and_the_rest_is_one_line(tmp_path):
    hub = Hub()
    sha = hub.commit("some/model", FILES)
    hub.commit("some/other", FILES)
    ask = Asking(tmp_path / "home", HF_ENDPOINT=hub.address)
    ask("some/model")
    hub.close()
    assert ask("some/model")["commit"] == sha
    assert f"using commit {sha} from the cache" in ask.stderr.read_text()
    answer = ask("some/other")
    assert answer["exit_code"] == 1
    assert "config.language_model.name = 'some/other'" in answer["error"]
    assert "hub cannot be had" in answer["error"]
    ask.close()


def test_a_hub_that_does_not_answer_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ask = Asking(tmp_path / "home", 1.0, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        answer = ask("some/model")
        assert answer["exit_code"] == 1
        assert "timed out" in answer["error"]
        ask.close()


def test_offline_the_cache_is_honoured(tmp_path):
    repository, sha = tmp_path / "home" / "hub" / "models--some--model", "0123456789" * 4
    snapshot = repository / "snapshots" / sha
    for directory in (snapshot, repository / "refs", repository / "blobs"):
        directory.mkdir(parents=True)
    (repository / "refs" / "main").write_text(sha)
    for i, (name, data) in enumerate(FILES.items()):
        (repository / "blobs" / f"{i:064x}").write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{i:064x}")
    ask = Asking(tmp_path / "home", HF_HUB_OFFLINE="1")
    assert ask("some/model")["directory"] == str(snapshot)
    assert ask("some/model", sha)["commit"] == sha
    assert ask("some/other")["exit_code"] == 1
    (snapshot / "model-2.safetensors").unlink()
    answer = ask("some/model")
    assert answer["exit_code"] == 1
    assert "no whole copy of revision 'main'" in answer["error"]
    ask.close()
