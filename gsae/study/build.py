"""From finished runs to rating pages, one for each rater, and the key that unblinds them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.finished import FinishedRun
from gsae.reports.rating import rating_page
from gsae.study.draw import MATCHES, Candidate, alike, draw
from gsae.study.shown import look_at

KEY = "key.json"
PAGES = "pages"


def build(
    workdirs: Sequence[Path],
    out: Path,
    *,
    points: str,
    match: str,
    at: float | None,
    raters: int,
    features: int,
    tokens: int,
    batch_size: int,
    seed: int,
    progress: bool = True,
) -> list[Path]:
    """Draws, looks at what was drawn, and writes pages and key; gives the pages.

    Args:
        workdirs: of finished runs; a language model that several have studied is one.
        out: directory of `pages/` and `key.json`.
        points: names of points, with commas between; "" for all.
        match, at: as in `draw.alike`.
        raters: how many people.
        features: of each point for each rater.
        tokens: held-out tokens to look at; 0 for all.
        batch_size: sequences in one pass.
        seed: of features, examples and order.
        progress: draws a progress bar.

    Raises:
        SettingError, RunError: see `FinishedRun`, `alike` and `draw`.
    """
    if (out / KEY).exists():
        raise SettingError("--out", str(out), f"holds a study already ({KEY}); choose another directory")
    runs = [FinishedRun(workdir) for workdir in workdirs]
    found = [candidate for index, run in enumerate(runs) for candidate in _candidates(run, index, points)]
    chosen = alike(found, match, at)
    items = draw(chosen, raters=raters, features=features, seed=seed)
    shown = look_at(runs, items, tokens=tokens, batch_size=batch_size, seed=seed, progress=progress)
    baselines = {run.settings["evaluation"]["baseline"] for run in runs}
    pages, studies = {}, {}
    for rater in dict.fromkeys(item.rater for item in items):
        own = [index for index, item in enumerate(items) if item.rater == rater]
        pages[rater], studies[rater] = rating_page(shown.of(own), rater=rater)
    key = {
        "studies": studies,
        "baseline": sorted(baselines)[0],
        "seed": seed,
        "match": match,
        "points": [
            {"workdir": str(runs[each.run].workdir), "point": each.point, "kind": each.kind, match: each.metrics[match]}
            for each in chosen
        ],
        "items": [dataclasses.asdict(item) for item in items],
    }  # fmt: skip
    paths = []
    for rater, page in pages.items():
        paths.append(out / PAGES / f"{rater}.html")
        artifacts.write_file(paths[-1], page)
    artifacts.write_json(out / KEY, key)
    return paths


def _candidates(run: FinishedRun, index: int, points: str) -> list[Candidate]:
    found = []
    named = ",".join(name for name in points.split(",") if name in run.rows) if points else ""
    if points and not named:
        return []
    for name in run.choose(named):
        row, density = run.rows[name], run.workdir / "evaluation" / name / "density.npy"
        if not all(row[column] for column in MATCHES):  # a gap: there is nothing to match
            continue
        try:
            fired = np.flatnonzero(np.load(density) > 0)
        except (OSError, ValueError) as error:
            raise RunError(f"{density}: cannot be read ({error})") from error
        metrics = {column: float(row[column]) for column in MATCHES}
        found.append(
            Candidate(
                run.settings["language_model"]["name"], row["site"], int(row["layer"]), row["architecture"], index,
                name, metrics, fired,
            )
        )  # fmt: skip
    return found
