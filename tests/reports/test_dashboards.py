"""The page of features: its data, and that no text can become part of the page. The browser's part is slow."""

import json
import re

import numpy as np
import pytest
from browser import Browser
from feature_pages import elements, unpacked
from tiny_features import HOSTILE, SHAPE, STRINGS, Texts, directions, observed, pool

from gsae.reports.dashboards import PointFeatures, dashboard_page, drawn_features
from gsae.reports.feature_data import GROUPS, IN_GROUP, NONE, feature_arrays, sequences_of
from gsae.reports.packing import json_element


def page(points=None):
    seen = points or [observed(), observed("second </script>", 4, 4, seed=1)]
    made = [PointFeatures(each.name, f"about {each.name}", 9, each, directions(each)) for each in seen]
    return dashboard_page(
        made, title="<run>", pool=pool(), texts=Texts(), document_names=["<script>a</script>.py", "b & c"]
    )


def test_the_page_holds_what_was_observed():
    seen, data = observed(), elements(page())
    assert [point["name"] for point in data["points"]] == ["first", "second </script>"]
    assert data["text"]["strings"] == STRINGS and data["text"]["documents"][0] == "<script>a</script>.py"
    np.testing.assert_array_equal(unpacked(data["text"]["packed"]).rows, pool().numbers_NT)
    about, found = data["point-0"], unpacked(data["point-0"]["packed"])
    assert (about["tokens"], about["l0"], about["all"]) == (1000, 4.5, 9)
    assert about["size"] == {"before": SHAPE.before, "after": SHAPE.after}
    np.testing.assert_array_equal(found.features, seen.features_F)
    np.testing.assert_array_equal(found.fired, seen.fired_F)
    np.testing.assert_array_equal(found.histogram, seen.histogram_FH)
    np.testing.assert_allclose(found.max, seen.max_F)
    np.testing.assert_allclose(found.mean, np.where(seen.fired_F > 0, 1.25, 0))
    np.testing.assert_array_equal(found.promoted, directions(seen).promoted_FN)
    there, sequence = seen.strongest.sequence_FK >= 0, seen.strongest.sequence_FK.astype(np.int64)
    np.testing.assert_array_equal(found.strongest_row, np.where(there, sequence // 10, NONE))
    np.testing.assert_array_equal(found.strongest_document, np.where(there, sequence // 30, NONE))
    share = seen.strongest.window_FKW / np.where(seen.max_F > 0, seen.max_F, 1)[:, None, None]
    np.testing.assert_allclose(found.strongest_window / 255, share, atol=0.004)
    assert ((found.strongest_window > 0) == (share > 0)).all(), "what fires is never shown as silent"


def test_drawn_examples_are_shown_by_intervals_of_the_activation():
    seen = observed()
    seen.strongest.value_FK[0, 0] = -2.0  # signs do not count
    seen.drawn.value_FK[0] = [-1.99, 1.9, -1.61, 1.6, 1.2, 1.1, 0.3, 0.01]
    seen.drawn.sequence_FK[3:5] = 0
    seen.strongest.value_FK[3:5, 0] = 1.0
    seen.drawn.value_FK[3] = np.linspace(0.99, 0.92, 8)
    seen.drawn.value_FK[4] = np.linspace(0.5, 0.43, 8)
    found = feature_arrays(seen, pool())
    rows, values = found["drawn_row"], found["drawn_value"]
    assert rows.shape == (7, GROUPS * IN_GROUP)
    shown = [
        values[0, g * IN_GROUP : (g + 1) * IN_GROUP][rows[0, g * IN_GROUP : (g + 1) * IN_GROUP] != NONE]
        for g in range(GROUPS)
    ]
    np.testing.assert_allclose(np.concatenate(shown), seen.drawn.value_FK[0])  # 8 of 8, each once, strongest first
    assert [len(group) for group in shown] == [3, 1, 2, 0, 2]  # from 1.6, 1.2, .8, .4, 0 to what is above
    np.testing.assert_allclose(values[3, :4], seen.drawn.value_FK[3, [0, 2, 5, 7]])  # evenly, of eight in one interval
    assert (rows[3, :4] != NONE).all() and (rows[3, 4:] == NONE).all()
    assert (rows[4] != NONE).sum() == 4 and (rows[4, 8:12] != NONE).all()
    assert (rows[1] == NONE).all() and (rows[2] != NONE).sum() == 2


def test_relative_activations_have_no_scale_of_their_own():
    found = feature_arrays(observed(), pool(), relative=True)
    assert found["max"][0] == 1 and found["strongest_value"][0, 0] == 1 and found["strongest_value"].max() == 1
    doubled = observed()
    for kind in (doubled.strongest, doubled.drawn):
        kind.value_FK[:] *= 2
        kind.window_FKW[:] *= 2
    doubled.total_F[:] *= 2
    doubled.bin_width_F[:] *= 2
    for name, array in feature_arrays(doubled, pool(), relative=True).items():
        alive = doubled.fired_F > 0
        np.testing.assert_allclose(array[alive], found[name][alive], rtol=1e-6, err_msg=name)


def test_no_text_becomes_markup():
    text = page()
    assert elements(text)["text"]["strings"] == STRINGS  # nothing is lost
    for string in HOSTILE:
        assert string not in text
    assert text.count("<script>") == 1 and text.count("</script>") == 1 + text.count('type="application/json"')
    assert "<title>&lt;run&gt;: features</title>" in text and "http://www.w3.org/2000/svg" in text
    assert not re.search(r'(src|href)="(?!#)', text) and "default-src &#x27;none&#x27;" in text
    assert json.loads(re.search(">(.*)<", json_element("x", "\ud800 half")).group(1)) == "? half"


def test_which_features_are_drawn():
    assert list(drawn_features(5, 0, 0)) == list(drawn_features(5, 9, 0)) == [0, 1, 2, 3, 4]
    some = drawn_features(1000, 10, 3)
    assert len(set(some)) == 10 and (np.diff(some) > 0).all() and list(some) == list(drawn_features(1000, 10, 3))
    assert list(some) != list(drawn_features(1000, 10, 4))
    assert list(sequences_of([observed()])) == [0, 10, 20, 30, 40, 50]


@pytest.mark.slow
def test_in_a_browser(tmp_path):
    file = tmp_path / "features.html"
    file.write_text(page(), encoding="utf-8")
    with Browser() as browser:
        browser.look(1366, 850)
        browser.open(file)
        rows = "document.querySelectorAll('#rows li')"
        assert browser.run(f"{rows}.length") == 7 and browser.run(
            "document.getElementById('count').textContent"
        ).startswith("7 features, drawn from 9")
        seen = observed()
        order = [seen.features_F[i] for i in np.argsort(-seen.fired_F)]
        numbers = f"[...{rows}].map(row => Number(row.querySelector('.number').textContent))"
        assert browser.run(numbers) == order
        set_sort = "(s => {{ s.value = '{}'; s.dispatchEvent(new Event('change')) }})(document.getElementById('sort'))"
        browser.run(set_sort.format("small"))
        assert browser.run(numbers) == list(seen.features_F)  # by decoder norm
        browser.run("document.getElementById('search').focus()")
        browser.type(str(seen.features_F[3]))
        assert browser.run(numbers) == [seen.features_F[3]]
        search = "(s => {{ s.value = '{}'; s.dispatchEvent(new Event('input')) }})(document.getElementById('search'))"
        browser.run(search.format("onerror"))
        assert 0 < browser.run(f"{rows}.length") < 7
        for query, matching in (("density > 2 %", seen.density_F > 0.02), ("norm<1.15", [0, 1]), ("max > 1e9", [])):
            browser.run(search.format(query))
            assert sorted(browser.run(numbers)) == list(seen.features_F[matching]), query
        browser.run(search.format(""))

        browser.open(file, f"#first/{seen.features_F[0]}")
        browser.wait(f"document.querySelector('#feature h2').textContent === 'Feature {seen.features_F[0]}'")
        shown = browser.run("document.getElementById('feature').textContent")
        assert any(string in shown for string in HOSTILE) and "By <b>hand</b>." in shown, "hostile text is shown"
        assert browser.run("document.querySelectorAll('#feature img, #feature script, #feature b').length") == 0
        peaks = browser.run("[...document.querySelectorAll('#feature .here')].map(span => span.textContent)")
        drawn = feature_arrays(seen, pool())["drawn_row"][0] != NONE
        assert peaks[0] in HOSTILE and len(peaks) == SHAPE.strongest + drawn.sum()
        ranges = browser.run("[...document.querySelectorAll('#feature h4')].map(title => title.textContent)")
        assert len(ranges) == GROUPS and ranges[-1].startswith("Activations from 0 to ")
        assert browser.run("document.title") == f"{seen.features_F[0]} · first", "no script of the text has run"

        browser.run(f"location.hash = '#first/{seen.features_F[1]}'")
        browser.wait("document.getElementById('feature').textContent.includes('It never fired')")
        browser.run("location.hash = '#' + encodeURIComponent('second </script>')")
        browser.wait(f"{rows}.length === 4")
        browser.run("document.activeElement.blur()")
        browser.press("j")
        browser.wait("document.body.classList.contains('one')")

        browser.look(390, 844, dark=True)
        browser.open(file)
        assert browser.run("document.documentElement.scrollWidth") <= 390
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
        assert browser.complaints() == []
        assert {address.split("#")[0] for address in browser.requests()} == {file.as_uri()}, "nothing else is fetched"


@pytest.mark.slow
def test_ten_thousand_features_in_a_browser(tmp_path):
    file = tmp_path / "features.html"
    file.write_text(page([observed("many", 10_000, 10_000)]), encoding="utf-8")
    with Browser() as browser:
        browser.look(1366, 850)
        browser.open(file)
        rows = "document.querySelectorAll('#rows li')"
        assert browser.run("document.getElementById('count').textContent") == "10,000 features"
        assert browser.run(f"{rows}.length") < 50, "only what can be seen is in the page"
        browser.run("document.getElementById('list').scrollTop = 1e9")
        last = f"{rows}[{rows}.length - 1].textContent"
        browser.wait(f"{last}.includes('never fired')")  # by density, the one that never fired is last
        assert browser.run(f"{rows}.length") < 50
        browser.open(file, "#many/9876")
        browser.wait("document.querySelector('#feature h2').textContent === 'Feature 9876'")
        browser.wait("document.querySelector('#rows a[aria-current]')?.textContent.startsWith('9876')")
