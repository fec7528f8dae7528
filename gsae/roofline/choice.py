"""Which mesh: all legal ones for so many devices, ranked by the roofline of their step."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from gsae import chips
from gsae.capacity import device_memory, host_memory
from gsae.chips import Chip
from gsae.errors import SettingError
from gsae.roofline.estimate import Demand, Roofline, Sizes, demand, roofline
from gsae.roofline.work import MemberWork
from gsae.training.groups import Group, Point, group_points
from gsae.training.step import StepSettings

SHARE = 0.9  # of a device's memory: the rest is for fragments and for the runtime
RUNNERS_UP = 3


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and what a step costs on it.

    Attributes:
        sizes: of the mesh.
        demand, roofline: of its step.
        fits: whether a device's memory holds what the step needs.
    """

    sizes: Sizes
    demand: Demand
    roofline: Roofline
    fits: bool

    def describe(self) -> str:
        """One line: sizes, milliseconds, what bounds it, memory."""
        waste = 1 - self.demand.useful_flops / self.demand.flops
        wasted = f", {waste:.0%} of the work fills the sweep axis" if waste > 1e-9 else ""
        fits = "" if self.fits else "; DOES NOT FIT"
        return (
            f"{self.sizes}: {1e3 * self.roofline.seconds:.3g} ms a step, bound by {self.roofline.bound} "
            f"(collectives {1e3 * self.roofline.collectives:.2g} ms), "
            f"{self.demand.peak / 1e9:.3g} GB a device{wasted}{fits}"
        )


def rank(
    works: Sequence[MemberWork],
    chip: Chip,
    devices: int,
    *,
    batch_size: int,
    row_itemsize: int,
    compute_dtype: str,
    memory: float | None,
    taken: float = 0.0,
    fixed: Sequence[int] = (0, 0, 0),
) -> list[Candidate]:
    """All legal meshes of so many devices, the best first: those that fit before the others, then the fastest.

    Args:
        works: one member's update for each group.
        chip: of all devices.
        devices: how many; every mesh takes all of them.
        batch_size: B over all devices.
        row_itemsize: bytes of a number of a row.
        compute_dtype: of the large products' operands.
        memory: bytes of a device; None where it is not known: then everything fits.
        taken: bytes of it that others have, such as a language model.
        fixed: sizes of sweep, data and feature that are given; 0 or -1 where one is to be chosen.

    Raises:
        SettingError: when no mesh of these devices divides the batch and the features.
    """
    found = []
    for sizes in _legal(works, devices, batch_size, fixed):
        asked = demand(works, sizes, batch_size=batch_size, row_itemsize=row_itemsize)
        fits = memory is None or asked.peak + taken <= SHARE * memory
        found.append(Candidate(sizes, asked, roofline(asked, chip, devices, compute_dtype), fits))
    if not found:
        widths = sorted({work.group.width for work in works})
        allowed = (
            f"no mesh of {devices} devices divides config.training.batch_size = {batch_size} (by all of them) and the "
            f"widths {widths} (by feature); choose multiples, or give all three sizes"
        )
        raise SettingError("config.mesh", tuple(fixed), allowed)
    # Where two are equally fast: members side by side first, which have no word to say to each other.
    return sorted(found, key=lambda c: (not c.fits, c.roofline.seconds, -c.sizes.sweep, -c.sizes.data))


