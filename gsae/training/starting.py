"""Autoencoders that begin as trained ones left off: where those are, and a group's first state with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gsae.autoencoders.registry import architecture, architecture_name_of
from gsae.autoencoders.saving import CONFIG, load_on_host, read_config
from gsae.errors import SettingError
from gsae.training.groups import Group, Point
from gsae.training.step import GroupState

SETTING = "config.sae.start_from"


def check(points: Sequence[Point], directory: str) -> None:
    """Refuses a directory without what the points begin with, and points that need one where none is given.

    Raises:
        SettingError: naming the point.
    """
    needing = [point for point in points if architecture(point.architecture).STARTS_FROM]
    if directory and not needing:
        raise SettingError(SETTING, directory, "must be '': no point of the sweep begins with trained weights")
    for point in needing:
        trained_point(point, directory)


def trained_point(point: Point, directory: str) -> Path:
    """The saved autoencoder that a point begins with: of equal site, width, sparsity coefficient and seed.

    Args:
        point: of an architecture with `STARTS_FROM`.
        directory: of the run that trained it.

    Raises:
        SettingError: where there is none, or more than one.
    """
    start = architecture(point.architecture).STARTS_FROM
    name = architecture_name_of(start)
    wanted = f"{name} at {point.site}, {point.width} features, sparsity {point.sparsity_coefficient}, seed {point.seed}"
    if not directory:
        raise SettingError(SETTING, directory, f"must be the directory of a finished run with {wanted}")
    found = [
        path.parent for path in sorted(Path(directory).glob(f"autoencoders/*/{CONFIG}")) if _is(path.parent, point)
    ]
    if len(found) != 1:
        raise SettingError(SETTING, directory, f"must hold one {wanted}; it holds {len(found)}")
    return found[0]


def _is(path: Path, point: Point) -> bool:
    config = read_config(path)
    about = config["metadata"]
    site = about["site"] if about.get("layer") is None else f"{about['site']}.{about['layer']}"
    found = (config["architecture"], site, about["width"], about["sparsity_coefficient"], about["seed"])
    start = architecture_name_of(architecture(point.architecture).STARTS_FROM)
    return found == (start, point.site, point.width, point.sparsity_coefficient, point.seed)


def start_trained(group: Group, state: GroupState, directory: str, input_scale: float) -> GroupState:
    """A group's state before step 0, every member as its trained autoencoder left off.

    Args:
        group: of an architecture with `STARTS_FROM`.
        state: its initial state, for everything but the parameters.
        directory: of the run that trained them.
        input_scale: what activations are multiplied by here; saved autoencoders take raw ones.

    Raises:
        SettingError: where one is missing, or works on activations of another width.
        RunError: where one is damaged.
    """
    cls = architecture(group.architecture)
    members = []
    for point in group.members:
        trained = load_on_host(trained_point(point, directory)).rescaled(1 / input_scale)
        members.append(cls.starting_from(trained, group.options))
    old, new = (
        jax.tree.map(lambda leaf: leaf.shape, state.autoencoder),
        jax.tree.map(lambda leaf: (len(members), *leaf.shape), members[0]),
    )
    if old != new:
        raise SettingError(SETTING, directory, f"{group.name} needs other widths: {old.W_dec} here, {new.W_dec} there")

    def place(old: jax.Array, *leaves: Any) -> jax.Array:
        """Each device gets its part, and none the whole."""

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # sharded arrays ask by slices
            return np.stack([np.asarray(leaf[index[1:]]) for leaf in leaves[index[0]]]).astype(old.dtype)

        return jax.make_array_from_callback(old.shape, old.sharding, part)

    placed = jax.tree.map(place, state.autoencoder, *members)
    return dataclasses.replace(state, autoencoder=placed)
