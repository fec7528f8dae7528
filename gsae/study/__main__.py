"""The blinded study of how interpretable features are.

    python -m gsae.study build --workdir=runs/pareto_sweep [--workdir=...] --out=runs/study [--raters=3] [--features=1]
    python -m gsae.study analyse --key=runs/study/key.json ratings/rater-1.json ...

`build` writes a page for each rater into <out>/pages, and <out>/key.json, which raters must not see. `analyse` takes
what the raters exported, and writes study.json and study.png beside the key.
Exit codes: 0 finished; 1 it failed; 2 a setting is wrong.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsae.command_line import Parser, at_least, finish, positive, share

MATCHES = ("loss_recovered", "l0")


def main(arguments: Sequence[str]) -> int:
    """Does what the command line says; gives the exit code."""
    given = parser().parse_args(arguments)
    return finish(f"gsae.study {given.command}", lambda: _build(given) if given.command == "build" else _analyse(given))


def parser() -> Parser:
    """The command line."""
    made = Parser("python -m gsae.study", description="A blinded study of how interpretable features are.")
    commands = made.add_subparsers(dest="command", required=True, parser_class=Parser)
    build = commands.add_parser("build", help="draw features, write rating pages and the key")
    build.add_argument(
        "--workdir", type=Path, action="append", required=True, help="of a finished run; may be repeated"
    )
    build.add_argument("--out", type=Path, required=True, help="directory of the pages and the key")
    build.add_argument("--points", default="", help="draw from these points only, with commas between")
    build.add_argument(
        "--match", choices=MATCHES, default=MATCHES[0], help="what the points of a site should be alike in"
    )
    build.add_argument("--at", type=positive, default=None, help="at which value of it; the middle of what all reach")
    build.add_argument("--raters", type=at_least(1), default=3, help="people (3); each rates features of their own")
    build.add_argument("--features", type=at_least(1), default=1, help="for each site, layer, kind and rater (1)")
    build.add_argument("--tokens", type=at_least(0), default=0, help="held-out tokens to look at; 0: all (0)")
    build.add_argument("--sequences", type=at_least(1), default=8, help="sequences in one pass (8)")
    build.add_argument("--seed", type=at_least(0), default=0, help="of features, examples and order (0)")
    analyse = commands.add_parser("analyse", help="unblind ratings and compare the kinds")
    analyse.add_argument("--key", type=Path, required=True, help="what build wrote")
    analyse.add_argument("ratings", type=Path, nargs="+", help="what raters exported")
    analyse.add_argument("--out", type=Path, default=None, help="directory of the results (where the key is)")
    analyse.add_argument("--level", type=share, default=0.9, help="of the intervals (0.9)")
    analyse.add_argument("--seed", type=at_least(0), default=0, help="of the bootstrap (0)")
    return made


def _build(given: Any) -> None:
    from gsae.study.build import KEY, build

    pages = build(
        given.workdir, given.out, points=given.points, match=given.match, at=given.at, raters=given.raters,
        features=given.features, tokens=given.tokens, batch_size=given.sequences, seed=given.seed,
    )  # fmt: skip
    print("\n".join([*map(str, pages), f"{given.out / KEY}: what unblinds them; keep it from the raters"]))


def _analyse(given: Any) -> None:
    from gsae.study.analyse import analyse

    print(analyse(given.key, given.ratings, given.out or given.key.parent, level=given.level, seed=given.seed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
