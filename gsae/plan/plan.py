"""What a run would need on a machine: memory, seconds, bytes, money."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gsae import chips, recipe
from gsae.config import Config
from gsae.errors import SettingError
from gsae.language_models.sites import Site, names_of, site_width
from gsae.mesh import AXES, alone
from gsae.places import BucketPath, place
from gsae.plan import programs
from gsae.plan.compiler import Compiled, Program
from gsae.plan.model import AbstractModel, tokens
from gsae.plan.topology import Topology
from gsae.roofline.choice import Candidate, rank
from gsae.roofline.estimate import LATENCY, Roofline, Sizes
from gsae.roofline.work import MemberWork
from gsae.throughput import count_flops
from gsae.training import bucket_shelf
from gsae.training.groups import Group, Point, group_points
from gsae.training.step import StepSettings

TRIES = 3  # meshes that are compiled, until one fits
TOKENS = 1 << 14  # a device, in a pass of the language model of which config says 0: enough for its peak
PROVENANCE = 12  # bytes that a store keeps beside a row: token, sequence, position


@dataclasses.dataclass(frozen=True)
class Pass:
    """A stage that is no training.

    Attributes:
        flops: over all devices.
        seconds: at the roofline.
        lower: its programs by name on a mesh of these sizes, for a topology with a compiler; it takes seconds.
    """

    flops: float
    seconds: float
    lower: Callable[[Sizes], Iterator[tuple[str, Program]]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would need, by arithmetic, and the programs that can be compiled to see.

    Attributes:
        topology: the machine.
        config: the run's.
        points, widths, settings: of the sweep; D by site; of the step.
        ranked: meshes, the chosen one first.
        model: the language model; None for rows from elsewhere.
        row_bytes: of one row at all sites.
        rows, trained_rows: different ones, and all that the training takes.
        harvest, live, evaluation: the language model's passes into a store, or while the sweep trains, and when it is
            judged; None where there are none.
    """

    topology: Topology
    config: Config
    points: Sequence[Point]
    widths: Mapping[str, int]
    settings: StepSettings
    ranked: Sequence[Candidate]
    model: AbstractModel | None
    row_bytes: int
    rows: int
    trained_rows: int
    harvest: Pass | None
    live: Pass | None
    evaluation: Pass | None

    @property
    def chosen(self) -> Candidate:
        """The mesh."""
        return self.ranked[0]

    @functools.cached_property
    def groups(self) -> list[Group]:
        """Of the sweep, on the chosen mesh."""
        return group_points(self.points, self.chosen.sizes.sweep)

    @property
    def loaded(self) -> float:
        """Bytes of a device that the language model keeps while the sweep trains: it stays for the evaluation."""
        return _taken(self.config, self.model)

    def candidates(self) -> Iterator["Plan"]:
        """This plan, and those on the next meshes by time that fit by arithmetic: for when the compiler disagrees."""
        for candidate in [c for c in self.ranked if c.fits][:TRIES] or self.ranked[:1]:
            others = (other for other in self.ranked if other is not candidate)
            yield dataclasses.replace(self, ranked=[candidate, *others])

    def lower_steps(self) -> Iterator[tuple[str, Program]]:
        """The update of every group, by name, on the chosen mesh."""
        mesh = self.topology.mesh(self.chosen.sizes)
        for group in self.groups:
            width, dtype = self.widths[group.site], self.config.activations.dtype
            yield group.name, programs.lower_step(group, width, self.settings, mesh, dtype)

    def roofline(self, steps: Mapping[str, Compiled] | None = None) -> Roofline:
        """Of the training step; with what compiled steps send, where they are given."""
        reference = self.chosen.roofline
        if not steps:
            return reference
        sent = sum(step.sent for step in steps.values())
        count = sum(one.times for step in steps.values() for one in step.collectives)
        ring = self.topology.chip.ring(self.topology.count)
        return dataclasses.replace(reference, collectives=sent / ring + count * LATENCY)

    def seconds(self, roofline: Roofline) -> float:
        """Of all stages, with steps at a roofline."""
        passes = sum(stage.seconds for stage in (self.harvest, self.live, self.evaluation) if stage)
        return self.config.training.steps * roofline.seconds + passes


def make_plan(config: Config, topology: Topology, given: Sequence[int]) -> Plan:
    """Chooses the mesh and estimates; compiles nothing.

    Args:
        config: the run's.
        topology: the machine.
        given: sizes of sweep, data and feature; 0 or -1 where one is to be chosen.

    Raises:
        SettingError: when no mesh divides what it has to, or a setting does not suit the language model.
    """
    if config.activations.devices:
        allowed = "must be 0 in a plan: it takes all devices for the mesh"
        raise SettingError("config.activations.devices", config.activations.devices, allowed)
    _check_places(config)
    model = None if config.activations.source == "rows" else _model(config)
    points, widths = _points_and_widths(config, model)
    settings = recipe.step_settings(config, on_cpu=topology.chip is chips.CPU)
    itemsize = 2 if config.activations.dtype == "bfloat16" else 4
    groups = group_points(points)
    ranked = rank(
        [MemberWork.of(group, widths[group.site], settings) for group in groups],
        topology.chip,
        topology.count,
        batch_size=settings.batch_size,
        row_itemsize=itemsize,
        compute_dtype=settings.compute_dtype,
        memory=topology.chip.memory,
        taken=_taken(config, model),
        fixed=given,
    )
    trained = config.training.steps * config.training.batch_size
    rows = min(config.activations.rows or trained, trained)
    harvest = live = evaluation = None
    if model:
        is_live = config.activations.source == "live"
        forward = _forward(config, topology, widths, model, trained if is_live else rows)
        harvest, live = (None, forward) if is_live else (forward, None)
        evaluation = _evaluation(config, topology, groups, widths, model, rows)
    return Plan(
        topology=topology,
        config=config,
        points=points,
        widths=widths,
        settings=settings,
        ranked=ranked,
        model=model,
        row_bytes=(1 + config.activations.gradients) * itemsize * sum(widths.values()),
        rows=rows,
        trained_rows=trained,
        harvest=harvest,
        live=live,
        evaluation=evaluation,
    )


