"""Findings computed from rows that are made to show them, and absent where nothing shows them."""

import numpy as np
import pytest

from gsae.reports.report import write_report
from gsae.reports.sections import sections
from gsae.reports.tables import read_results_csv

VALUES = (0.7, 0.8, 0.9)


def row(architecture, l0, value, **more):
    base = {
        "layer": 1, "site": "mlp_out", "width": 64, "seed": 0, "data_seed": 0, "status": "ok", "gamma": 1.0,
        "alive": 0.9, "ce_clean": 3.0, "ce_zero": 5.0, "variant": "", "starts_from": "", "resamplings": 3,
        "sparsity_coefficient": l0, "learning_rate": 1e-3,
    }  # fmt: skip
    base["point"] = f"{architecture}-{more}-{l0}"
    return base | {"architecture": architecture, "l0": l0, "loss_recovered": value, "ce_spliced": 5 - 2 * value} | more


def frontier(architecture, factor, **more):
    return [row(architecture, factor * l0, value, **more) for l0, value in zip((2, 8, 32), VALUES, strict=True)]


def by_name(rows, **more):
    return {section.name: section for section in sections(rows, "base", **more)}


def test_nothing_is_said_of_what_the_rows_do_not_show():
    assert set(by_name(frontier("base", 2.0) + frontier("new", 1.0))) == {"gamma"}
    assert by_name([]) == {}


def test_points_without_an_active_feature_say_nothing_about_shrinkage():
    silent = [row("base", 0.0, -0.1, gamma=0.3), row("base", 0.0, -0.2, seed=1, gamma=0.2)]
    (sentence,) = by_name(frontier("base", 2.0) + silent)["gamma"].sentences
    assert sentence.startswith("gamma of base: median 1.000, from 1.000 to 1.000 over 3 points")


def test_sites_and_seeds():
    rows = []
    for site, factors in {"mlp_out": (2.0, 3.0), "resid_post": (4.0, 1.0)}.items():
        for seed, factor in enumerate(factors):
            how = {"site": site, "seed": seed, "data_seed": seed}
            rows += frontier("base", factor, **how) + frontier("new", 1.0, **how)
    found = by_name(rows)["sites"]
    assert "At 1 of 2 places every seed's frontier needs fewer" in found.sentences[0]
    line = found.tables[0][2][0]
    assert line[:2] == ["mlp_out.1", "new"] and line[3:6] == ["2.45", "2.00 to 3.00", "2"]
    # At equal L0 the better recovers log(factor) / log(4) * 0.1 more of 2 nats.
    gains = [2 * 0.1 * np.log(factor) / np.log(4) for factor in (2.0, 3.0)]
    assert line[6].startswith(f"{np.mean(gains):.3g}"[:4]) and line[7] == "2.00"
    assert found.figure is not None


def test_variants_are_compared_with_the_plain_form_and_kept_apart():
    rows = frontier("base", 2.0) + frontier("new", 1.0) + frontier("new", 1.5, variant="untied", gamma=0.9)
    line = by_name(rows)["variants"].tables[0][2][0]
    assert line == ["mlp_out.1", "new, untied", "1.50", "1", "0.900"]


def test_rescale_and_shift():
    rows = frontier("base", 8.0, variant="equal width", gamma=0.8) + frontier("base", 6.0, width=96)
    rows += frontier("new", 2.0)
    for start in rows[:3]:
        better = start["loss_recovered"] + 0.1 * np.log(2) / np.log(4)  # the same as half the L0
        rows.append(row("frozen", start["l0"], better, starts_from="base", gamma=0.99))
    found = by_name(rows)["rescaled"]
    assert "from a median of 0.800 to 0.990" in found.sentences[0]
    assert found.sentences[1].endswith("new it closes 50.0%.")


def test_pursuit_at_the_encoders_own_l0():
    rows = frontier("base", 2.0)
    pursued = [
        {**r, "l0": l0, "target_l0": l0, "loss_recovered": 0.6 + 0.05 * np.log2(l0)} for r in rows for l0 in (1, 64)
    ]
    found = by_name(rows, pursued=pursued)["pursuit"]
    assert found.tables[0][2][0][2:] == ["4.00", "0.7000", "0.7000", "0.0000"]
    assert "for base (median of 3 dictionaries)" in found.sentences[0] and "+0.000" in found.sentences[0]


def test_dead_features():
    rows = frontier("new", 1.0, alive=0.95) + frontier("new", 1.0, variant="no resampling", resamplings=0, alive=0.4)
    curves = {r["point"]: {"dead_share": ([0, 1], [0.0, 1 - r["alive"]])} for r in rows}
    assert by_name(rows, curves=curves)["dead"].tables[0][2][1] == ["new, no resampling", "3", "40.0%", "40.0%"]


def test_kinds_side_by_side():
    cost = {"flops_a_step": 1.1e8, "products_a_step": 7.0}
    rows = [r for seed in (0, 1) for r in frontier("new", 1.0 + seed, seed=seed, data_seed=seed, **cost)]
    rows = [r for r in rows if (r["seed"], r["loss_recovered"]) != (1, 0.9)]
    rows += [*frontier("base", 4.0, width=96, gamma=0.5, **cost), row("base", 0.0, -3.0, width=96, **cost)]
    (place, _, (new, base)), (caption, values, l0) = by_name(rows)["kinds"].tables
    assert place == "mlp_out.1"
    assert new == [
        "new", "64", "0.11", "7.00", "90% to 90%", "1.00 to 1.00", "2.00 to 32.0", "0.700 to 0.900"
    ]  # fmt: skip
    assert base[:3] == ["base", "96", "0.11"] and base[5] == "0.50 to 0.50"
    assert caption == "mlp_out.1: L0 at equal loss recovered" and values == ("kind", "0.75", "0.80", "0.85", "0.90")
    assert l0 == [
        ["new", "6.00 (4.00 to 8.00)", "12.0 (8.00 to 16.0)", "16.0 (1 of 2 seeds)", "32.0 (1 of 2 seeds)"],
        ["base", "16.0", "32.0", "64.0", "128"],
    ]
    assert "kinds" not in by_name(frontier("new", 1.0)) and by_name(rows)["kinds"].figure is None


