"""Pages that show what the features of a finished run respond to.

    python -m gsae.dashboards --workdir=runs/pareto_sweep [--point=NAME,...] [--features=1000] [--tokens=0] [--out=...]

writes features.html into the run's directory: one self-contained file, `features.html#<point>/<feature>` a feature.
Exit codes: 0 finished; 1 it failed; 2 a setting is wrong.
"""

import functools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsae.command_line import Parser, at_least, finish

PAGE = "features.html"
FEATURES = 1000


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says; gives the exit code."""
    parser = Parser("python -m gsae.dashboards", description="Pages that show what features respond to.")
    parser.add_argument("--workdir", type=Path, required=True, help="directory of a finished run")
    parser.add_argument("--point", default="", help="names of points, with commas between; all that finished")
    parser.add_argument(
        "--features", type=at_least(0), default=FEATURES,
        help=f"features of each point, drawn at random; 0: all of them ({FEATURES})",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", type=at_least(0), default=0, help="held-out tokens to look at; 0: all that the run keeps (0)"
    )
    parser.add_argument("--sequences", type=at_least(1), default=8, help="sequences in one pass (8)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the drawn features and examples (0)")
    parser.add_argument("--out", type=Path, default=None, help=f"the page (<workdir>/{PAGE})")
    given = parser.parse_args(arguments)
    return finish("gsae.dashboards", lambda: _look(given))


def _look(given: Any) -> None:
    import jax

    from gsae.autoencoders.saving import load_on_host
    from gsae.finished import FinishedRun
    from gsae.mesh import make_mesh

    began = time.monotonic()
    run = FinishedRun(given.workdir)
    out = given.out or given.workdir / PAGE
    names = run.choose(given.point)
    devices = math.gcd(jax.device_count(), *(int(run.rows[name]["width"]) for name in names))  # share the features
    size = write_dashboards(
        out,
        title=given.workdir.resolve().name,
        language_model=run.language_model,
        token_store=run.held_out,
        rows={name: run.rows[name] for name in names},
        autoencoders={name: functools.partial(load_on_host, given.workdir / "autoencoders" / name) for name in names},
        sites={name: run.site(name) for name in names},
        features=given.features,
        tokens=given.tokens,
        batch_size=given.sequences,
        mesh=make_mesh(feature=devices),
        seed=given.seed,
    )
    print(f"{out}: {size / 1e6:.1f} MB in {time.monotonic() - began:.0f} s; open it in a browser")


def write_dashboards(
    path: Path,
    *,
    title: str,
    language_model: Any,
    token_store: Any,
    rows: Mapping[str, Mapping[str, Any]],
    autoencoders: Mapping[str, Callable[[], Any]],
    sites: Mapping[str, str],
    features: int,
    tokens: int,
    batch_size: int,
    mesh: Any = None,
    skip_tokens: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Looks at features of some points on held-out text and writes the page; gives its size in bytes.

    Of several processes all call it alike, and the first one writes the page; the others get 0.

    Args:
        path: of the page.
        title: the name of the run.
        language_model: whose activations the points were trained on.
        token_store: the held-out text.
        rows: what came of each point, by its name.
        autoencoders: functions that give the points, for raw activations, when their turn comes.
        sites: where each reads, `name.layer`.
        features: of each point, drawn at random; 0 for all.
        tokens: how many tokens that count; 0 for all.
        batch_size: sequences in one pass.
        mesh: with the axes of `gsae.mesh`, over whose devices sequences and features are split; None for one device.
        skip_tokens: so many tokens are passed over first.
        seed: of the features and the examples drawn.
        progress: draws a progress bar.

    Raises:
        SettingError: when `skip_tokens` leaves no text.
        RunError: when the page cannot be written.
    """
    import jax

    from gsae.artifacts import write_file
    from gsae.evaluation.batches import choose_sequences
    from gsae.evaluation.directions import directions
    from gsae.evaluation.features import observe
    from gsae.evaluation.members import Member
    from gsae.language_models.token_texts import TokenTexts
    from gsae.reports.dashboards import PointFeatures, dashboard_page, drawn_features
    from gsae.reports.feature_data import sequences_of

    widths = {name: int(rows[name]["width"]) for name in autoencoders}
    chosen = {name: drawn_features(width, features, seed) for name, width in widths.items()}
    members = [Member(name, sites[name], take) for name, take in autoencoders.items()]
    observed = observe(
        language_model,
        token_store,
        members,
        choose_sequences(token_store, tokens, seed, skip_tokens),
        features=chosen,
        batch_size=batch_size,
        mesh=mesh,
        seed=seed,
        progress=progress,
    )
    vectors = [
        directions(language_model, seen.site, autoencoders[seen.name](), seen.features_F, mesh=mesh)
        for seen in observed
    ]
    if jax.process_index() > 0:
        return 0
    texts = TokenTexts(language_model.tokenizer)
    pool = text_pool(token_store, sequences_of(observed), texts)
    points = [
        PointFeatures(
            name=seen.name,
            about=_about(rows[seen.name], seen.site),
            all_features=widths[seen.name],
            observed=seen,
            directions=own,
        )
        for seen, own in zip(observed, vectors, strict=True)
    ]
    page = dashboard_page(points, title=title, pool=pool, texts=texts, document_names=token_store.document_names)
    write_file(path, page)
    return len(page.encode())


def text_pool(token_store: Any, sequences: Any, texts: Any) -> Any:
    """The rows of the store that examples stand in, with the text of their tokens (`TokenTexts`)."""
    from gsae.reports.feature_data import TextPool

    return TextPool(sequences, texts.of_rows(token_store.tokens[sequences]), token_store.documents_of(sequences))


def _about(row: Mapping[str, Any], site: str) -> str:
    """One line on what a point is and how good; gaps of the results are left out."""
    metrics = {"L0": ("l0", ".3g"), "loss recovered": ("loss_recovered", ".4f"), "gamma": ("gamma", ".3f")}
    known = [
        f"{name} {float(row[column]):{form}}"
        for name, (column, form) in metrics.items()
        if row[column] not in (None, "")
    ]
    return f"{row['architecture']}, {int(row['width']):,} features at {site}; {', '.join(known)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
