"""The experiment on all layers: valid, with every option; a tiny one shows every plot, the baseline beside it."""

import dataclasses

import numpy as np
import pytest
import tiny_run

import gsae
from experiments import normalized
from gsae import config, pipeline, recipe
from gsae.autoencoders.registry import ARCHITECTURES
from gsae.reports.tables import read_results_csv


def test_the_experiment_is_valid_and_has_both_at_every_layer():
    parsed = config.parse(normalized.get_config())
    points = recipe.points(parsed, lambda site: site)
    for site in normalized.SITES:
        here = [point.architecture for point in points if point.site == site]
        assert sorted(here) == ["normalized"] * 3 + ["standard"] * 3
    options = ARCHITECTURES["normalized"].Options
    assert set(parsed.sweep["normalized"].options) == {field.name for field in dataclasses.fields(options)}


@pytest.mark.slow
def test_a_tiny_one_shows_every_plot(tmp_path):
    settings = normalized.get_config()
    tiny = {name: value for name, value in tiny_run.SETTINGS.items() if not name.startswith("sweep")}
    tiny |= {"text.paths": (str(tiny_run.documents(tmp_path / "texts")),), "evaluation.every": 0}
    for name, coefficients in (("standard", (1.0,)), ("normalized", (0.01,))):
        tiny |= {f"sweep.{name}.sites": normalized.SITES[:3], f"sweep.{name}.sparsity_coefficients": coefficients}
    settings.update_from_flattened_dict(tiny)
    workdir = tmp_path / "run"
    pipeline.run(config.parse(settings), workdir)
    rows = read_results_csv(workdir / "results.csv")
    assert len(rows) == 6 and all(row["input_norm"] > 1 for row in rows)
    for row in rows:
        found = np.load(workdir / "evaluation" / row["point"] / "dictionary.npz")
        norms_F = np.linalg.norm(gsae.load(workdir / "autoencoders" / row["point"]).W_dec, axis=1)
        assert np.abs(found["norm_A"][:, None] - norms_F).min(axis=1).max() < 1e-4 and len(found["norm_A"]) > 0
        assert found["input_norm"] == row["input_norm"]
        if row["architecture"] == "normalized":  # trained rows and held-out ones have about the same norm
            mean_norm = gsae.load(workdir / "autoencoders" / row["point"]).mean_norm
            assert 0.8 < mean_norm / row["input_norm"] < 1.25
            assert np.all(found["added_A"] <= found["norm_A"])
    page = (workdir / "report.html").read_text()
    for heading in ("Over layers", "Vectors of the dictionaries", "Training"):
        assert page.count(f"<h2>{heading}</h2>") == 1
