"""Writes points of a sweep in the formats of other tools, to a directory or to the Hugging Face hub.

    python -m gsae.export --point=runs/pareto_sweep/autoencoders/<point> --format=saelens --to=exported
    python -m gsae.export --run=runs/pareto_sweep --format=gemma_scope --as=jumprelu --to=exported
    python -m gsae.export --point=runs/pareto_sweep/autoencoders/<point> --format=gsae --hub=owner/name

`--point` also takes what another tool wrote, and hub ids: everything that `gsae.load` reads. A run is written whole or
not at all. Exit codes: 0 done; 1 the files or the hub are at fault; 2 a flag is.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gsae import artifacts
from gsae.errors import RunError, SettingError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"gsae.export: {message}", file=sys.stderr)
        sys.exit(SettingError.exit_code)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = _Parser(prog="gsae.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument("--point", help="directory of an autoencoder, or a hub id")
    source.add_argument("--run", type=Path, help="workdir of a run: all its points, each in a directory of its name")
    flags.add_argument("--format", required=True, help="saelens, dictionary_learning, gemma_scope, or gsae")
    flags.add_argument(
        "--as", dest="convert_to", help="jumprelu, or gated (of rescaled_standard): convert to that first, exactly"
    )
    flags.add_argument("--unit_norm_decoder", action="store_true", help="fold decoder norms into the features first")
    target = flags.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", type=Path, help="a new directory")
    target.add_argument("--hub", help="owner/name of a repository of the hub, made if it is not there (HF_TOKEN)")
    flags.add_argument("--subfolder", default="", help="where in the repository of --hub")
    flags.add_argument("--private", action="store_true", help="if the repository of --hub is made, nobody else sees it")
    return flags


def points_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What is exported: the name of a directory below the target ("" for the target itself) and where to load it.

    Raises:
        SettingError: when the run has no points.
    """
    if arguments.point is not None:
        return {"": arguments.point}
    folder = arguments.run / "autoencoders"
    found = sorted(path for path in folder.glob("*") if artifacts.read_manifest(path) is not None)
    if not found:
        raise SettingError("--run", str(arguments.run), f"has no trained points: {folder} holds none")
    return {path.name: str(path) for path in found}


def export(arguments: argparse.Namespace) -> str:
    """Does what the flags say; gives the line to print."""
    from gsae.interop import hub

    points = points_of(arguments)
    if arguments.to is None:
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made) / "upload"
            _write(arguments, points, directory, cards_for=arguments.hub)
            message = f"{len(points)} autoencoder{'s' if len(points) > 1 else ''}, format {arguments.format}"
            where = {"subfolder": arguments.subfolder, "private": arguments.private}
            return f"pushed {message}: {hub.push(directory, arguments.hub, message=message, **where)}"
    if arguments.subfolder or arguments.private:
        raise SettingError("--subfolder or --private", arguments.subfolder or True, "belongs to --hub")
    if arguments.to.exists():
        raise SettingError("--to", str(arguments.to), "is there already; name a new directory")
    with artifacts.replacing(arguments.to) as directory:
        _write(arguments, points, directory / "export", cards_for=None)
        for file in (directory / "export").iterdir():
            file.rename(directory / file.name)
        (directory / "export").rmdir()
    return f"wrote {len(points)} in format {arguments.format}: {arguments.to}"


def _write(arguments: argparse.Namespace, points: Mapping[str, str], directory: Path, cards_for: str | None) -> None:
    """Every point below `directory`, with model cards for a repository of the hub."""
    from gsae.interop import formats, hub

    directory.mkdir()
    for name, source in points.items():
        target = directory / name
        autoencoder = hub.load(source)
        try:
            formats.export(
                autoencoder,
                target,
                arguments.format,
                convert_to=arguments.convert_to,
                unit_norm_decoder=arguments.unit_norm_decoder,
            )
        except SettingError as error:
            blamed = f"{name}: " if name else ""
            raise SettingError(f"--{error.setting}", error.value, f"{blamed}{error.allowed}") from error
        if cards_for:
            subfolder = "/".join(part for part in (arguments.subfolder.strip("/"), name) if part)
            card = hub.card(
                formats.load(target).with_metadata(autoencoder.metadata),
                cards_for,
                arguments.format,
                subfolder=subfolder,
                metrics=metrics_of(Path(source)),
            )
            (target / hub.CARD).write_text(card, encoding="utf-8")
    if cards_for and "" not in points:
        card = hub.contents(cards_for, arguments.format, arguments.subfolder.strip("/"), list(points))
        (directory / hub.CARD).write_text(card, encoding="utf-8")


def metrics_of(point: Path) -> dict[str, Any]:
    """What the run that a point belongs to measured of it; empty where it has not, or there is no run."""
    row = point.parent.parent / "evaluation" / point.name / "row.json"
    return json.loads(row.read_text()) if row.is_file() else {}


def main(arguments: Sequence[str]) -> int:
    """Exports as the command line says; gives the exit code."""
    flags = parser().parse_args(arguments)
    # jax has not been asked for its devices yet: conversions are the host's work, and no accelerator has to hold what
    # many of them trained.
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        print(export(flags))
    except (SettingError, RunError) as error:
        print(f"gsae.export: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
