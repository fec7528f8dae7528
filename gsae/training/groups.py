"""The points of a sweep, grouped by what must be equal for them to share one program."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from gsae.errors import SettingError

UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True)
class Point:
    """One autoencoder to train.

    Attributes:
        architecture: its name in the registry.
        site: where its activations come from, as `str(Site)`, for example "mlp_out.2".
        width: number of features F.
        sparsity_coefficient: the paper's lambda, after warm-up.
        learning_rate: after warm-up.
        seed: of the initial parameters, alone or in a sweep.
        options: the architecture's frozen `Options`.
        steps: updates that it is to have; in no name and no program, because it may grow.
        target_l0: the L0 that the training finds a coefficient for; 0 where the coefficient is given.
    """

    architecture: str
    site: str
    width: int
    sparsity_coefficient: float
    learning_rate: float
    seed: int
    options: Any
    steps: int = 0
    target_l0: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.width, int) and self.width > 0):
            raise SettingError("config.sweep width", self.width, "must be a positive whole number")
        if not (math.isfinite(self.sparsity_coefficient) and self.sparsity_coefficient >= 0):
            raise SettingError("config.sweep sparsity_coefficient", self.sparsity_coefficient, "must be at least 0")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SettingError("config.sweep learning_rate", self.learning_rate, "must be positive")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise SettingError("config.sweep seed", self.seed, "must be a whole number from 0 to 2^32 - 1")

    @property
    def name(self) -> str:
        """Readable, safe as a file name, different for different points: options other than the defaults are in it."""
        sparsity = f"t{_short(self.target_l0)}" if self.target_l0 else f"l{_short(self.sparsity_coefficient)}"
        parts = [self.architecture, self.site, str(self.width), sparsity]
        parts += [f"lr{_short(self.learning_rate)}", f"s{self.seed}"]
        for field in dataclasses.fields(self.options):
            value = getattr(self.options, field.name)
            if value != field.default:
                parts.append(f"{field.name}_{value}")
        return UNSAFE.sub("_", "-".join(parts))

    @property
    def program(self) -> tuple[Any, ...]:
        """What points must share to be trained by one program."""
        return self.architecture, self.site, self.width, self.options, self.target_l0 > 0


@dataclasses.dataclass(frozen=True)
class Group:
    """Points that share architecture, site, width and options; `padding` inactive members fill the sweep axis."""

    points: tuple[Point, ...]
    padding: int = 0

    def __post_init__(self) -> None:
        if not self.points or any(point.program != self.points[0].program for point in self.points):
            raise ValueError("a group needs at least one point, and all share architecture, site, width and options")

    @property
    def name(self) -> str:
        """The first point's name, which no other group has."""
        return self.points[0].name

    @property
    def size(self) -> int:
        """S: the members of the stacked state, inactive ones included."""
        return len(self.points) + self.padding

    @property
    def members(self) -> tuple[Point, ...]:
        """The points, then the padding: copies of the first point, which are never active."""
        return self.points + self.points[:1] * self.padding

    @property
    def architecture(self) -> str:
        """Name of the shared architecture."""
        return self.points[0].architecture

    @property
    def site(self) -> str:
        """The shared site, as text."""
        return self.points[0].site

    @property
    def width(self) -> int:
        """F of all members."""
        return self.points[0].width

    @property
    def options(self) -> Any:
        """The shared options."""
        return self.points[0].options

    @property
    def has_targets(self) -> bool:
        """Whether the training finds the sparsity coefficients, of all members."""
        return self.points[0].target_l0 > 0

    def values(self, name: str, dtype: Any = np.float32) -> np.ndarray:
        """One attribute of every member, [S]."""
        return np.asarray([getattr(point, name) for point in self.members], dtype)

    def describe(self) -> str:
        """One line for the terminal; says how much of the computation padding wastes."""
        text = f"{self.architecture} at {self.site}, {self.width} features: {len(self.points)} points"
        if not self.padding:
            return text
        waste = self.padding / self.size
        return (
            f"{text} and {self.padding} inactive, computed all the same: {waste:.0%} of config.mesh.sweep does nothing"
        )


def group_points(points: Sequence[Point], sweep: int = 1) -> list[Group]:
    """Groups points, in order of first appearance, each padded to a multiple of the mesh's axis `sweep`.

    Raises:
        SettingError: when there is no point, or one appears twice.
    """
    if not points:
        raise SettingError("config.sweep", [], "must list at least one point")
    names = [point.name for point in points]
    for name in names:
        if names.count(name) > 1:
            raise SettingError("config.sweep", name, "every point may appear only once")
    programs: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        programs.setdefault(point.program, []).append(point)
    return [Group(tuple(members), -len(members) % sweep) for members in programs.values()]


def _short(value: float) -> str:
    """The shortest text that gives the number back: 0.1, 0.001, 3e-05."""
    text = repr(float(value))
    return text.removesuffix(".0")
