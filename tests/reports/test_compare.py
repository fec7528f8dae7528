"""The paper's rows, and ours beside them."""

import json

import pytest

from gsae.reports.compare import main
from gsae.reports.paper import paper_rows
from gsae.reports.tables import write_results_csv


def test_the_papers_rows():
    rows = paper_rows()
    assert len(rows) == 283 and sum(row["status"] == "ok" for row in rows) == 279
    row = next(r for r in rows if r["site"] == "resid_post" and r["layer"] == 20 and r["l0"] == 67.3)
    assert row["model"] == "google/gemma-7b" and row["kind"] == "gated" and row["gamma"] == 1.013
    for row in rows:  # the arithmetic of the tables: shares and losses agree within their rounding
        if row["status"] == "ok":
            recovered = 1 - (row["ce_spliced"] - row["ce_clean"]) / (row["ce_zero"] - row["ce_clean"])
            assert recovered == pytest.approx(row["loss_recovered"], abs=0.011), row


@pytest.fixture
def ours(tmp_path):
    base = {"layer": 16, "site": "mlp_out", "seed": 0, "status": "ok", "width": 100, "gamma": 0.9, "alive": 0.5}
    curves = {"old": [(30, 0.7), (90, 0.8)], "gated": [(15, 0.7), (45, 0.8)]}
    rows = [
        {**base, "architecture": name, "l0": l0, "loss_recovered": value, "ce_clean": 2.0, "ce_spliced": 2.1}
        for name, curve in curves.items()
        for l0, value in curve
    ]
    settings = {"language_model": {"name": "EleutherAI/pythia-2.8b"}, "evaluation": {"baseline": "old"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    write_results_csv(tmp_path / "results.csv", rows)
    return tmp_path


def test_ours_beside_the_papers(ours, capsys):
    assert main([f"--ours={ours / 'results.csv'}", "--paper"]) == 0
    said = capsys.readouterr().out
    assert "paper: baseline L0 / ours: baseline L0 at equal loss recovered, mlp_out.16" in said
    assert "ours: baseline L0 / ours: gated L0" in said and "median ratio 2.00" in said
    assert "paper: gated L0 / ours: gated L0" in said
    line = next(line for line in said.splitlines() if "0.0012" in line)
    assert line.split() == [
        "paper",
        "gated",
        "131,072",
        "0.0012",
        "0.0003",
        "21.9",
        "0.7512",
        "0.0100",
        "1.012",
        "98.2%",
    ]
    text = (ours / "paper.html").read_text()
    assert (
        "<svg" in text and "http" not in text.replace("http://www.w3.org", "") and (ours / "paper.png").stat().st_size
    )


def test_what_the_paper_does_not_have_is_one_line(ours, capsys):
    assert main([f"--ours={ours / 'results.csv'}", "--paper", "--model=bundled"]) == 1
    said = capsys.readouterr().err
    assert "google/gemma-7b" in said and said.count("\n") == 1
    (ours / "config.json").unlink()
    assert main([f"--ours={ours / 'results.csv'}", "--paper"]) == 1
    assert "--model" in capsys.readouterr().err
    named = ["--model=EleutherAI/pythia-2.8b", "--baseline=old"]
    assert main([f"--ours={ours / 'results.csv'}", "--paper", *named]) == 0
    assert "paper: baseline L0 / ours: baseline L0" in capsys.readouterr().out
