"""The benchmark of recovery: how it chooses knobs, and one architecture through all of it."""

import re

import numpy as np
import pytest

from benchmarks import recovery


def test_a_knob_is_read_off_its_ladder():
    knobs = np.array([1.0, 10, 100])
    assert recovery.knob_at(knobs, np.array([40.0, 10, 1]), 20) == pytest.approx(10**0.5)
    assert recovery.knob_at(knobs, np.array([40.0, 30, 25]), 20) == 100  # out of reach: the nearest
    assert recovery.knob_at(knobs, np.array([0.0, 0, 0]), 4) in knobs
    assert recovery.knob_at(knobs, np.array([4.0, 8, 16]), 4) == 1


def test_ladders_hold_numbers_of_features_or_coefficients():
    assert recovery.ladder("topk", 4)[0] == 2 and recovery.ladder("topk", 4)[-1] == 12
    assert recovery.ladder("gba", 4)[0] == 2 and recovery.ladder("jumprelu_tanh", 4)[0] < 0.05
    assert recovery.ladder("gated", 4)[0] < 0.05 < 1 < recovery.ladder("gated", 4)[-1]
    assert recovery.options_of("jumprelu").bandwidth == 0.1  # the experiments', not the default


@pytest.mark.slow
def test_biases_moved_by_a_rule_find_the_dictionary(tmp_path, capsys):
    """Group Bias Adaptation through the project's loop; L0 comes out near the true one, without a penalty."""
    out = tmp_path / "RECOVERY.md"
    recovery.main(["--architectures", "gba", "--seeds", "2", "--rows", "1", "--steps", "1000", "--out", str(out)])
    line = next(line for line in out.read_text().splitlines() if line.startswith("| 4 | gba |"))
    assert line in capsys.readouterr().out
    _, l0, similarity, f1, alive = (float(re.match(r"[\d.]+", cell.strip())[0]) for cell in line.split("|")[3:8])
    assert 2.5 < l0 < 6 and similarity > 0.85 and f1 > 0.25 and alive > 0.9, line
