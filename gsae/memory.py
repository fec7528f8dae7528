"""What a live run needs of the memory of its devices and of the host, estimated before it starts, from shapes alone."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gsae.activations.capture import DTYPES, traced
from gsae.activations.exchange import PIECE_BYTES
from gsae.activations.live import GENERATIONS
from gsae.capacity import device_memory, free_host_memory
from gsae.errors import SettingError
from gsae.evaluation.members import most_bytes
from gsae.language_models.loading import LanguageModel
from gsae.language_models.sites import Site
from gsae.training.groups import Group
from gsae.training.step import StepSettings, abstract_state, batch_sharding, make_step

BATCHES = 4  # on the devices: two read ahead, the one in use, and the one before it
PLAN_BYTES = 64  # a row, while its superblock is made: where it comes from and where it goes
STATE_COPIES = 2  # on the host while a checkpoint is written: Orbax's, and the one whose digests are taken


@dataclasses.dataclass(frozen=True)
class Need:
    """What one memory has to hold.

    Attributes:
        where: which memory, in words.
        terms: bytes, by what they are for.
        there: bytes that it has; None where that is not known.
    """

    where: str
    terms: Mapping[str, int]
    there: int | None

    @property
    def total(self) -> int:
        """Bytes of all terms."""
        return sum(self.terms.values())

    def describe(self) -> str:
        """The total and its terms, largest first, in one line."""
        largest = sorted(self.terms.items(), key=lambda term: -term[1])
        there = "" if self.there is None else f", which has {_gb(self.there)}"
        return f"{_gb(self.total)} of {self.where}{there}: {', '.join(f'{n} {_gb(size)}' for n, size in largest)}"

    def check(self) -> None:
        """Refuses what cannot fit.

        Raises:
            SettingError: naming the terms, the largest first.
        """
        if self.there is not None and self.total > self.there:
            remedy = "smaller config.activations.superblock_rows, .sequences_at_once or config.sae.width need less"
            raise SettingError("config.activations.source", "live", f"needs {self.describe()}; {remedy}")


def live_needs(
    language_model: LanguageModel,
    sites: Sequence[Site],
    groups: Sequence[Group],
    mesh: Mesh,
    devices: Sequence[jax.Device],
    step: StepSettings,
    *,
    superblock_rows: int,
    context_length: int,
    sequences_at_once: int,
    dtype: str,
    revives: bool = False,
    evaluates: bool = False,
    gradients: bool = False,
    limit: int = 0,
    processes: int = 1,
) -> list[Need]:
    """What the language model, two generations of superblocks and the sweep need together, by memory.

    Args:
        language_model: what makes the rows; loaded.
        sites: where.
        groups: what is trained.
        mesh: where it is trained.
        devices: where the language model runs; those of the mesh or others.
        step: how it is trained.
        superblock_rows: R.
        context_length: T.
        sequences_at_once: B of a forward pass.
        dtype: of the rows.
        revives: whether dead features are revived: it may need the superblock that has just been left.
        evaluates: whether points are judged while they train: then members are on the mesh once more, some at a time.
        gradients: whether each site comes with its gradient.
        limit: bytes to count with instead of what the devices (on CPU: the host) say that they have; 0: what they say.
        processes: how many make the rows together; the mesh is divided among them evenly.
    """
    widths = {str(site): language_model.model.site_width(site.name) for site in sites}
    row_bytes = (1 + gradients) * sum(widths.values()) * DTYPES[dtype].itemsize
    model = _model_terms(
        language_model, sites, (-(-sequences_at_once // len(devices)), context_length), dtype, gradients
    )
    sweep = _sweep_terms(groups, widths, mesh, step) | {
        "batches": BATCHES * step.batch_size * row_bytes // mesh.size,
    }
    if evaluates:
        sweep["evaluation"] = _judged_bytes(groups, widths, mesh)
    generations = GENERATIONS + revives
    host = {
        f"{generations} superblocks": superblock_rows * (generations * row_bytes + PLAN_BYTES),
        "checkpoint on its way": STATE_COPIES * sum(_whole_bytes(state) for state in _states(groups, widths, mesh)),
    }
    if processes > 1:  # what this process has made, and on the way what all have
        host["own share"] = superblock_rows * row_bytes // processes
        sweep["exchange"] = superblock_rows * row_bytes + PIECE_BYTES
    shared = set(devices) <= set(mesh.devices.flat)
    if _is_host(mesh.devices.flat[0]):
        there = free_host_memory()
        parts = [(model, len(devices)), (sweep, mesh.size // processes), (host, 1)]
        terms = {name: size * count for part, count in parts for name, size in part.items()}
        # The model is loaded already: what is free does not count it.
        return [Need("the host's memory", terms, limit or (there and there + _parameter_bytes(language_model)))]
    needs = [Need("the host's memory", host, free_host_memory())]
    if shared:
        return [Need("each device's memory", model | sweep, limit or device_memory(devices)), *needs]
    loaded = {"language model": _parameter_bytes(language_model)}  # stays where it was loaded, for the evaluation
    return [
        Need("each device's memory", loaded | sweep, limit or device_memory(list(mesh.devices.flat))),
        Need("each device's memory of the language model's own", model, limit or device_memory(devices)),
        *needs,
    ]


def _model_terms(
    language_model: LanguageModel, sites: Sequence[Site], shape: tuple[int, int], dtype: str, gradients: bool
) -> dict[str, int]:
    program = traced(language_model, sites, shape, dtype, gradients)
    results = sum(_bytes(shape) for shape in jax.tree.leaves(program.out_info))
    # The results of one batch go to the host while the next one is computed.
    return {
        "language model": _parameter_bytes(language_model),
        "forward pass": program_bytes(program.jaxpr) + results,
    }


def _parameter_bytes(language_model: LanguageModel) -> int:
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(nnx.split(language_model.model)[1]))


def _states(groups: Sequence[Group], widths: Mapping[str, int], mesh: Mesh) -> list[Any]:
    return [abstract_state(group, widths[group.site], mesh) for group in groups]


def _sweep_terms(groups: Sequence[Group], widths: Mapping[str, int], mesh: Mesh, step: StepSettings) -> dict[str, int]:
    """The states of all groups, and what the update of the neediest one holds meanwhile."""
    states, updates = _states(groups, widths, mesh), []
    for group, state in zip(groups, states, strict=True):
        batch = (step.batch_size, widths[group.site])
        x_BD = jax.ShapeDtypeStruct(batch, np.float32, sharding=batch_sharding(mesh))
        count = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
        with jax.set_mesh(mesh):
            program: Any = make_step(group, step, mesh)
            traced_step = program.trace(state, x_BD, count)
        # The new state takes the place of the old one: it is not needed twice.
        updates.append(max(0, program_bytes(traced_step.jaxpr) - _tree_bytes(state)))
    return {"sweep": sum(map(_tree_bytes, states)), "update": max(updates)}


def _judged_bytes(groups: Sequence[Group], widths: Mapping[str, int], mesh: Mesh) -> int:
    """The weights of the members that are judged together, on one device, at the site where that is most."""
    sizes: dict[str, list[int]] = {}
    for group, state in zip(groups, _states(groups, widths, mesh), strict=True):
        shards = [(leaf.sharding.shard_shape(leaf.shape), leaf) for leaf in jax.tree.leaves(state.autoencoder)]
        size = sum(math.prod(shape[1:]) * leaf.dtype.itemsize for shape, leaf in shards)
        sizes.setdefault(group.site, []).extend([size] * len(group.points))
    return max(map(most_bytes, sizes.values()))


def _tree_bytes(tree: Any) -> int:
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _whole_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes(array: Any) -> int:
    """Of an array, its shape, or its abstract value, on one device: one that is sharded counts by its shard."""
    sharding = getattr(array, "sharding", None)
    shape = array.shape if sharding is None else sharding.shard_shape(array.shape)
    return math.prod(shape) * array.dtype.itemsize


def program_bytes(jaxpr: Any, size_of: Callable[[Any], float] | None = None) -> Any:
    """Bytes that a traced program holds at its worst moment, beside its arguments, on one device.

    Every intermediate array counts from the equation that makes it to the last one that reads it. XLA fuses some of
    them away, so that this is rather too much than too little.

    Args:
        jaxpr: the program.
        size_of: bytes of an abstract array on one device; by default, by its sharding.
    """
    size_of = size_of or _bytes
    program = getattr(jaxpr, "jaxpr", jaxpr)
    last_use = {var: index for index, equation in enumerate(program.eqns) for var in equation.invars if _is_name(var)}
    last_use |= {var: len(program.eqns) for var in program.outvars if _is_name(var)}
    live: dict[Any, float] = {}
    peak: float = 0
    for index, equation in enumerate(program.eqns):
        inner = max(
            (program_bytes(p, size_of) for value in equation.params.values() for p in _programs(value)), default=0
        )
        results = {var: size_of(var.aval) for var in equation.outvars if var in last_use}
        # What an inner program holds at its end are these results: they are not counted twice.
        peak = max(peak, sum(live.values()) + max(inner, sum(results.values())))
        live |= results
        live = {var: size for var, size in live.items() if last_use[var] > index}
    return peak


def _programs(value: Any) -> list[Any]:
    """The programs in one parameter of an equation."""
    if isinstance(value, (tuple, list)):
        return [program for part in value for program in _programs(part)]
    return [value] if hasattr(value, "eqns") else [value.jaxpr] if hasattr(value, "jaxpr") else []


def _is_name(var: Any) -> bool:
    return not hasattr(var, "val")  # a constant written into the program is none


def _is_host(device: jax.Device) -> bool:
    """Whether the device's memory is the host's."""
    return device.platform == "cpu"


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
