"""From exported ratings and the key to a table, study.json and study.png."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsae import artifacts
from gsae.errors import RunError, SettingError
from gsae.reports.ratings_figure import ratings_figure
from gsae.reports.style import save_png
from gsae.study.statistics import POINTS, Difference, Rating, differences, means


def analyse(key: Path, exports: Sequence[Path], out: Path, *, level: float, seed: int) -> str:
    """Unblinds ratings, writes study.json and study.png into `out`, and gives what the terminal shows.

    Args:
        key: what `build` wrote.
        exports: what raters have exported from their pages.
        out: directory.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        SettingError: when an export is not of this study, or twice there, or has a rating that there is not.
        RunError: when a file cannot be read, or nothing was rated.
    """
    unblinding = _json(key)
    ratings, missing = unblind(unblinding, {str(path): _json(path) for path in exports})
    if not ratings:
        raise RunError(f"{', '.join(map(str, exports))}: nothing is rated yet")
    averages = means(ratings)
    compared = differences(ratings, unblinding["baseline"], level=level, seed=seed)
    record = {
        "rated": len(ratings),
        "not_rated": missing,
        "means": averages,
        "differences": [
            {**dataclasses.asdict(each), "mean": None if math.isnan(each.mean) else each.mean} for each in compared
        ],
    }
    artifacts.write_json(out / "study.json", record)
    save_png(ratings_figure(averages, compared), out / "study.png")
    return _shown(averages, compared, len(ratings), missing)


def unblind(key: Mapping[str, Any], exports: Mapping[str, Mapping[str, Any]]) -> tuple[list[Rating], int]:
    """The ratings with what they are of, and how many features of these raters are not rated.

    Args:
        key: what `build` wrote.
        exports: what raters exported, by file.

    Raises:
        SettingError: see `analyse`.
    """
    items = {(item["rater"], item["name"]): item for item in key["items"]}
    ratings: list[Rating] = []
    seen: dict[str, str] = {}
    expected = 0
    for file, export in exports.items():
        if not isinstance(export, Mapping) or export.get("study") not in key["studies"].values():
            raise SettingError("ratings", file, "is not an export of a page of this study")
        rater = next(rater for rater, study in key["studies"].items() if study == export["study"])
        if rater in seen:
            raise SettingError("ratings", file, f"is of {rater}, as {seen[rater]} is: give one of them")
        seen[rater] = file
        expected += sum(owner == rater for owner, _ in items)
        for name, answer in export["ratings"].items():
            if answer["rating"] is None:
                continue
            if (rater, name) not in items or answer["rating"] not in POINTS:
                raise SettingError(
                    "ratings", file, f"feature {name}, {answer['rating']!r}: must be {', '.join(POINTS)}"
                )
            about = {field: items[rater, name][field] for field in ("model", "site", "layer", "kind")}
            ratings.append(Rating(**about, rater=rater, points=POINTS[answer["rating"]]))
    return ratings, expected - len(ratings)


def _shown(averages: Sequence[Mapping[str, Any]], compared: Sequence[Difference], rated: int, missing: int) -> str:
    lines = [f"{rated} features rated" + (f", {missing} not (they are left out)" if missing else "")]
    lines.append(f"\n  {'':<14}{'kind':<14}{'rated':>6}{'yes':>6}{'maybe':>6}{'no':>6}{'mean':>8}")
    for row in averages:
        counts = f"{row['rated']:>6}{row['yes']:>6}{row['maybe']:>6}{row['no']:>6}"
        lines.append(f"  {row['scope']:<14}{row['kind']:<14}{counts}{row['mean']:>8.3f}")
    lines.append("\n  points from 0 (no) to 2 (yes); paired by model, layer, site and rater")
    for each in compared:
        if not each.pairs:
            lines.append(f"  {each.scope:<14}{each.kind} - {each.baseline}: no pairs")
            continue
        interval = (
            f"{each.level:.0%} interval [{each.interval[0]:+.3f}, {each.interval[1]:+.3f}]"
            if each.interval
            else "no interval: fewer than two different differences"
        )
        pairs = "1 pair" if each.pairs == 1 else f"{each.pairs} pairs"
        lines.append(
            f"  {each.scope:<14}{each.kind} - {each.baseline}: {each.mean:+.3f}, {interval}, "
            f"Wilcoxon-Pratt p = {each.p:.3f}, {pairs}"
        )
    return "\n".join(lines)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
