"""A workdir keeps to the language model that it was made with, whatever its name means later."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny_run

from gsae import config
from gsae.errors import SettingError
from gsae.job import Job
from gsae.language_models import hub, loading


@pytest.fixture
def prepared(tmp_path):
    """Prepares a run of a copy of the bundled model in the same workdir; gives the job."""
    shutil.copytree(hub.find("bundled").directory, tmp_path / "model")

    def prepare(**changes):
        values = tiny_run.configuration(tmp_path, language_model__name=str(tmp_path / "model"), **changes)
        job = Job(config.parse(values), tmp_path / "run", "")
        job.prepare()
        return job

    return prepare


def test_changed_files_are_noticed(prepared, tmp_path):
    prepared()
    prepared()
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(
        SettingError, match=r"config\.language_model\.name = .*have changed since this workdir was made"
    ):
        prepared()


def test_a_moved_branch_is_not_followed(prepared, tmp_path, monkeypatch):
    asked = []
    newest = ["1" * 40]
    original = loading.load_language_model

    def load(name, dtype, *, revision):
        asked.append(revision)
        model = original(name, dtype)
        return dataclasses.replace(model, commit=newest[0] if revision == "main" else revision)

    monkeypatch.setattr(loading, "load_language_model", load)
    assert prepared().language_model.commit == "1" * 40
    newest[0] = "2" * 40
    assert prepared().language_model.commit == "1" * 40
    assert asked == ["main", "1" * 40]
    recorded = json.loads((tmp_path / "run" / "language_model.json").read_text())
    assert recorded["commit"] == "1" * 40
    assert Path(recorded["name"]) == tmp_path / "model"
    with pytest.raises(SettingError, match=r"config\.language_model\.revision = 'step1'"):
        prepared(language_model__revision="step1")