def test_many_kinds_have_a_panel_each():
    rows = [r for i in range(7) for r in frontier(f"kind {i}", 1.0 + i, flops_a_step=1.0, products_a_step=5.0)]
    figure = by_name(rows)["kinds"].figure
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"kind {i}" for i in range(7)]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_codes_beside_the_norms_of_inputs():
    rows = [{**r, "error_bound": e} for r, e in zip(frontier("new", 1.0), (0.1, 0.2, 0.4), strict=True)]
    norms = {r["point"]: np.array([[1.0, 1.1], [2.0, 2.2]]) for r in rows}
    found = by_name(rows, norms=norms)["codes"]
    assert found.tables[0][2] == [["new", "3", "0.100", "0.200", "1.10"]]
    assert found.figure is not None
    assert "codes" not in by_name(rows) and "codes" not in by_name(frontier("new", 1.0), norms=norms)


def test_the_page_has_them(tmp_path):
    rows = frontier("base", 2.0) + frontier("new", 1.0) + frontier("new", 1.5, variant="<untied>")
    shown = write_report(
        tmp_path, rows=rows, densities={r["point"]: np.array([0.1]) for r in rows}, baseline="base", config={},
        command="", versions={}, seconds_per_stage={}, pursued=[{**rows[0], "target_l0": 4}],
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Variants</h2>" in page and "new, &lt;untied&gt;" in page and "<untied>" not in page
    assert "Variants:" in shown and len(read_results_csv(tmp_path / "results.csv")) == 9
    assert read_results_csv(tmp_path / "pursuit.csv")[0]["target_l0"] == 4
    assert len(read_results_csv(tmp_path / "results.csv")) == len({r["point"] for r in rows})


@pytest.mark.parametrize("missing", ["gamma", "alive", "flops_a_step"])
def test_gaps_break_nothing(missing):
    rows = frontier("base", 2.0) + frontier("new", 1.0, variant="x", resamplings=0)
    assert by_name([{**r, missing: None} for r in rows])


def layers(architecture, l0_of, **more):
    norms = (2.0, 4.0, 8.0, 16.0)
    return [
        row(architecture, l0_of(norm), 0.9, layer=i, input_norm=norm, norm_ratio=0.95, l1=2 * l0_of(norm), **more)
        | {"point": f"{architecture}-{i}", "sparsity_coefficient": 0.5}
        for i, norm in enumerate(norms)
    ]


def test_l0_against_input_norm_has_the_numbers_of_its_fit():
    rows = layers("base", lambda norm: 3 + 5 * norm) + layers("new", lambda norm: 20.0)
    found = by_name(rows)["layers"]
    base, new = found.tables[0][2]
    assert base == ["base", "0.5", "0", "4", "13.0 to 83.0", "6.38", "3.00", "5.00", "1.000", "2.00"]
    assert new[5:] == ["1.00", "20.0", "0", "–", "2.00"]  # no correlation where nothing varies
    assert "base: from site to site L0 varies by a factor of 6.38 to 6.38" in found.sentences[0]
    assert "correlate at 1.000 over 4 points; reconstructions have 0.950 to 0.950" in found.sentences[0]
    assert len(found.figure.axes) == 5
    assert "layers" not in by_name([row for row in rows if row["layer"] < 2])
    silent = [{**r, "l0": 0.0, "sparsity_coefficient": 9.0} for r in rows]  # nothing active: on no frontier
    assert by_name(rows + silent)["layers"].tables == found.tables


def test_vectors_are_shown_where_somebody_has_looked():
    rows = layers("base", lambda norm: norm) + layers("new", lambda norm: 20.0, variant="no noise")
    found = {
        "input_norm": np.float64(2.0), "norm_A": np.array([1.0, 2.0, 3.0]), "added_A": np.array([0.05, 0.5, 1.0]),
        "nearest_C": np.array([0.1, 0.2, 0.95]), "cosine_H": np.arange(200), "pillar_cosine_H": np.zeros(200, int),
        "correction": 1 / 3, "direction": 1 / 3, "pillars": 1, "pillar_direction": 1.0, "always": 0.0,
        "correction_below": 0.04, "direction_above": 0.9, "most_pillars": 100,
    }  # fmt: skip
    section = by_name(rows, dictionaries={r["point"]: found for r in rows})["vectors"]
    assert len(section.tables[0][2]) == 8 and "less than 4.0% of the inputs' mean norm" in section.sentences[0]
    assert section.tables[0][2][4] == [
        "mlp_out.0", "new, no noise", "0.5", "3", "2.00", "33.3%", "1", "33.3%", "100.0%", "0.0%",
    ]  # fmt: skip
    assert "33.3% of the vectors are corrections, 33.3% directions; of the pillars, 100.0%" in section.sentences[1]
    assert len(section.figure.axes) == 4
    assert "vectors" not in by_name(rows)
