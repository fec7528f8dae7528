"""One self-contained HTML page of a sweep: nothing is fetched, everything is escaped, it reads on screen and paper."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from gsae.evaluation.frontier import Comparison
from gsae.evaluation.quality import FVU, LOSS_RECOVERED, quality_of
from gsae.reports import style
from gsae.reports.equivalence import CAPTION as EQUIVALENCE_CAPTION
from gsae.reports.findings import flat, headline, warnings
from gsae.reports.rows import Row, as_kinds, by_architecture, by_place, distinct, label
from gsae.reports.section import Section
from gsae.reports.tables import cells, comparison_cells, comparison_headings, headings, shown

HERE = Path(__file__).parent


def page(
    rows: Sequence[Row],
    *,
    title: str,
    compared: Mapping[str, Sequence[Comparison]],
    figures: Mapping[str, str],
    config: Mapping[str, Any],
    command: str,
    versions: Mapping[str, str],
    seconds_per_stage: Mapping[str, float],
    rows_came: str = "",
    features_page: str = "",
    equivalent: str = "",
    findings: Sequence[Section] = (),
    every: Sequence[Row] | None = None,
) -> str:
    """The text of the page.

    Args:
        rows: the results.
        title: the name of the run.
        compared: by site, `findings.comparisons` of the rows.
        figures: SVG elements `frontier`, `shrinkage`, `density`, and perhaps `training`, `equivalence`; "" for none.
        config: all settings, nested.
        command: the command line that made the run.
        versions: by package.
        seconds_per_stage: by stage, wall-clock seconds.
        rows_came: where the rows of the training came from, a sentence.
        features_page: the name of a page beside it that shows features; "" for none.
        equivalent: how well points and their JumpReLU forms agree, a sentence.
        every: the rows of the table of points, where it has more than the figures.
        findings: further sections; each stands on the page as it is.
    """
    quality = quality_of(rows)
    # for several panels, or a legend that stands beside one
    wide = len(by_place(rows)) > 1 or len(distinct(rows, "architecture")) > len(style.COLOURS)
    points = rows if every is None else every
    parts = {
        "title": escape(title),
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        "subtitle": escape(_subtitle(points)),
        "headline": "\n".join(f'<p class="headline">{escape(text)}</p>' for text in headline(rows, compared)),
        "frontier": _figure(figures["frontier"], FRONTIER_CAPTIONS[quality.column], wide=wide),
        "warnings": _warnings(warnings(rows)),
        "comparison": _comparison(compared),
        "points": _points(as_kinds(points)) + _features(features_page),
        "shrinkage": _figure(figures["shrinkage"], SHRINKAGE_CAPTION, wide=wide),
        "density": _figure(figures["density"], DENSITY_CAPTION.format(unit=quality.unit), wide=True),
        "equivalence": _equivalence(figures.get("equivalence", ""), equivalent),
        "findings": "\n".join(_finding(section) for section in findings),
        "training": _training(figures.get("training", "")),
        "weights": _weights(points),
        "provenance": _provenance(config, command, versions, seconds_per_stage, rows_came),
    }
    return Template((HERE / "report.html").read_text(encoding="utf-8")).substitute(parts)


MARKERS = (
    "Filled markers and lines: the points that no other point of their architecture and seed beats; open markers: the "
    "rest. Shaded, with several seeds: their range. "
)
FRONTIER_CAPTIONS = {
    LOSS_RECOVERED.column: f"Up and to the left is better. {MARKERS}Bars: bootstrap standard error over documents. "
    "Loss recovered is 1 − (CE spliced − CE clean) / (CE zero − CE clean), on held-out text.",
    FVU.column: f"Down and to the left is better. {MARKERS}FVU is the fraction of variance unexplained, E‖x − x̂‖² / "
    "E‖x − E x‖², on held-out rows: no language model judged.",
}
SHRINKAGE_CAPTION = (
    "gamma, the relative reconstruction bias of Rajamanoharan et al. 2024, is what reconstructions would have to be "
    "divided by to fit best: below 1, they are systematically too small."
)
DENSITY_CAPTION = (
    "How often features fire, on held-out {unit}s: one histogram for each point, sparsest on top, heights to one scale "
    "within a panel. Features that never fired are counted at the left and are not in the histogram."
)


EXPLAINED = {
    "L0": "L0: active features per {unit}.",
    "ΔCE": "ΔCE: cross-entropy with the reconstruction spliced in, less the clean one, in nats.",
    "KL": "KL: of the clean from the spliced predictions, in nats.",
    "FVU": "FVU: fraction of variance unexplained.",
    "cosine": "cosine: mean cosine of x and its reconstruction.",
    "norms": "norms: mean norm of the reconstructions over that of x.",
    "centred": "centred: gamma of x and its reconstruction, each less its mean.",
    "alive": "alive: share of features that fired on the held-out {unit}s.",
}


def _subtitle(rows: Sequence[Row]) -> str:
    sites = ", ".join(by_place(rows)) or "no site"
    tokens = sorted({int(row["tokens"]) for row in rows if row.get("tokens")})
    held_out = f", judged on {tokens[0]:,} held-out {quality_of(rows).unit}s" if len(tokens) == 1 else ""
    return f"{len(rows)} sparse autoencoders at {sites}{held_out}"


def _figure(svg: str, caption: str, wide: bool = False) -> str:
    if not svg:
        return ""
    kind = ' class="wide"' if wide else ""
    return f'<figure{kind}><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _warnings(found: Sequence[str]) -> str:
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<section class="warn"><strong>Read with care</strong><ul>{items}</ul></section>'


def _comparison(compared: Mapping[str, Sequence[Comparison]]) -> str:
    tables = [
        _table(f"{pair.baseline} against {pair.other}, {site}", comparison_headings(pair), _levels(pair))
        for site, pairs in compared.items()
        for pair in pairs
        if pair.levels
    ]
    if not tables:
        return ""
    name = next(pair.quality.name for pairs in compared.values() for pair in pairs)
    text = (
        f"L0 at fixed values of {name}, interpolated along each frontier in log L0, never extrapolated. "
        "The ratio is the first L0 over the second; over seeds, it is a geometric mean with its range."
    )
    return f"<section><h2>At equal {name}</h2><p>{escape(text)}</p>{''.join(tables)}</section>"


def _levels(pair: Comparison) -> list[list[str]]:
    return [comparison_cells(level) for level in pair.levels]


def _points(rows: Sequence[Row]) -> str:
    if not rows:
        return "<p>No point was evaluated.</p>"
    columns = shown(rows)
    body = []
    for site, here in by_place(rows).items():
        for architecture, group in by_architecture(here).items():
            title = escape(f"{label(architecture, group)} at {site}")
            body.append(f'<tr><th colspan="{len(columns) + 1}" scope="rowgroup">{title}</th></tr>')
            body += [_line(cells(row, columns)) for row in group]
    note = " ".join(text for heading, text in EXPLAINED.items() if heading in headings(columns))
    note = note.format(unit=quality_of(rows).unit)
    note += " All columns are in results.csv."
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headings(columns))
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        f"<p><small>{escape(note)}</small></p>"
    )


def _features(page: str) -> str:
    link = f'<p><a href="{escape(page)}">What the features respond to</a>: examples, histograms, promoted tokens.</p>'
    return link if page else ""


def _finding(section: Section) -> str:
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
    tables = "".join(_table(caption, columns, lines) for caption, columns, lines in section.tables)
    svg = style.to_svg(section.figure, section.name) if section.figure else ""
    return (
        f"<section><h2>{escape(section.title)}</h2>{text}{_figure(svg, section.caption, wide=True)}{tables}</section>"
    )


def _training(svg: str) -> str:
    caption = "Every autoencoder during training, on training batches; thin lines are single points of the sweep."
    return f"<section><h2>Training</h2>{_figure(svg, caption, wide=True)}</section>" if svg else ""


def _equivalence(svg: str, equivalent: str) -> str:
    if not svg:
        return ""
    return f"<section><h2>As JumpReLU</h2><p>{escape(equivalent)}</p>{_figure(svg, EQUIVALENCE_CAPTION)}</section>"


def _weights(rows: Sequence[Row]) -> str:
    paths = [_path(str(row["point"])) for row in rows if row.get("point")]
    example = paths[0] if paths else "autoencoders/<point>"
    code = (
        "import gsae\n\n"
        f'sae = gsae.load("{example}")  # a path relative to this file\n'
        "f = sae.encode(x)       # features [..., F] of raw activations x [..., D]\n"
        "x_hat = sae.decode(f)   # their reconstruction\n"
    )
    listed = "\n".join(paths)
    more = f"<details><summary>All {len(paths)} paths</summary><pre>{escape(listed)}</pre></details>" if paths else ""
    return f"<pre>{escape(code)}</pre>{more}"


def _path(point: str) -> str:
    """Where a point's weights are, seen from the report; of several runs, the run's folder stands before its name."""
    run, slash, name = point.rpartition("/")
    return f"{run}{slash}autoencoders/{name}"


def _provenance(
    config: Mapping[str, Any], command: str, versions: Mapping[str, str], seconds: Mapping[str, float], rows_came: str
) -> str:
    longest, total = max(seconds.values(), default=0.0), sum(seconds.values())
    stages = "".join(
        f'<tr><td>{escape(name)}</td><td class="right">{spent:,.1f} s</td>'
        f'<td style="width:20rem"><span class="bar" style="width:{100 * spent / (longest or 1):.1f}%"></span></td></tr>'
        for name, spent in seconds.items()
    )
    stages += f'<tr><td>total</td><td class="right">{total:,.1f} s</td><td></td></tr>'
    settings = flat(config)
    return (
        f"<h3>Command</h3><pre>{escape(command)}</pre>"
        + (f"<h3>Rows</h3><p>{escape(rows_came)}</p>" if rows_came else "")
        + f'<h3>Time</h3><div class="scroll"><table class="pairs"><tbody>{stages}</tbody></table></div>'
        f"<h3>Versions</h3>{_pairs(list(versions.items()))}"
        f"<h3>Settings</h3><details><summary>All {len(settings)} settings</summary>{_pairs(settings)}</details>"
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in pairs)
    return f'<div class="scroll"><table class="pairs"><tbody>{lines}</tbody></table></div>'


def _table(caption: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(_line(line) for line in lines)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in texts) + "</tr>"
