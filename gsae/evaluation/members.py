"""The autoencoders that are judged, and how many of them are on the devices at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gsae.evaluation.places import Places, bytes_on_a_device
from gsae.mesh import in_turn

AT_ONCE = 16  # share the clean and zero passes; results arrive after each such run of members
BYTES_AT_ONCE = 2 << 30  # of each device; one member more than fit into them at most


@dataclass(frozen=True)
class Member:
    """An autoencoder to judge. It takes raw activations (`rescaled`) of its site (`name.layer`).

    `autoencoder` may be a function without arguments that gives it when its turn comes: where all of them together are
    too large. Its arrays may be anywhere, NumPy's included.
    """

    name: str
    site: str
    autoencoder: Any


def placed_runs(
    members: Sequence[Member], places: Places, width: Callable[[str], int]
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Members that share passes: a site, and the names and placed autoencoders of some of its members.

    Args:
        members: in any order; those of one site follow each other.
        places: where the autoencoders are put.
        width: of the activations of a site.

    Yields:
        A run, to be let go of before the next one is asked for: there is room for one.

    Raises:
        ValueError: for an autoencoder of another width.
    """
    place = in_turn(places.autoencoder)
    for site in dict.fromkeys(member.site for member in members):
        run: list[tuple[str, Any]] = []
        taken = 0
        for member in members:
            if member.site != site:
                continue
            given = member.autoencoder() if callable(member.autoencoder) else member.autoencoder
            check_width(member, given, width(site))
            placed = place(given)
            taken += bytes_on_a_device(placed)
            if run and (len(run) == AT_ONCE or taken > BYTES_AT_ONCE):
                yield site, run
                run, taken = [], bytes_on_a_device(placed)
            run.append((member.name, placed))
            del given, placed
        yield site, run


def most_bytes(sizes: Sequence[int]) -> int:
    """What members of one site take of a device at most while `placed_runs` goes over them.

    Args:
        sizes: bytes on a device of each, placed.
    """
    most = taken = count = 0
    for size in sizes:
        most = max(most, taken + size)
        if count and (count == AT_ONCE or taken + size > BYTES_AT_ONCE):
            taken = count = 0
        taken, count = taken + size, count + 1
    return most


def check_names(members: Sequence[Member]) -> None:
    """Refuses members of the same name; raises ValueError."""
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise ValueError(f"members must have different names; got {sorted(names)}")


def check_width(member: Member, autoencoder: Any, width: int) -> None:
    """Refuses an autoencoder of another width, if it is there already; raises ValueError."""
    own = width if callable(autoencoder) else autoencoder.W_dec.shape[-1]
    if own != width:
        raise ValueError(f"{member.name}: takes activations of width {own}; site {member.site} has width {width}")