def _check_places(config: Config) -> None:
    """Refuses what a run would refuse, without asking any bucket whether it is there."""
    place(config.activations.store or ".", "config.activations.store")
    checkpoints = place(config.training.checkpoints or ".", bucket_shelf.SETTING)
    if isinstance(checkpoints, BucketPath):
        bucket_shelf.check_scheme(checkpoints)


def _model(config: Config) -> AbstractModel:
    settings = config.language_model
    model = AbstractModel.of(settings.name, settings.revision, settings.dtype)
    if config.text.context_length > model.settings.context_length:
        allowed = f"the language model was made for at most {model.settings.context_length} tokens"
        raise SettingError("config.text.context_length", config.text.context_length, allowed)
    return model


def _points_and_widths(config: Config, model: AbstractModel | None) -> tuple[list[Any], dict[str, int]]:
    """The points, and D of their sites."""
    if model is None:
        from gsae.activations.rows import Rows

        if not config.activations.paths:
            allowed = "must name the rows: a plan reads their widths from the files"
            raise SettingError("config.activations.paths", config.activations.paths, allowed)
        rows = Rows.open(config.activations.paths)
        points = recipe.points(config, functools.partial(recipe.site_of_rows, rows.sites))
        return points, {point.site: rows.width(point.site) for point in points}
    settings = model.settings
    check = functools.partial(recipe.site_of_layers, settings.num_layers, names_of(settings))
    points = recipe.points(config, check)
    return points, {point.site: site_width(settings, Site.parse(point.site).name) for point in points}


def _taken(config: Config, model: AbstractModel | None) -> float:
    return model.bytes / config.language_model.parts if model else 0.0


def _forward(config: Config, topology: Topology, widths: Mapping[str, int], model: AbstractModel, rows: int) -> Pass:
    """The passes that make so many rows."""
    length, activations, chip = config.text.context_length, config.activations, topology.chip
    sites = tuple(Site.parse(site) for site in widths)
    forward = model.capture(sites, activations.dtype, activations.gradients)
    sequences = -(-rows // (length - config.text.skip_positions))
    flops = count_flops(forward.trace(model.parameters, *tokens((1, length))).jaxpr) * sequences
    row_bytes = (2 if activations.dtype == "bfloat16" else 4) * sum(widths.values())
    to_host = rows * row_bytes / (topology.count * chip.host_link)

    def lower(_: Sizes) -> Iterator[tuple[str, Program]]:
        own = model.placed(topology.one_host, config.language_model.parts)
        at_once = _sequences(activations.sequences_at_once, length, own.parts, len(topology.one_host))
        shape, gradients = (at_once, length), activations.gradients
        yield "forward", programs.lower_harvest(model, own, sites, shape, activations.dtype, gradients)

    return Pass(flops, max(flops / (topology.count * chip.peak(model.dtype)), to_host), lower)


def _evaluation(
    config: Config,
    topology: Topology,
    groups: Sequence[Group],
    widths: Mapping[str, int],
    model: AbstractModel,
    rows: int,
) -> Pass:
    """All members judged at the end, and the quick looks before."""
    length, settings = config.text.context_length, config.evaluation
    counting = length - config.text.skip_positions
    members = programs.judged(groups, widths, alone())
    quick = (config.training.steps - 1) // settings.every if settings.every else 0
    sequences = -(-(settings.tokens or rows) // counting) + quick * -(-settings.quick_tokens // counting)
    flops = programs.evaluation_flops(model, members, length) * sequences

    def lower(sizes: Sizes) -> Iterator[tuple[str, Program]]:
        mesh = topology.mesh(sizes)
        devices, parts = list(mesh.devices.flat), config.language_model.parts
        if parts == 1:  # copies tell each other nothing but results: in one order the programs suit every mesh
            devices.sort(key=lambda device: device.id)
        everywhere = model.placed(devices, parts)
        shape = (_sequences(settings.sequences_at_once, length, mesh.size, mesh.size), length)
        yield from programs.lower_evaluation(model, everywhere, members, mesh, shape)

    return Pass(flops, flops / (topology.count * topology.chip.peak(model.dtype)), lower)


def _sequences(given: int, length: int, parts: int, devices: int) -> int:
    """Sequences in a pass over the devices of a host, a multiple of the parts of a batch."""
    wanted = given or max(1, TOKENS // length) * devices
    return -(-wanted // parts) * parts


def named_sizes(text: str) -> tuple[int, ...]:
    """`--mesh=8,1,2` as sizes of sweep, data and feature; raises SettingError."""
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != len(AXES) or min(sizes) < -1:
        raise SettingError("--mesh", text, "must be the sizes of sweep, data and feature such as 8,1,2; 0: chosen")
    return sizes
