"""The study by its commands, on a run of seconds: pages that give nothing away, ratings, and what comes of them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny_run
from reports.browser import Browser

from gsae import config, dashboards, pipeline
from gsae.errors import SettingError
from gsae.study.__main__ import main
from gsae.study.analyse import analyse, unblind

pytestmark = pytest.mark.slow  # a whole run, and the browser


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run that ends with the page of its features; its text holds a hostile document."""
    texts = tiny_run.documents(tmp_path_factory.mktemp("texts"))
    hostile = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\n"
    for copy in range(3):
        (texts / f"hostile{copy}.txt").write_text(hostile * (20 + copy))
    workdir = tmp_path_factory.mktemp("work") / "<b>run"
    settings = tiny_run.configuration(texts, evaluation__dashboards=50, evaluation__every=0, evaluation__tokens=0)
    pipeline.run(config.parse(settings), workdir, command="python -m gsae.main")
    return workdir


@pytest.fixture(scope="module")
def study(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    assert main(["build", f"--workdir={run}", f"--out={out}", "--raters=2", "--features=3", "--seed=7"]) == 0
    return out


def key_of(study):
    return json.loads((study / "key.json").read_text())


def test_the_run_ends_with_the_page_of_its_features(run):
    page = (run / "features.html").read_text()
    points = json.loads(re.search(r'id="points">(.*?)</script>', page).group(1))
    rows = (run / "results.csv").read_text()
    assert "hostile0.txt" in (run / "tokens" / "held_out" / "document_names.jsonl").read_text()
    assert len(points) == 4 and all(point["name"] in rows for point in points)
    assert "<title>&lt;b&gt;run: features</title>" in page and page.count("<script>") == 1
    assert 'href="features.html"' in (run / "report.html").read_text()


def test_the_command_makes_the_same_page_and_names_mistakes(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    point = next((run / "autoencoders").iterdir()).name
    assert (
        dashboards.main([f"--workdir={run}", f"--point={point}", "--features=5", "--tokens=500", f"--out={out}"]) == 0
    )
    assert "open it in a browser" in capsys.readouterr().out and f'"name":"{point}"' in out.read_text()
    for arguments, code, complaint in (
        ([f"--workdir={tmp_path}"], 2, "must be the directory of a run; there is no config.json in it"),
        ([f"--workdir={run}", "--point=nobody"], 2, "--point = 'nobody': must be one of "),
        ([f"--workdir={run}", "--features=-1"], 2, "argument --features: '-1': must be a whole number from 0"),
        (["--features=1"], 2, "the following arguments are required: --workdir"),
        ([f"--workdir={run}", f"--point={point}", "--out=/dev/null/x"], 1, "cannot be written"),
    ):
        try:
            found = dashboards.main(arguments)
        except SystemExit as stop:
            found = stop.code
        lines = [line for line in capsys.readouterr().err.splitlines() if "gsae.dashboards" in line]
        assert found == code and len(lines) == 1 and complaint in lines[0], lines


def test_pages_hold_nothing_that_unblinds(study, run):
    key = key_of(study)
    assert {item["kind"] for item in key["items"]} == {"gated", "standard"} and len(key["items"]) == 12
    for rater in ("rater-1", "rater-2"):
        page = (study / "pages" / f"{rater}.html").read_text()
        own = json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL).group(1))
        assert set(own) == {"study", "rater", "items", "strings", "length", "size", "tokens", "packed"}
        assert own["items"] == 6 and own["study"] == key["studies"][rater] and own["strings"] == sorted(own["strings"])
        told = {"fired", "max", "mean", "histogram", "bin_width", "promoted", "suppressed", "rows"}
        per_example = {"value", "window", "row", "position"}
        told |= {f"{kind}_{name}" for kind in ("strongest", "drawn") for name in per_example}
        assert set(own["packed"]["arrays"]) == told
        outside = page.replace(json.dumps(own["strings"]), "")
        for word in ("attn_z.1", "gated-", "standard-", str(run.name), key["points"][0]["point"]):
            assert word not in outside


def test_the_same_seed_gives_the_same_study(study, run, tmp_path, capsys):
    command = ["build", f"--workdir={run}", "--raters=2", "--features=3"]
    assert main([*command, f"--out={tmp_path / 'again'}", "--seed=7"]) == 0
    assert (tmp_path / "again" / "key.json").read_text() == (study / "key.json").read_text()
    for page in (study / "pages").iterdir():
        assert (tmp_path / "again" / "pages" / page.name).read_bytes() == page.read_bytes()
    assert main([*command, f"--out={study}"]) == 2 and "holds a study already" in capsys.readouterr().err
    assert main(["build", f"--workdir={run}", "--features=90", f"--out={tmp_path / 'x'}"]) == 2
    assert "features that fire" in capsys.readouterr().err


def export(study, rater, answer):
    key = key_of(study)
    own = [item for item in key["items"] if item["rater"] == rater]
    ratings = {item["name"]: {"explanation": "so", "rating": answer(item)} for item in own}
    return {"study": key["studies"][rater], "rater": rater, "items": len(own), "ratings": ratings}


