"""A workdir keeps to the language model that it was made with, whatever its name means later."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny_run
from jax.sharding import PartitionSpec

from gsae import config
from gsae.errors import SettingError
from gsae.job import Job
from gsae.language_models import hub, loading, pinned
from gsae.language_models.placement import place
from gsae.preparation import prepare


@pytest.fixture
def prepared(tmp_path):
    """Prepares a run of a copy of the bundled model in the same workdir; gives the job."""
    shutil.copytree(hub.find("bundled").directory, tmp_path / "model")

    def begin(**changes):
        values = tiny_run.configuration(tmp_path, language_model__name=str(tmp_path / "model"), **changes)
        job = Job(config.parse(values), tmp_path / "run", "")
        prepare(job)
        return job

    return begin


def test_changed_files_are_noticed(prepared, tmp_path):
    prepared()
    prepared()
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(
        SettingError, match=r"config\.language_model\.name = .*have changed since .*language_model.json"
    ):
        prepared()


def test_a_moved_branch_is_not_followed(prepared, tmp_path, monkeypatch):
    asked = []
    newest = ["1" * 40]
    original = loading.load_language_model

    def load(name, dtype, mesh, *, revision):
        asked.append(revision)
        model = original(name, dtype, mesh)
        return dataclasses.replace(model, commit=newest[0] if revision == "main" else revision)

    monkeypatch.setattr(pinned, "load_language_model", load)
    assert prepared().language_model.commit == "1" * 40
    newest[0] = "2" * 40
    assert prepared().language_model.commit == "1" * 40
    assert asked == ["main", "1" * 40]
    recorded = json.loads((tmp_path / "run" / "language_model.json").read_text())
    assert recorded["commit"] == "1" * 40
    assert Path(recorded["name"]) == tmp_path / "model"
    with pytest.raises(SettingError, match=r"config\.language_model\.revision = 'step1'"):
        prepared(language_model__revision="step1")


def test_its_parameters_are_split_where_the_settings_say(prepared):
    with pytest.raises(SettingError, match=r"config\.language_model\.parts = 3: must divide the 2 devices"):
        prepared(mesh__data=2, language_model__parts=3)
    job = prepared(mesh__data=4, language_model__parts=2)
    kernel = job.language_model.model.layers[0].mlp.up.kernel[...]
    assert kernel.sharding.spec == PartitionSpec(None, "feature")
    assert dict(kernel.sharding.mesh.shape) == {"data": 2, "feature": 2}
    assert len(place(job.language_model.model).batch.device_set) == 4
