"""The whole report: files, true sentences, warnings, and a page that fetches nothing and escapes everything."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gsae.reports.findings import comparisons, headline, warnings
from gsae.reports.report import write_report
from gsae.reports.tables import read_results_csv

VOID = {"meta", "br", "link", "img", "path", "use", "rect"}


class Balanced(HTMLParser):
    """Fails on tags that do not match, and collects addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def points(architecture, pairs, **more):
    base = {"architecture": architecture, "layer": 2, "site": "mlp_out", "width": 32, "seed": 0, "status": "ok"}
    return [
        {
            **base,
            "l0": l0,
            "loss_recovered": value,
            "point": f"{architecture}-{i}",
            "gamma": 1.0,
            "tokens": 1000,
            **more,
        }
        for i, (l0, value) in enumerate(pairs)
    ]


def report(directory, rows, **more):
    plain = {"config": {"sae": {"width": 32}}, "command": "python -m gsae.main", "versions": {"jax": "1"}}
    densities = {row["point"]: np.array([0, 0.1, 0.5]) for row in rows}
    seconds = {"train": 3.0, "evaluate": 1.0}
    settings = {"densities": densities, "baseline": "base", "seconds_per_stage": seconds, **plain, **more}
    return write_report(directory, rows=rows, **settings)


def test_everything_is_written_and_the_page_is_self_contained(tmp_path):
    rows = points("base", [(10, 0.5), (100, 0.9)]) + points("new", [(5, 0.5), (50, 0.9)])
    shown = report(tmp_path, rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "density.png", "frontier.png", "report.html", "results.csv", "shrinkage.png",
    ]  # fmt: skip
    assert "base autoencoders use 2.00 times as many active features per token as new autoencoders" in shown
    assert [row["point"] for row in read_results_csv(tmp_path / "results.csv")] == [row["point"] for row in rows]
    page = (tmp_path / "report.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert all(address.startswith("#") for address in parser.addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "2.00 times as many" in page and "gsae.load(&quot;autoencoders/base-0&quot;)" in page
    assert "sae.width" in page and "4.0 s" in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    rows = points("base", [(10, 0.5)], site=evil, layer=None) + points(evil, [(5, 0.5)], status=evil)
    report(
        tmp_path, rows, config={evil: {evil: evil}}, command=evil, versions={evil: evil}, title=evil,
        seconds_per_stage={evil: 1.0},
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert evil not in page and page.count("<script>") == 1


@pytest.mark.parametrize("rows", [[], points("base", [(None, None)], status="frozen")])
def test_a_sweep_without_a_finished_point_has_a_report(rows, tmp_path):
    assert "none finished" in report(tmp_path, rows)
    assert "none finished" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("new", "says"),
    [
        ([(20, 0.5), (200, 0.9)], "base autoencoders use 0.50 times as many active features per token as new"),
        ([(5, 0.95), (50, 0.99)], "share no fixed value of loss recovered"),
        ([(5, 0.5), (50, 0.52)], "at a loss recovered of 0.50"),
    ],
)
def test_the_headline_is_true_whatever_comes_out(new, says):
    rows = points("base", [(10, 0.5), (100, 0.9)]) + points("new", new)
    (sentence,) = headline(rows, comparisons(rows, "base", 0.05))
    assert says in sentence


def test_without_the_baseline_the_headline_says_what_was_reached():
    rows = points("new", [(5, 0.5), (50, 0.9)])
    (sentence,) = headline(rows, comparisons(rows, "base", 0.05))
    reached = "L0 from 5.00 to 50.0 and a loss recovered from 0.500 to 0.900"
    assert sentence == f"At mlp_out.2, 2 points of new autoencoders reach {reached}."


def test_warnings_name_the_site_the_point_and_the_number():
    fine = {"ce_clean": 2.0, "ce_zero": 3.0, "loss_recovered_se": 0.01, "alive": 0.9}
    assert warnings(points("base", [(10, 0.5)], **fine)) == []
    doubtful = {"ce_clean": 2.0, "ce_zero": 2.05, "loss_recovered_se": 0.2, "alive": 0.25}
    found = "\n".join(
        warnings(points("base", [(10, 0.5)], **doubtful) + points("new", [(None, None)], status="frozen"))
    )
    assert "only 0.05 nats" in found and "at 1 of 1 points, 0.200 at base-0" in found
    assert "at base-0 75.0% were silent on 1,000" in found and "new-0: its status is frozen" in found


def test_without_a_language_model_everything_is_said_in_fvu(tmp_path):
    rows = points("base", [(10, 0.5), (100, 0.1)]) + points("new", [(5, 0.5), (50, 0.1)])
    judged = [{**row, "fvu": row["loss_recovered"], "loss_recovered": None, "layer": None} for row in rows]
    shown = report(tmp_path, judged)
    assert "base L0 / new L0 at equal FVU, mlp_out" in shown and "for the same FVU (median of 21 fixed" in shown
    page = (tmp_path / "report.html").read_text()
    assert "At equal FVU" in page and "Down and to the left is better" in page
    for text in (shown, page):
        assert "loss recovered" not in text.lower() and "ΔCE" not in text
    [alone] = headline(judged[:2], comparisons(judged[:2], "other", 0.05))
    assert alone.endswith("reach L0 from 10.0 to 100 and an FVU from 0.100 to 0.500.")
