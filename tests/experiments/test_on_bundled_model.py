"""The paper's study on the bundled model: its parts hold, and a tiny one runs, stops and goes on."""

import html
import json
import re

import pytest
from tiny_run import SETTINGS, documents

from experiments.paper.on_bundled_model import ABLATIONS, PARTS, SITES, TRIALS, TRIED, get_config, main
from gsae import config as schema
from gsae.reports.tables import read_results_csv


def test_the_parts_are_the_study():
    parts = {part: schema.parse(get_config(part)) for part in PARTS}
    sites = {site for entry in parts["sites"].sweep.values() for site in entry.sites}
    assert sites == set(SITES) and {site.partition(".")[0] for site in sites} == {
        "resid_post", "mlp_out", "attn_z", "mlp_act"
    }  # fmt: skip
    for part in PARTS[1:]:
        assert {entry.sites for entry in parts[part].sweep.values()} == {("attn_z.1",)}
    assert set(ABLATIONS) < set(parts["ablations"].sweep) and parts["ablations"].evaluation.pursuit
    assert not parts["no_resampling"].training.resampling.at and parts["sites"].training.resampling.at
    assert {entry.width_factor for entry in parts["equal_width"].sweep.values()} == {1.0}


def test_trials_cover_both_kinds_at_every_site_and_see_no_token_of_a_result():
    study, seen = schema.parse(get_config("sites")), set()
    for part, steps in TRIALS.items():
        trials = schema.parse(get_config(part))
        assert trials.training.steps == steps and trials.seed not in range(5)
        assert trials.evaluation.skip_tokens >= study.evaluation.tokens
        seen |= {(site, entry.architecture) for entry in trials.sweep.values() for site in entry.sites}
        assert {entry.learning_rates for entry in trials.sweep.values()} == {TRIED}
    assert seen == {(site, kind) for site in SITES for kind in ("gated", "standard")}
    assert all(set(entry.learning_rates) <= set(TRIED) for entry in study.sweep.values())


def test_wrong_flags_are_one_line(capsys, tmp_path):
    for flags in (["--parts=all"], ["--set=sae.wide=3"], ["--set=sae.width=x"]):
        assert main([f"--workdir={tmp_path / 'study'}", "--seeds=0", *flags]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_tiny_study(tmp_path, capsys):
    small = {name: value for name, value in SETTINGS.items() if not name.startswith("sweep.")}
    small |= {
        "text.paths": [str(documents(tmp_path / "text"))],
        "evaluation.pursuit_tokens": 512,
        "evaluation.every": 0,
    }
    del small["training.resampling.at"]
    flags = [f"--set={name}={json.dumps(value)}" for name, value in small.items()]
    study = tmp_path / "study"
    for parts in ("equal_width,rescaled,ablations", "equal_width,rescaled,ablations,no_resampling"):
        assert main([f"--workdir={study}", "--seeds=0", f"--parts={parts}", *flags]) == 0
    rows = read_results_csv(study / "results.csv")
    kinds = {(row["architecture"], row["variant"]) for row in rows}
    assert len(rows) == 4 + 4 + 20 + 12
    assert kinds == {
        ("gated", None), ("gated", "untied"), ("gated", "no r_mag"), ("gated", "unfrozen decoder"),
        ("gated", "no resampling"), ("gated", "no resampling, RI-L1"), ("standard", None),
        ("standard", "equal width"), ("standard", "no resampling"), ("rescaled_standard", None),
    }  # fmt: skip
    assert len(read_results_csv(study / "pursuit.csv")) == 8 * 6
    page = (study / "report.html").read_text()
    listed = re.findall(r"^\S*autoencoders/\S+$", html.unescape(re.sub("<[^>]+>", "\n", page)), re.MULTILINE)
    assert len(listed) == len(rows) and all((study / path).is_dir() for path in listed)
    for title in (
        "Variants",
        "Rescale &amp; shift",
        "Inference-time optimisation",
        "Dead features",
        "Kinds side by side",
    ):
        assert f"<h2>{title}</h2>" in page, title
    assert "Rescale & shift:" in capsys.readouterr().out
