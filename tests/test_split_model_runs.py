"""A whole run on eight devices, with the language model's parameters split, beside one on a single device."""

import csv

import numpy as np
import pytest
import tiny_run

from gsae import config, pipeline
from gsae.activations.store import ActivationStore


@pytest.mark.slow
def test_a_mesh_and_a_split_language_model_give_the_same_rows_and_judgement(tmp_path):
    texts = tiny_run.documents(tmp_path / "texts")
    stores, results = [], []
    for parts, mesh in ((1, (1, 1, 1)), (2, (2, 2, 2))):
        sizes = dict(zip(("mesh__sweep", "mesh__data", "mesh__feature"), mesh, strict=True))
        values = tiny_run.configuration(
            texts, language_model__parts=parts, training__steps=12, evaluation__dashboards=8, **sizes
        )
        workdir = tmp_path / f"run{parts}"
        pipeline.run(config.parse(values), workdir)
        stores.append(ActivationStore.open(workdir / "activations"))
        with open(workdir / "results.csv", newline="") as file:
            results.append(list(csv.DictReader(file)))
        assert "Written as JumpReLU autoencoders, 4 of these" in (workdir / "report.html").read_text()
    one, two = ((tmp_path / f"run{parts}" / "features.html").read_text() for parts in (1, 2))
    assert len(one) == pytest.approx(len(two), rel=0.2) and all(row["point"] in two for row in results[0])
    [site] = stores[0].sites
    one, two = (np.asarray(store.read(site, 0), np.float32) for store in stores)
    np.testing.assert_allclose(two, one, atol=0.02 * np.abs(one).max())  # rows are bfloat16
    for alone, shared in zip(*results, strict=True):
        assert alone["point"] == shared["point"]
        assert float(shared["loss_recovered"]) == pytest.approx(float(alone["loss_recovered"]), abs=0.02)
