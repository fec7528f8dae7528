"""The figures show the points that there are, are the same bytes for the same rows, and never fail for want of data."""

import math

import numpy as np
import pytest

from gsae.evaluation.quality import LOSS_RECOVERED
from gsae.reports import plots, style
from gsae.reports.curves import read_log, training_figure


def sweep(seeds=(0,), sites=("mlp_out",)):
    rows = []
    for site in sites:
        for shift, architecture in enumerate(("base", "new")):
            for seed in seeds:
                for i, l0 in enumerate((3.0, 10.0, 40.0)):
                    numbers = {
                        "l0": l0 + seed,
                        "loss_recovered": 0.3 + 0.2 * i + 0.1 * shift,
                        "gamma": 0.9 + 0.1 * shift,
                    }
                    names = {"point": f"{architecture}-{site}-{i}-{seed}", "status": "ok", "loss_recovered_se": 0.01}
                    where = {"layer": 1, "site": site, "width": 64 * (1 + shift), "seed": seed, "data_seed": 0}
                    rows.append({"architecture": architecture, **where, **numbers, **names})
    return rows


def densities(rows):
    return {row["point"]: np.array([0.0, 1e-4, 1e-2, 0.5]) for row in rows}


def markers(axes):
    return sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() not in ("None", "", None, "_"))


def test_the_frontier_shows_every_point_the_widths_and_the_beaten_ones_open():
    rows = sweep()
    rows.append({**rows[0], "l0": 20.0, "loss_recovered": 0.1, "point": "beaten"})
    (axes,) = plots.frontier_figure(rows).axes
    assert markers(axes) == len(rows)
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"base, 64 features", "new, 128 features"}
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "#ffffff"]
    assert sum(len(line.get_xdata()) for line in hollow) == 1
    assert axes.get_xscale() == "log"


def test_seeds_give_a_band_between_the_lowest_and_the_highest():
    group = [row for row in sweep(seeds=(0, 1)) if row["architecture"] == "base"]
    l0, low, high = plots.seed_band(group, LOSS_RECOVERED)
    assert l0[0] == pytest.approx(4.0) and l0[-1] == pytest.approx(40.0)
    assert np.all(low < high)
    assert high[0] == pytest.approx(0.3 + 0.2 * math.log(4 / 3) / math.log(10 / 3)) and low[0] == pytest.approx(0.3)
    assert plots.seed_band([row for row in group if row["seed"] == 0], LOSS_RECOVERED) is None


def test_many_kinds_look_different_and_their_legend_hides_nothing():
    assert len({style.look(i)[:2] for i in range(36)}) == 36
    assert all(len({style.look(i)[part] for i in range(6)}) == 6 for part in range(3))
    rows = [{**row, "architecture": f"{row['architecture']} {i}"} for i in range(4) for row in sweep()]
    (axes,) = plots.frontier_figure(rows).axes
    figure = axes.figure
    figure.canvas.draw()
    assert len(axes.get_legend().get_texts()) == 8
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_each_site_has_a_panel():
    figure = plots.frontier_figure(sweep(sites=("mlp_out", "resid_post")))
    assert [axes.get_title(loc="left").split(", ")[-1] for axes in figure.axes] == ["mlp_out.1", "resid_post.1"]


def test_error_bars_are_inside_the_axes():
    rows = [{**row, "loss_recovered_se": 0.2} for row in sweep()]
    low, high = plots.frontier_figure(rows).axes[0].get_ylim()
    assert low < 0.3 - 0.2 and high > 0.8 + 0.2


def test_points_that_failed_or_lie_far_below_do_not_spoil_the_axes():
    rows = sweep()
    rows[0]["loss_recovered"] = -40.0
    rows[1] |= {"l0": None, "loss_recovered": math.nan, "status": "frozen"}
    (axes,) = plots.frontier_figure(rows).axes
    assert markers(axes) == len(rows) - 1
    assert axes.get_ylim()[0] > -0.2
    assert any("1 more below" in text.get_text() for text in axes.texts)


@pytest.mark.parametrize("rows", [[], [{"architecture": "base", "site": "mlp_out", "layer": 1, "status": "frozen"}]])
def test_without_data_the_figures_say_so(rows, tmp_path):
    plots.draw_frontier(tmp_path / "frontier.png", rows)
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    for figure in (plots.shrinkage_figure(rows), plots.density_figure(rows, {})):
        assert "no " in figure.axes[0].texts[0].get_text()


def test_densities_name_the_share_that_never_fired():
    rows = sweep()
    rows[0]["l0"] = 3.5  # now the second architecture has the sparsest point; the panels keep their order
    figure = plots.density_figure(rows, densities(rows))
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == ["base", "new"]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts.count("25.0% never fired") == len(rows)


def test_a_dead_point_has_a_density_panel_too():
    rows = sweep()[:1]
    assert (
        plots.density_figure(rows, {rows[0]["point"]: np.zeros(8)}).axes[0].texts[1].get_text() == "100.0% never fired"
    )


def test_the_same_rows_give_the_same_bytes_and_ids_do_not_clash():
    first, second = (style.to_svg(plots.frontier_figure(sweep()), "frontier") for _ in range(2))
    assert first == second
    assert first.startswith("<svg viewBox=") and 'id="frontier-' in first and 'href="#frontier-' in first
    assert "currentColor" in first and "var(--series-1)" in first and style.INK not in first


def test_training_curves_skip_an_unfinished_last_line(tmp_path):
    rows = sweep()
    log = tmp_path / "metrics.jsonl"
    line = '{"step": 1, "points": {"base-mlp_out-0-0": {"l0": 5.0, "gamma": null}}, "timing": {}}'
    log.write_text(line + "\n" + line[:20])
    curves = read_log(log)
    assert curves == {"base-mlp_out-0-0": {"l0": ([1], [5.0])}}
    assert len(training_figure(curves, rows).axes) == 1
    assert training_figure(read_log(tmp_path / "nothing"), rows) is None


def test_without_loss_recovered_the_frontier_falls_in_fvu():
    rows = [{**row, "loss_recovered": None, "fvu": 1 - row["loss_recovered"], "layer": None} for row in sweep()]
    rows.append({**rows[0], "l0": 20.0, "fvu": 0.9, "point": "beaten"})
    rows.append({**rows[0], "l0": 2.0, "fvu": 7.0, "point": "early"})
    (axes,) = plots.frontier_figure(rows).axes
    assert axes.get_ylabel() == "FVU" and axes.get_title(loc="left") == "FVU against sparsity, mlp_out"
    assert markers(axes) == len(rows)
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "#ffffff"]
    assert sum(len(line.get_xdata()) for line in hollow) == 1
    assert axes.get_ylim()[1] < 1.3 and any("1 more above 1.1" in text.get_text() for text in axes.texts)