def _legal(works: Sequence[MemberWork], devices: int, batch_size: int, fixed: Sequence[int]) -> Iterator[Sizes]:
    most = max(len(work.group.points) for work in works)
    if batch_size % devices:
        return
    for sweep in _divisors(devices):
        for data in _divisors(devices // sweep):
            sizes = Sizes(sweep, data, devices // sweep // data)
            if any(given > 0 and given != size for given, size in zip(fixed, sizes, strict=True)):
                continue
            if sweep > most and fixed[0] <= 0:
                continue  # devices without a member
            if all(_divides(work.group, sizes.feature) for work in works):
                yield sizes


def _divides(group: Group, parts: int) -> bool:
    """Whether the features of a group can be split over so many devices."""
    try:
        group.options.check_split(group.width, parts)
    except SettingError:
        return False
    return group.width % parts == 0


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def choose(
    points: Sequence[Point],
    widths: Mapping[str, int],
    settings: StepSettings,
    *,
    devices: Sequence[jax.Device],
    row_itemsize: int,
    taken: float,
    given: Sequence[int],
) -> Sequence[int]:
    """Sizes of the mesh that a run trains on, the same in all processes; says what was chosen, and why.

    Args:
        points: of the sweep.
        widths: D of each site.
        settings: of the step.
        devices: all that train, of every process.
        row_itemsize: bytes of a number of a row.
        taken: bytes of each device that others have.
        given: sizes of sweep, data and feature; 0 or -1 where one is to be chosen.

    Raises:
        SettingError: when there is no such mesh, or the devices are not of one kind.
    """
    if len(devices) == 1 and max(given) <= 1:
        return Sizes(1, 1, 1)  # nothing to choose
    kinds = sorted({device.device_kind for device in devices})
    if len(kinds) != 1:
        allowed = f"cannot be chosen for devices of several kinds ({', '.join(kinds)}); give all three sizes"
        raise SettingError("config.mesh", tuple(given), allowed if kinds else "needs devices, and all are reserved")
    chip = chips.of_device(devices[0])
    works = [MemberWork.of(group, widths[group.site], settings) for group in group_points(points)]
    ranked = rank(
        works,
        chip,
        len(devices),
        batch_size=settings.batch_size,
        row_itemsize=row_itemsize,
        compute_dtype=settings.compute_dtype,
        memory=_memory(chip, devices),
        taken=taken,
        fixed=given,
    )
    sizes = ranked[0].sizes
    if jax.process_count() > 1:  # hosts may differ in what they have free
        sizes = Sizes(*(int(n) for n in multihost_utils.broadcast_one_to_all(np.asarray(sizes, np.int32))))
    if jax.process_index() == 0:
        print("\n".join(explain(ranked, chip)), flush=True)
    return sizes


def _memory(chip: Chip, devices: Sequence[jax.Device]) -> float | None:
    """Bytes of one device: what this process's say; on a CPU an equal part of the host's; else what is published."""
    own = [device for device in devices if device.process_index == jax.process_index()]
    if chip is chips.CPU:
        host = host_memory()
        return host and host / max(len(own), 1)
    return device_memory(own) or (None if chip.assumed else chip.memory)


def scope_rule(ranked: Sequence[Candidate]) -> Candidate:
    """What Gemma Scope's rule takes: the least data parallelism that hides the transfer from the host.

    (2408.05147, section 3: features are split over the other devices.) Among the meshes with as many members side by
    side as the best; where none hides it, the best itself.
    """
    best = ranked[0]
    hiding = [
        c
        for c in ranked
        if c.fits == best.fits and c.sizes.sweep == best.sizes.sweep and c.roofline.host_to_device <= c.roofline.device
    ]
    return min(hiding, key=lambda c: c.sizes.data, default=best)


def explain(ranked: Sequence[Candidate], chip: Chip) -> list[str]:
    """The choice, the runners-up and the reason, as lines for the terminal."""
    best = ranked[0]
    numbers = "assumed speeds" if chip.assumed else "published peaks"
    lines = [f"mesh: {best.describe()}", f"  chosen by a roofline with {numbers} of {chip.name}: {_reason(ranked)}"]
    if others := ranked[1 : 1 + RUNNERS_UP]:
        lines += ["  then " + other.describe() for other in others]
        if len(ranked) > 1 + RUNNERS_UP:
            lines[-1] += f"; and {len(ranked) - 1 - RUNNERS_UP} more"
    rule = scope_rule(ranked)
    slower = rule.roofline.seconds / best.roofline.seconds - 1
    agrees = "the same" if rule is best else f"{rule.sizes}, {slower:.0%} slower here"
    lines.append(f"  Gemma Scope's rule, the least data parallelism that hides the host's transfer: {agrees}")
    return lines


def _reason(ranked: Sequence[Candidate]) -> str:
    best, fitting = ranked[0], [candidate for candidate in ranked if candidate.fits]
    if not fitting:
        return "none fits, this one comes nearest by time; more devices or a smaller width are needed"
    if len(ranked) == 1:
        return "the only one that divides"
    unfit = f"; {len(ranked) - len(fitting)} do not fit" if len(fitting) < len(ranked) else ""
    if len(fitting) == 1:
        return f"the only one that fits{unfit}"
    slower = fitting[1].roofline.seconds / best.roofline.seconds - 1
    return f"the fastest that fits, {slower:.1%} before the next{unfit}"
