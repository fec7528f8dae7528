"""The paper's experiments: every lambda and learning rate of its tables, what they need, and a tiny run of each."""

import runpy

import numpy as np
import pytest
from test_language_models_run import LLAMA, TINY, random_model
from tiny_run import SETTINGS, documents

from benchmarks.live_or_cached import PAPER, ROOT, needs
from gsae import config as schema
from gsae.pipeline import run
from gsae.reports.paper import paper_rows
from gsae.reports.tables import read_results_csv

BASELINE = "standard"
TABLES = ("pythia_2_8b", "gemma_7b")


def module(name):
    return runpy.run_path(str(ROOT / "experiments" / "paper" / f"{name}.py"))


def points_of(config):
    """(kind, features, learning rate, lambda) of a configuration."""
    for entry in config.sweep.values():
        kind = "baseline" if entry.architecture == BASELINE else entry.architecture
        for rate in entry.learning_rates:
            for coefficient in entry.sparsity_coefficients:
                yield kind, round(entry.width_factor * config.sae.width), rate, coefficient


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_the_tables_is_a_point(name):
    found = module(name)
    model = schema.parse(found["get_config"]()).language_model.name
    rows = [row for row in paper_rows() if row["model"] == model]
    assert {f"{row['site']}.{row['layer']}" for row in rows} == set(found["SWEEPS"])
    for place in found["SWEEPS"]:
        config = schema.parse(found["get_config"](place))
        here = [row for row in rows if f"{row['site']}.{row['layer']}" == place]
        expected = {(row["kind"], row["width"], row["learning_rate"], row["sparsity_coefficient"]) for row in here}
        assert set(points_of(config)) == expected, place
        assert {entry.sites for entry in config.sweep.values()} == {(place,)}
        scales = {(e.architecture == BASELINE, e.options["reconstruction_scale"]) for e in config.sweep.values()}
        assert scales == {(True, "width_and_norm"), (False, "width")}
        assert config.training.batch_size == 4096 and config.activations.superblock_rows == 1 << 20
    with pytest.raises(ValueError, match=r"mlp_out\.1: must be one of .*resid_post"):
        found["get_config"]("mlp_out.1")


@pytest.mark.parametrize("name", PAPER)
def test_docstrings_say_what_the_arithmetic_gives(name):
    file = ROOT / "experiments" / "paper" / f"{name}.py"
    config = schema.parse(module(name)["get_config"]())
    assert " ".join(needs(config).split()) in " ".join(file.read_text().split())


def test_the_parts_on_gelu_1l():
    found = module("gelu_1l")
    parts = {part: schema.parse(found["get_config"](part)) for part in found["PARTS"]}
    assert {config.training.steps for config in parts.values()} == {300_000}
    assert len(parts["ablations"].sweep) == 4 and len(parts["equal_width"].sweep) == 1
    variants = [tuple(sorted(entry.options.items())) for entry in parts["ablations"].sweep.values()]
    assert len(set(variants)) == 4
    with pytest.raises(ValueError, match="must be one of frontier"):
        found["get_config"]("all")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "argument"),
    [
        ("gelu_1l", "gelu_1l", "frontier"),
        ("gelu_1l", "gelu_1l", "ablations"),
        ("pythia_2_8b", "pythia", "resid_post.4"),
        ("gemma_7b", "gemma_7b", "mlp_out.6"),
    ],
)
def test_the_experiment_runs(name, family, argument, tmp_path, monkeypatch):
    monkeypatch.setitem(TINY, "gemma_7b", LLAMA | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"})
    config = module(name)["get_config"](argument)
    layer = int(config.sweep[next(iter(config.sweep))].sites[0].rpartition(".")[2])
    small = {key: value for key, value in SETTINGS.items() if not key.startswith("sweep.")} | {
        "language_model.name": str(random_model(tmp_path / "model", family, layer + 1)),
        "text.paths": (str(documents(tmp_path / "text")),),
        "activations.source": "store",
        "training.steps": 8,
        "evaluation.every": 0,
    }
    config.update_from_flattened_dict(small)
    for entry in config.sweep.values():
        entry.sparsity_coefficients = entry.sparsity_coefficients[:1]
    run(schema.parse(config), tmp_path / "run")
    rows = read_results_csv(tmp_path / "run" / "results.csv")
    assert len(rows) == len(config.sweep)
    assert all(row["status"] == "ok" and np.isfinite(row["ce_spliced"]) for row in rows)
    assert {row["flops_a_step"] > 0 for row in rows} == {True}
