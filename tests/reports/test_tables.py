"""The CSV gives back the very numbers; the terminal tables fit and say what is there."""

import math

import numpy as np
import pytest

from gsae.errors import RunError
from gsae.evaluation.frontier import compare
from gsae.reports.rows import COLUMNS
from gsae.reports.tables import comparison_table, read_results_csv, significant, terminal_table, write_results_csv


def row(architecture="one", l0=10.0, recovered=0.5, **more):
    settings = {"layer": 2, "site": "mlp_out", "width": 1024, "sparsity_coefficient": 0.1, "learning_rate": 1e-3}
    numbers = {"seed": 0, "data_seed": 0, "steps": 100, "l0": l0, "loss_recovered": recovered, "status": "ok"}
    return {"architecture": architecture, **settings, **numbers, **more}


def test_the_csv_gives_back_the_same_rows_and_leaves_gaps_empty(tmp_path):
    rows = [
        row(l0=0.1 + 0.2, gamma=np.float32(0.1), tokens=np.int64(7), documents=8411.0, point="a", note="x, y"),
        row("two", l0=math.nan, recovered=None, status="frozen"),
    ]
    write_results_csv(tmp_path / "results.csv", rows)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert tuple(lines[0].split(",")) == (*COLUMNS, "tokens", "documents", "point", "note")
    first, second = read_results_csv(tmp_path / "results.csv")
    assert first["l0"] == 0.1 + 0.2 and first["gamma"] == float(np.float32(0.1))
    assert (
        first["tokens"] == 7
        and isinstance(first["tokens"], int)
        and first["documents"] == 8411
        and first["note"] == "x, y"
    )
    assert second["l0"] is None and second["loss_recovered"] is None and second["status"] == "frozen"


def test_the_first_columns_are_those_that_were_promised():
    assert ",".join(COLUMNS) == (
        "architecture,layer,site,width,sparsity_coefficient,learning_rate,seed,data_seed,steps,l0,loss_recovered,"
        "loss_recovered_se,ce_clean,ce_spliced,ce_zero,kl,gamma,gamma_centred,fvu,alive,status"
    )


def test_a_file_that_is_no_table_of_results_is_named(tmp_path):
    (tmp_path / "results.csv").write_text("l0,loss_recovered\nmany,0.5\n")
    with pytest.raises(RunError, match=r"results\.csv: is not a table of results"):
        read_results_csv(tmp_path / "results.csv")


def test_the_terminal_table_groups_sorts_and_fits():
    widest = {"sparsity_coefficient": 0.00688926, "learning_rate": 7.5e-4, "alive": 1.0, "ce_difference": -0.12345}
    widest |= {"fvu": 0.123, "gamma": 1.234, "kl": 0.1234, "loss_recovered_se": 0.0123}
    rows = [
        row(l0=30.0, **widest),
        row("two", l0=4.0),
        row(l0=2.0),
        row("two", l0=math.nan, status="frozen at step 500"),
    ]
    text = terminal_table(rows)
    assert max(map(len, text.splitlines())) <= 100
    first, second = text.split("\n\n")
    assert first.startswith("one, 1,024 features at mlp_out.2") and second.startswith("two, 1,024 features")
    assert first.index("2.00") < first.index("30.0")
    assert second.splitlines()[-1].rstrip().endswith("frozen at…")  # gaps come last
    assert terminal_table([]) == "no point was evaluated"


def test_the_comparison_table_gives_the_ratio_at_each_level():
    rows = [row("base", l0, r) for l0, r in [(10, 0.5), (100, 0.9)]] + [
        row("new", l0, r) for l0, r in [(5, 0.5), (50, 0.9)]
    ]
    text = comparison_table("mlp_out.2", compare(rows, "base", "new", step=0.2))
    assert text.startswith("base L0 / new L0 at equal loss recovered, mlp_out.2")
    assert [line.split()[3] for line in text.splitlines()[3:-1]] == ["2.00", "2.00"]
    apart = comparison_table("s", compare([row("base", 5, 0.2), row("new", 5, 0.9)], "base", "new"))
    assert "share no fixed value" in apart


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9.996, "10.0"), (1234.5, "1,234"), (0.0012345, "0.00123"), (3e-7, "3.00e-07"), (math.nan, "–")],
)
def test_significant_digits(value, text):
    assert significant(value) == text