def test_ratings_are_unblinded_and_compared(study, tmp_path, capsys):
    files = []
    for rater in ("rater-1", "rater-2"):
        own = export(study, rater, lambda item: "yes" if item["kind"] == "gated" else "maybe")
        if rater == "rater-2":
            own["ratings"].pop(next(item["name"] for item in key_of(study)["items"] if item["rater"] == rater))
        files.append(tmp_path / f"{rater}.json")
        files[-1].write_text(json.dumps(own))
    assert main(["analyse", f"--key={study / 'key.json'}", *map(str, files), f"--out={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "11 features rated, 1 not" in shown and "gated - standard: +1.000, no interval" in shown
    record = json.loads((tmp_path / "study.json").read_text())
    first = record["differences"][0]
    assert (first["pairs"], first["mean"], first["p"], first["baseline"]) == (2, 1.0, 0.25, "standard")
    assert (tmp_path / "study.png").read_bytes()[:4] == b"\x89PNG"


def test_exports_that_do_not_fit_are_named(study, tmp_path):
    key, good = key_of(study), export(study, "rater-1", lambda item: "no")
    with pytest.raises(SettingError, match="is not an export of a page of this study"):
        unblind(key, {"a": good | {"study": "other"}})
    with pytest.raises(SettingError, match="is of rater-1, as a is"):
        unblind(key, {"a": good, "b": good})
    with pytest.raises(SettingError, match="must be no, maybe, yes"):
        unblind(key, {"a": good | {"ratings": {"1": {"rating": "perhaps"}}}})
    ratings, missing = unblind(key, {"a": good | {"ratings": {"1": {"rating": "yes"}, "2": {"rating": None}}}})
    assert len(ratings) == 1 and missing == 5 and ratings[0].kind == key["items"][0]["kind"]
    (tmp_path / "empty.json").write_text("{")
    with pytest.raises(RuntimeError, match=r"empty.json: cannot be read"):
        analyse(study / "key.json", [tmp_path / "empty.json"], tmp_path, level=0.9, seed=0)


def test_help_is_fast_and_needs_no_jax():
    code = "import sys; from gsae.study.__main__ import parser; import gsae.dashboards; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_rating_in_a_browser(study, run, tmp_path, capsys):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    answer = "document.querySelector('[name=rating]:checked')?.value"
    with Browser() as browser:
        browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        browser.look(1366, 850)
        browser.open(study / "pages" / "rater-1.html")
        heading = "document.querySelector('#item h2').textContent"
        assert browser.run(heading) == "Feature 1 of 6" and browser.run("document.querySelectorAll('.here').length") > 0
        browser.press("e")
        browser.type("yes, <b>braces</b>")
        browser.press("n")  # a letter of the text, no rating
        assert browser.run("document.getElementById('explanation').value") == "yes, <b>braces</b>n"
        assert browser.run(answer) is None
        browser.press("Escape")
        browser.press("y")
        browser.press("ArrowRight")
        assert browser.run(heading) == "Feature 2 of 6" and browser.run(answer) is None
        browser.run("document.querySelector('[value=maybe]').click()")
        browser.reload()
        assert browser.run(heading) == "Feature 2 of 6" and browser.run(answer) == "maybe"
        browser.press("ArrowLeft")
        assert browser.run("document.getElementById('explanation').value") == "yes, <b>braces</b>n"
        browser.run("document.getElementById('unrated').click()")
        assert browser.run(heading) == "Feature 3 of 6"
        for _ in range(4):
            browser.press("n")
            browser.press("ArrowRight")
        assert "6 of 6 rated" in browser.run("document.getElementById('progress').textContent")
        browser.run("document.getElementById('export').click()")
        file = downloads / "rater-1.json"
        browser.wait_for(lambda: file.exists() and file.stat().st_size)
        found = json.loads(file.read_text())
        assert [found["ratings"][str(i + 1)]["rating"] for i in range(6)] == ["yes", "maybe", "no", "no", "no", "no"]
        assert found["ratings"]["1"]["explanation"] == "yes, <b>braces</b>n"
        assert browser.complaints() == []
        assert main(["analyse", f"--key={study / 'key.json'}", str(file), f"--out={tmp_path}"]) == 0
        assert "6 features rated\n" in capsys.readouterr().out

        browser.open(run / "features.html")
        browser.run(
            "(s => { s.value = 'onerror'; s.dispatchEvent(new Event('input')) })(document.getElementById('search'))"
        )
        hostile = "text.includes(\"<script>document.title='owned'\")"
        shown = "[...state.point.features.keys()].some(f => { drawFeature(f); const text = "
        shown += f"document.getElementById('feature').textContent; return {hostile} }})"
        assert browser.run(shown), "the hostile document is shown"
        for word in ("script", "img"):
            assert browser.run(f"document.querySelectorAll('main {word}').length") == 0
        assert browser.run("document.title") == "<b>run: features"
        assert browser.complaints() == [] and np.all([url.startswith(("file:", "blob:")) for url in browser.requests()])
