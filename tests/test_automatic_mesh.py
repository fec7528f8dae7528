"""A run whose mesh is chosen: all devices are used, before and after the mesh is another."""

import csv

import pytest
import tiny_run

from gsae import config as schema
from gsae import pipeline
from gsae.job import Job

AUTOMATIC = {"mesh__sweep": 0, "mesh__data": 0, "mesh__feature": 0}


def job(tmp_path, **changes):
    values = tiny_run.configuration(tmp_path / "documents", **(AUTOMATIC | changes))
    return Job(schema.parse(values), tmp_path / "run", "")


def test_all_devices_are_used_and_the_reason_is_printed(tmp_path, capsys):
    made = job(tmp_path)
    assert made.mesh.size == 8
    said = capsys.readouterr().out
    assert f"sweep {made.mesh.shape['sweep']} x data {made.mesh.shape['data']}" in said and "  then sweep" in said


def test_reserved_devices_are_left_out_and_given_sizes_kept(tmp_path):
    made = job(tmp_path, activations__devices=4, mesh__data=2)
    assert made.mesh.size == 4 and made.mesh.shape["data"] == 2
    assert len(made.language_model_devices) == 4
    assert not set(made.language_model_devices) & set(made.mesh.devices.flat)


def test_a_language_model_in_parts_is_placed_after_the_mesh_is_known(tmp_path):
    made = job(tmp_path, language_model__parts=2)
    assert made.mesh.size == 8
    assert made.language_model.settings == made._language_model_settings


@pytest.mark.slow
def test_a_whole_run_and_the_same_workdir_on_one_device(tmp_path, capsys):
    documents = tiny_run.documents(tmp_path / "documents")
    first = schema.parse(tiny_run.configuration(documents, training__steps=12, **AUTOMATIC))
    pipeline.run(first, tmp_path / "run", stage="all")
    assert "mesh: sweep" in capsys.readouterr().out
    results = (tmp_path / "run" / "results.csv").read_text()
    assert len(list(csv.DictReader(results.splitlines()))) == 4
    # Another mesh is no other run: everything is there already.
    pipeline.run(schema.parse(tiny_run.configuration(documents, training__steps=12)), tmp_path / "run")
    assert (tmp_path / "run" / "results.csv").read_text() == results
