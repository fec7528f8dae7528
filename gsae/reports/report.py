"""The last stage of a run: results.csv, three figures, and report.html, out of rows and densities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsae.artifacts import write_file
from gsae.reports import curves, html, plots, style
from gsae.reports.equivalence import equivalence_figure, sentence
from gsae.reports.findings import comparisons, headline, warnings
from gsae.reports.rows import Row, plain_rows
from gsae.reports.sections import sections
from gsae.reports.tables import comparison_table, terminal_table, write_results_csv
from gsae.reports.waiting import rows_sentence


def write_report(
    directory: Path,
    *,
    rows: Sequence[Row],
    densities: Mapping[str, Any],
    baseline: str,
    config: Mapping[str, Any],
    command: str,
    versions: Mapping[str, str],
    seconds_per_stage: Mapping[str, float],
    metrics_logs: Sequence[Path] = (),
    equivalence: Mapping[str, Mapping[str, Any]] | None = None,
    title: str | None = None,
    features_page: str = "",
    pursued: Sequence[Row] = (),
    curves_of: curves.Curves | None = None,
    dictionaries: Mapping[str, Mapping[str, Any]] | None = None,
    norms: Mapping[str, Any] | None = None,
) -> str:
    """Writes results.csv, frontier.png, shrinkage.png, density.png and report.html, each whole or not at all.

    Args:
        directory: the run's directory.
        rows: one mapping a point, with the columns of `rows.COLUMNS`; gaps are None or NaN.
        densities: by point, the share of held-out tokens on which each feature fired, [F].
        baseline: the architecture whose L0 is divided by the others' at equal loss recovered (or FVU).
        config: all settings, nested plain values.
        command: the command line of the run.
        versions: of the packages that matter, by name.
        seconds_per_stage: wall-clock seconds, by stage.
        metrics_logs: the JSON lines that each training logged, the oldest first; without any the page has no training
            curves and does not say where rows came from.
        equivalence: by point, how well its JumpReLU form agrees with it (`equivalence.sentence`); None leaves it out.
        title: heads the page; the directory's name if None.
        features_page: the name of a page beside it that shows features; "" for none.
        pursued: rows whose codes pursuit found, with `target_l0` beside the usual columns; also into pursuit.csv.
        curves_of: training curves by point, where no one log has them.
        dictionaries: by point, the arrays of `evaluation.dictionary.Dictionary`; None where nobody has looked.
        norms: by point, of some tokens the norms of activation and code, [N, 2], where the error bound was measured.

    Returns:
        What the terminal shows: the table of points, the comparison, the headline, and warnings.
    """
    directory = Path(directory)
    every, rows = rows, plain_rows(rows)
    compared = comparisons(rows, baseline)
    figures = {
        "frontier": plots.frontier_figure(rows),
        "shrinkage": plots.shrinkage_figure(rows),
        "density": plots.density_figure(rows, densities),
    }
    write_results_csv(directory / "results.csv", every)
    for name, figure in figures.items():
        style.save_png(figure, directory / f"{name}.png")
    came = rows_sentence(metrics_logs[0]) if metrics_logs else ""
    logged = curves.read_logs(metrics_logs) if metrics_logs else None
    found = sections(every, baseline, pursued, curves_of or logged, dictionaries, norms)
    if pursued:
        write_results_csv(directory / "pursuit.csv", pursued)
    training = curves.training_figure(logged, rows) if logged else None
    drawn = {name: style.to_svg(figure, name) for name, figure in figures.items()}
    if equivalence:
        drawn["equivalence"] = style.to_svg(equivalence_figure(equivalence), "equivalence")
    text = html.page(
        rows,
        title=title or directory.resolve().name,
        compared=compared,
        figures=drawn | {"training": style.to_svg(training, "training") if training else ""},
        config=config,
        command=command,
        versions=versions,
        seconds_per_stage=seconds_per_stage,
        rows_came=came,
        features_page=features_page,
        equivalent=sentence(equivalence or {}),
        findings=found,
        every=every,
    )
    write_file(directory / "report.html", text)
    tables = [comparison_table(site, pair) for site, pairs in compared.items() for pair in pairs]
    notes = "\n".join(f"note: {text}" for text in warnings(rows))
    said = [f"{section.title}: {' '.join(section.sentences)}" for section in found]
    return "\n\n".join(
        filter(None, [terminal_table(every), *tables, "\n".join(headline(rows, compared)), *said, notes])
    )
