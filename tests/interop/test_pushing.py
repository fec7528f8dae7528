"""Pushed to and pulled from a hub on this machine, by the library that asks the real one."""

import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from random_autoencoders import ABOUT, CASES, inputs, random_autoencoder
from tiny_hub import Hub

import gsae
from gsae import artifacts
from gsae.autoencoders.saving import save
from gsae.errors import RunError
from gsae.export import main

NAME = "someone/dictionaries"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", made.address)
    template = made.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    yield made
    made.close()


@pytest.fixture
def run(tmp_path):
    """What a run leaves: two points, one of them judged."""
    workdir = tmp_path / "run"
    for name, case in (("first", "gated"), ("second", "standard")):
        save(random_autoencoder(*CASES[case]), workdir / "autoencoders" / name, ABOUT | {"point": name})
    artifacts.write_json(
        workdir / "evaluation" / "first" / "row.json", {"l0": 12.345, "loss_recovered": 0.9, "fvu": None}
    )
    return workdir


def files_of(hub):
    return hub.commits[NAME][hub.branches[NAME]["main"]]


def test_a_point_is_pushed_with_a_card_and_pulled(hub, run, capsys):
    point = run / "autoencoders" / "first"
    assert main([f"--point={point}", "--format=gsae", f"--hub={NAME}", "--private"]) == 0
    assert f"{NAME}/commit/" in capsys.readouterr().out and NAME in hub.private
    assert set(files_of(hub)) == {"README.md", "config.json", "weights.safetensors", "manifest.json"}
    card = files_of(hub)["README.md"].decode()
    for said in ("library_name: gsae", "- gated", "| L0, features active per token | 12.35 |", "mlp_out", "bundled",
                 f'gsae.load("{NAME}")'):  # fmt: skip
        assert said in card, said
    sae, pulled, x = gsae.load(point), gsae.load(NAME), inputs()
    assert pulled.metadata == sae.metadata == ABOUT | {"point": "first"}
    np.testing.assert_array_equal(pulled.decode(pulled.encode(x)), sae.decode(sae.encode(x)))
    assert {request[2] for request in hub.requests if request[0] == "POST"} == {"Bearer hf_writer"}


def test_a_run_is_pushed_in_subfolders_and_an_old_commit_stays(hub, run, capsys):
    assert main([f"--run={run}", "--format=saelens", f"--hub={NAME}", "--subfolder=sweep"]) == 0
    first = hub.branches[NAME]["main"]
    assert "2 autoencoders" in capsys.readouterr().out
    assert {"sweep/README.md", "sweep/first/README.md", "sweep/second/cfg.json"} <= set(files_of(hub))
    assert "](second/README.md)" in files_of(hub)["sweep/README.md"].decode()
    assert "SAE.load_from_disk" in files_of(hub)["sweep/first/README.md"].decode()
    command = [f"--point={run / 'autoencoders' / 'second'}", "--format=saelens", f"--hub={NAME}"]
    assert main([*command, "--subfolder=sweep/first"]) == 0  # another in its place
    kinds = {
        revision: type(gsae.load(NAME, revision=revision, subfolder="sweep/first")).__name__
        for revision in ("main", first)
    }
    assert kinds == {"main": "Standard", first: "Gated"}
    hub.requests.clear()
    gsae.load(NAME, subfolder="sweep/second")
    asked = {path.rpartition("sweep/second/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == {"cfg.json", "sae_weights.safetensors"}  # and nothing beside it


def test_a_gemma_scope_repository_is_read(hub, run):
    main([f"--run={run}", "--format=gemma_scope", "--as=jumprelu", f"--hub={NAME}"])
    sae, pulled, x = gsae.load(run / "autoencoders" / "first"), gsae.load(NAME, subfolder="first"), inputs()
    np.testing.assert_allclose(pulled.encode(x), sae.encode(x), atol=1e-5)


def test_what_the_hub_does_not_have_is_one_line(hub, run):
    hub.commit(NAME, {"README.md": b"nothing else"})
    hub.commit("someone/gated", {"config.json": b"{}"})
    hub.gated.add("someone/gated")
    for name, how, message in (
        ("someone/nothing", {}, "is no directory, and the hub has no such repository"),
        (NAME, {"revision": "other"}, "no branch, tag or commit 'other'"),
        (NAME, {"subfolder": "x"}, "holds no file of an autoencoder, below 'x'"),
        (NAME, {}, "holds no file of an autoencoder; it may be in a subfolder"),
        ("someone/gated", {}, "is gated"),
    ):
        with pytest.raises(RunError, match=message) as refused:
            gsae.load(name, **how)
        assert "\n" not in str(refused.value)


def test_a_token_that_may_not_write_is_one_line_and_exit_code_1(hub, run, capsys):
    hub.readers.add("Bearer hf_writer")
    assert main([f"--run={run}", "--format=gsae", f"--hub={NAME}"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and NAME in said and "refuses" in said


def test_the_command_line(run, tmp_path, capsys):
    to = tmp_path / "out"
    assert main([f"--run={run}", "--format=saelens", f"--to={to}"]) == 0
    assert {path.name for path in to.iterdir()} == {"first", "second"}
    assert main([f"--point={to / 'first'}", "--format=gemma_scope", "--as=jumprelu", f"--to={tmp_path / 'npz'}"]) == 0
    assert [path.name for path in (tmp_path / "npz").iterdir()] == ["params.npz"]
    capsys.readouterr()
    for code, flags, message in (
        (
            2,
            [f"--run={run}", "--format=gemma_scope", f"--to={tmp_path / 'z'}"],
            "first: holds jumprelu autoencoders only",
        ),
        (2, [f"--run={run}", "--format=onnx", f"--to={tmp_path / 'z'}"], "--format = 'onnx'"),
        (2, [f"--run={run}", "--format=saelens", f"--to={to}"], "is there already"),
        (2, [f"--run={tmp_path}", "--format=saelens", f"--to={tmp_path / 'z'}"], "has no trained points"),
        (2, [f"--run={run}", "--format=saelens", f"--to={tmp_path / 'z'}", "--private"], "belongs to --hub"),
        (1, [f"--point={tmp_path / 'none'}", "--format=saelens", f"--to={tmp_path / 'z'}"], "does not exist"),
    ):
        assert main(flags) == code
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, said
        assert not (tmp_path / "z").exists()


def test_wrong_flags_are_one_line_without_jax():
    """And `--help` stays fast: jax is not imported for it."""
    root = Path(__file__).resolve().parents[2]
    code = "import sys, gsae.export\ntry:\n    gsae.export.main(['--point=x'])\nfinally:\n    "
    code += "assert 'jax' not in sys.modules"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and "--format" in found.stderr, found.stderr
