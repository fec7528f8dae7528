"""What a sweep has still to train: points that are not there yet, points with fewer steps than are wanted.

A round is a set of points that begin and end together, on the same batches. The first round of a workdir is the whole
sweep; a point that is added, or given more steps, makes another, with checkpoints and logs of its own. A round that was
begun is ended as it was begun, whatever the sweep says meanwhile; its record is written before it begins.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsae import artifacts
from gsae.autoencoders.registry import make_options
from gsae.autoencoders.saving import read_metadata
from gsae.errors import RunError, SettingError
from gsae.training.groups import Point

RECORD = "rounds.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """Points that are trained together.

    Attributes:
        number: from 1, in the order in which a workdir's rounds were begun.
        points: what is trained.
        identities: by point, the fingerprint of what decides its weights, beside its steps.
        begin: updates that all of them have behind them; 0 for new ones.
        steps: updates that they will have.
    """

    number: int
    points: tuple[Point, ...]
    identities: Mapping[str, str]
    begin: int
    steps: int

    @property
    def folder(self) -> str:
        """Where its checkpoints and logs stand, below those of the run; "" for the first round."""
        return "" if self.number == 1 else f"round-{self.number}"

    @property
    def fingerprint(self) -> str:
        """What a checkpoint must have been made with to be continued."""
        return artifacts.fingerprint([dict(self.identities), self.begin, self.steps])

    def plain(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {**dataclasses.asdict(self), "identities": dict(self.identities)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Round":
        """The round that `plain` gave."""
        return cls(**{**plain, "points": tuple(_point(point) for point in plain["points"])})


@dataclasses.dataclass(frozen=True)
class Task:
    """A round to train now, and of its points those whose weights are missing, by name."""

    round: Round
    missing: frozenset[str]


def _point(plain: Mapping[str, Any]) -> Point:
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in plain["options"].items()}
    return Point(**{**plain, "options": make_options(plain["architecture"], options)})


def read(workdir: Path) -> list[Round]:
    """The rounds that were begun in a workdir, in order.

    Raises:
        RunError: when the record is not readable.
    """
    path = workdir / RECORD
    if not path.exists():
        return []
    try:
        return [Round.of(plain) for plain in json.loads(path.read_text())["rounds"]]
    except (ValueError, LookupError, TypeError, SettingError) as error:
        raise RunError(f"{path}: is not readable ({error})") from error


def write(workdir: Path, rounds: Iterable[Round]) -> None:
    """Records the rounds, before any of them begins."""
    artifacts.write_json(workdir / RECORD, {"rounds": [begun.plain() for begun in rounds]})


def trained(path: Path) -> tuple[str, int] | None:
    """Of the autoencoder at `path`: the fingerprint of what decided its weights, and its updates; None if missing."""
    if artifacts.read_manifest(path) is None:
        return None
    about = read_metadata(path)
    return about["training"], about["steps"]


def refuse_fewer_steps(points: Iterable[Point], where: Callable[[str], Path]) -> None:
    """Refuses points that are trained for more steps already than are wanted of them.

    Raises:
        SettingError: naming the first.
    """
    for point in points:
        found = trained(where(point.name))
        if found and found[1] > point.steps:
            allowed = f"{point.name} is trained for {found[1]} steps already, and can only have more"
            raise SettingError("config.training.steps", point.steps, allowed)


def plan(
    begun: Sequence[Round],
    points: Sequence[Point],
    identities: Mapping[str, str],
    where: Callable[[str], Path],
    has_checkpoints: Callable[[Round], bool],
) -> tuple[list[Round], list[Task]]:
    """What is to be trained so that all points are there, and the record to write before it begins.

    Args:
        begun: the record.
        points: the sweep.
        identities: by point, the fingerprint of what decides its weights, beside its steps.
        where: the directory of a point's weights, by its name.
        has_checkpoints: whether a round has saved anything; one that has not may be forgotten.

    Raises:
        SettingError: where a point was trained, or its training was begun, with other settings, rows or steps.
    """
    wanted, last = {point.name: point for point in points}, {name: r for r in begun for name in r.identities}
    there = {name: trained(where(name)) for name in wanted.keys() | last.keys()}
    record, tasks = [], []
    for r in begun:
        missing = frozenset(name for name in r.identities if last[name] is r and not _reaches(there[name], r, name))
        if missing and not has_checkpoints(r):
            continue
        record.append(r)
        for name in sorted(missing & wanted.keys()):
            _check_begun(wanted[name], identities[name], r)
        if missing & wanted.keys():
            tasks.append(Task(r, missing))
    busy = {name for task in tasks for name in task.round.identities}
    for r in _new(record, [point for point in points if point.name not in busy], identities, there):
        record.append(r)
        tasks.append(Task(r, frozenset(r.identities)))
    return record, tasks


def ends(record: Sequence[Round], r: Round) -> dict[Round, list[str]]:
    """Where the points of a round that goes on ended before: names by earlier round.

    Raises:
        RunError: when the record does not say.
    """
    found: dict[int, list[str]] = {}
    for name in r.identities:
        earlier = earlier_rounds(record, r, name)
        if not earlier or earlier[-1].steps != r.begin:
            raise RunError(f"{RECORD}: does not say where {name} ended its {r.begin} steps; they cannot be continued")
        found.setdefault(earlier[-1].number, []).append(name)
    return {one: found[one.number] for one in record if one.number in found}


def earlier_rounds(record: Sequence[Round], r: Round, name: str) -> list[Round]:
    """The rounds before this one in which a point was trained."""
    return [one for one in record if one.number < r.number and name in one.identities]


def _reaches(found: tuple[str, int] | None, r: Round, name: str) -> bool:
    return found is not None and found[0] == r.identities[name] and found[1] >= r.steps


def _check_begun(point: Point, identity: str, r: Round) -> None:
    if identity != r.identities[point.name]:
        raise SettingError("config", identity[:12], f"the training of {point.name} was begun with other settings")
    if point.steps != r.steps:
        allowed = f"the training of {point.name} was begun with {r.steps}; end it with these, then give it more"
        raise SettingError("config.training.steps", point.steps, allowed)


def _new(
    record: Sequence[Round],
    points: Sequence[Point],
    identities: Mapping[str, str],
    there: Mapping[str, tuple[str, int] | None],
) -> list[Round]:
    """A round for each number of steps that some point has to go, from where it is."""
    lengths: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        identity, done = there[point.name] or (identities[point.name], 0)
        if identity != identities[point.name]:
            allowed = f"{point.name} was trained with other settings or rows; restore them, or use another --workdir"
            raise SettingError("config", identities[point.name][:12], allowed)
        if done < point.steps:
            lengths.setdefault((done, point.steps), []).append(point)
    number = max((r.number for r in record), default=0)
    return [
        Round(number + i, tuple(own), {point.name: identities[point.name] for point in own}, begin, steps)
        for i, ((begin, steps), own) in enumerate(sorted(lengths.items(), key=lambda item: item[0]), start=1)
    ]
