"""Points that begin with trained weights, as a run makes them; and what an update costs."""

import numpy as np
import pytest
from tiny_run import configuration, documents

import gsae
from gsae import config as schema
from gsae.autoencoders.registry import make_options
from gsae.errors import SettingError
from gsae.mesh import make_mesh
from gsae.pipeline import run
from gsae.reports.tables import read_results_csv
from gsae.training.cost import cost_of_update
from gsae.training.groups import Group, Point
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings


@pytest.mark.parametrize(("name", "products"), [("gated", 7), ("standard", 5), ("rescaled_standard", 3)])
def test_products_of_an_update(name, products):
    """Rescale & shift: encoder, decoder, and back through the decoder to f."""
    group = Group((Point(name, "mlp_out.1", 64, 0.1, 1e-3, 0, make_options(name, {})),))
    settings = StepSettings(batch_size=128, schedules=Schedules(total_steps=10))
    cost = cost_of_update(group, settings, 48, make_mesh())
    assert cost["products_a_step"] == pytest.approx(products, rel=0.02)
    assert cost["flops_a_step"] == pytest.approx(2 * 128 * 48 * 64 * products, rel=0.02)


@pytest.mark.slow
def test_rescale_and_shift_goes_on_from_a_run(tmp_path):
    texts = documents(tmp_path / "text")
    first = {"sweep__standard__width_factor": 1.0, "training__steps": 24, "evaluation__every": 0}
    run(schema.parse(configuration(texts, **first)), tmp_path / "first")
    config = configuration(texts, **first)
    del config.sweep.gated
    config.sweep.standard.architecture = config.evaluation.baseline = "rescaled_standard"
    config.sweep.standard.learning_rates = (1e-3,)
    with pytest.raises(SettingError, match=r"config.sae.start_from = '': must be the directory of a finished run"):
        run(schema.parse(config), tmp_path / "none")
    config.sae.start_from = str(tmp_path / "first")
    config.sweep.standard.seeds = (5,)
    with pytest.raises(SettingError, match="seed 5; it holds 0"):
        run(schema.parse(config), tmp_path / "none")
    config.sweep.standard.seeds = (0,)
    config.training.steps = 48
    run(schema.parse(config), tmp_path / "second")
    for row in read_results_csv(tmp_path / "second" / "results.csv"):
        same = [r for r in read_results_csv(tmp_path / "first" / "results.csv") if r["architecture"] == "standard"]
        start = next(r for r in same if r["sparsity_coefficient"] == row["sparsity_coefficient"])
        assert row["starts_from"] == "standard" and row["fvu"] < start["fvu"] and row["l0"] <= start["l0"]
        assert abs(row["gamma"] - 1) < abs(start["gamma"] - 1)
        old, new = (
            gsae.load(tmp_path / name / "autoencoders" / r["point"]) for name, r in (("first", start), ("second", row))
        )
        for field in ("W_enc", "W_dec", "b_enc", "b_dec"):
            np.testing.assert_allclose(getattr(new, field), getattr(old, field), rtol=1e-6)
