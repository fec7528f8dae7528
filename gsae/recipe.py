"""From the configuration to the plain values that the rooms take: points, schedules, step settings."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gsae import mesh as axes
from gsae import schema
from gsae.autoencoders.registry import architecture, architecture_name_of, make_options
from gsae.config import Config, SweepEntry
from gsae.durations import duration_in_steps
from gsae.errors import SettingError
from gsae.language_models.sites import Site
from gsae.training.groups import Point
from gsae.training.loop import Resampling
from gsae.training.resampling import event_steps
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings


def points(config: Config, check_site: Callable[[str], str]) -> list[Point]:
    """The points of the sweep: for each entry, the product of its tuples, in the order in which they are written.

    Args:
        config: the run's configuration.
        check_site: what a site is called; ValueError, saying what is allowed, where there is no such site.

    Raises:
        SettingError: naming the setting of the sweep that is wrong.
    """
    found: list[Point] = []
    for name, entry in config.sweep.items():
        sites = []
        for index, site in enumerate(entry.sites):
            try:
                sites.append(check_site(site))
            except ValueError as error:
                raise SettingError(f"config.sweep.{name}.sites[{index}]", site, str(error)) from error
        found += _points_of_entry(config, f"config.sweep.{name}", entry, sites)
    known = {point.architecture for point in found}
    if config.evaluation.baseline not in known:
        raise SettingError(
            "config.evaluation.baseline", config.evaluation.baseline, f"must be one of {', '.join(sorted(known))}"
        )
    return found


def site_of_layers(num_layers: int, names: Sequence[str], site: str) -> str:
    """The site of a language model with so many layers, each with sites of these names; ValueError for any other."""
    parsed = Site.parse(site)
    if parsed.name not in names:
        raise ValueError(f"the layers of the language model have no such site, but {', '.join(names)}")
    if parsed.layer >= num_layers:
        raise ValueError(f"the language model has layers 0 to {num_layers - 1}")
    return str(parsed)


def site_of_rows(sites: Sequence[str], site: str) -> str:
    """The site, if rows from elsewhere have it; ValueError otherwise."""
    if site not in sites:
        raise ValueError(f"the rows have the sites {', '.join(sites)}")
    return site


def _points_of_entry(config: Config, name: str, entry: SweepEntry, sites: Sequence[str]) -> list[Point]:
    try:
        options = make_options(entry.architecture, entry.options)
    except SettingError as error:  # the architecture does not know where its options stand in the configuration
        last = error.setting.rpartition(".")[2]
        where = last if last == "architecture" else f"options.{last}"
        raise SettingError(f"{name}.{where}", error.value, error.allowed) from error
    width = entry.width_factor * config.sae.width
    if width != int(width):
        raise SettingError(f"{name}.width_factor", entry.width_factor, f"gives {width} features: not a whole number")
    _check_targets(name, entry, options, int(width))
    # The coefficient of a point with a target is not known yet.
    knobs = [(0.0, target) for target in entry.target_l0] or [(given, 0.0) for given in entry.sparsity_coefficients]
    product = itertools.product(sites, entry.seeds, entry.learning_rates, knobs)
    steps = entry.steps or config.training.steps
    return [
        Point(entry.architecture, site, int(width), coefficient, rate, seed, options, steps, target)
        for site, seed, rate, (coefficient, target) in product
    ]


def _check_targets(name: str, entry: SweepEntry, options: Any, width: int) -> None:
    if entry.target_l0 and entry.sparsity_coefficients:
        allowed = f"must be () where {name}.sparsity_coefficients are given: an entry has one of the two"
        raise SettingError(f"{name}.target_l0", entry.target_l0, allowed)
    if not entry.target_l0 and not entry.sparsity_coefficients:
        allowed = f"must be a tuple of positive numbers, unless {name}.target_l0 has some"
        raise SettingError(f"{name}.sparsity_coefficients", (), allowed)
    if entry.target_l0 and (why := architecture(entry.architecture).no_target_l0(options)):
        raise SettingError(f"{name}.target_l0", entry.target_l0, f"must be () for {entry.architecture}: {why}")
    if entry.target_l0 and max(entry.target_l0) >= width:
        raise SettingError(f"{name}.target_l0", max(entry.target_l0), f"must be below the {width} features")


def check_mesh(config: Config, mesh: jax.sharding.Mesh, sweep: list[Point]) -> None:
    """Refuses sizes that the mesh does not divide.

    Raises:
        SettingError: naming the size and the axis.
    """
    devices = mesh.size
    if config.training.batch_size % devices:
        allowed = f"must be a multiple of the mesh's {devices} devices"
        raise SettingError("config.training.batch_size", config.training.batch_size, allowed)
    parts = mesh.shape[axes.FEATURE]
    for point in sweep:
        if point.width % parts:
            raise SettingError(
                "config.sae.width",
                config.sae.width,
                f"{point.name} has {point.width} features, which config.mesh.feature = {parts} does not divide",
            )
        point.options.check_split(point.width, parts)


def with_steps(config: Config, steps: int) -> Config:
    """The settings of a run of so many steps, which decide its schedules."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps))


def in_steps(config: Config, name: str) -> int:
    """A duration below config.training (`warmup`, `resampling.rewarmup`, ...) in steps."""
    value: Any = config.training
    for part in name.split("."):
        value = getattr(value, part)
    return _steps(config, value, f"config.training.{name}")


def _steps(config: Config, duration: str, setting: str) -> int:
    training = config.training
    return duration_in_steps(duration, total_steps=training.steps, batch_size=training.batch_size, setting=setting)


def resampling(config: Config) -> Resampling:
    """When dead features are revived, and from how many inputs.

    Raises:
        SettingError: for an event in the last quarter of the run, which would leave no time to learn.
    """
    settings, training = config.training.resampling, config.training
    steps = event_steps(
        settings.at,
        total_steps=training.steps,
        batch_size=training.batch_size,
        setting="config.training.resampling.at",
    )
    return Resampling(steps=steps, inputs=settings.inputs)


def schedules(config: Config) -> Schedules:
    """The schedules of the learning rate and of the sparsity coefficient."""
    training = config.training
    return Schedules(
        total_steps=training.steps,
        warmup=training.warmup_shape,
        warmup_steps=in_steps(config, "warmup"),
        decay=training.decay,
        decay_start=in_steps(config, "decay_start"),
        final_fraction=training.decay_to,
        sparsity_warmup_steps=in_steps(config, "sparsity_warmup"),
        adjust_until=in_steps(config, "target_l0.adjust_until"),
    )


def pilot_settings(config: Config, steps: int, input_scale: float) -> StepSettings:
    """The step of a pilot of so many steps: the run's, with short warm-ups and no decay."""
    settings = step_settings(config, input_scale)
    full = settings.schedules
    short = Schedules(
        total_steps=steps,
        warmup=full.warmup,
        warmup_steps=min(full.warmup_steps, steps // 4),
        sparsity_warmup_steps=min(full.sparsity_warmup_steps, steps // 4),
    )
    return dataclasses.replace(settings, schedules=short)


def step_settings(config: Config, input_scale: float = 1.0, on_cpu: bool | None = None) -> StepSettings:
    """What a step needs to know; `input_scale` comes from the statistics of the group's site.

    `on_cpu`: where it will run; None for the devices that are here.
    """
    training = config.training
    return StepSettings(
        batch_size=training.batch_size,
        schedules=schedules(config),
        seed=config.seed,
        input_scale=input_scale,
        compute_dtype=compute_dtype(config, on_cpu),
        beta2=training.beta2,
        eps=training.epsilon,
        resampling_return_steps=in_steps(config, "resampling.rewarmup"),
        dead_window_tokens=in_steps(config, "dead_window") * training.batch_size,
    )


def compute_dtype(config: Config, on_cpu: bool | None = None) -> str:
    """The dtype of the large products' operands: bfloat16 where the chip multiplies it faster, if left to us."""
    if config.sae.compute_dtype != "auto":
        return config.sae.compute_dtype
    on_cpu = jax.default_backend() == "cpu" if on_cpu is None else on_cpu
    return "float32" if on_cpu else "bfloat16"


def input_scale(config: Config, mean_squared_norm: float) -> float:
    """What activations of a site are multiplied by before they are trained on."""
    return float(1 / np.sqrt(mean_squared_norm)) if config.sae.normalisation == "mean_squared_norm" else 1.0


def rows(config: Config) -> dict[str, Any]:
    """Which rows the language model makes, and how: the settings that the store and the live source share."""
    settings = config.activations
    return {
        "superblock_rows": settings.superblock_rows,
        "max_rows": settings.rows or None,
        "dtype": settings.dtype,
        "seed": config.seed,
        "batch_size": settings.sequences_at_once,
        "gradients": settings.gradients,
    }


def imported_rows(config: Config) -> dict[str, Any]:
    """Which rows from elsewhere are trained on, and how they are kept."""
    settings = config.activations
    return {
        "superblock_rows": settings.superblock_rows,
        "held_out_fraction": settings.held_out_fraction,
        "max_rows": settings.rows,
        "dtype": settings.dtype,
        "seed": config.seed,
    }


def check_imported(config: Config, dtype: str, superblock_rows: int) -> None:
    """Refuses settings that rows which were imported before the run do not have.

    Raises:
        SettingError: naming the setting.
    """
    settings = config.activations
    for name, given, made in (
        ("dtype", settings.dtype, dtype),
        ("superblock_rows", settings.superblock_rows, superblock_rows),
        ("rows", settings.rows, 0),
    ):
        if given != made:
            allowed = f"must be {made!r}: so the rows in {settings.store} were imported, before this run"
            raise SettingError(f"config.activations.{name}", given, allowed)


def identity(config: Config, point: Point, rows_fingerprint: str) -> dict[str, Any]:
    """What decides the weights of a point, beside its steps: the same whatever else is in the sweep.

    Args:
        config: the run's configuration.
        point: one of its points.
        rows_fingerprint: of the rows at the point's site.
    """
    groups = ("seed", "sae", "training", "activations.statistics_rows")
    decisive = tuple(f"config.{group}" for group in groups)
    settings = {name: value for name, value in schema.lasting(config).items() if name.startswith(decisive)}
    own = {name: value for name, value in dataclasses.asdict(point).items() if name != "steps"}
    if point.target_l0:
        settings["config.training.target_l0"] = schema.plain(config.training.target_l0)
    return {"activations": rows_fingerprint, "point": own, **settings}


def describe(config: Config, point: Point) -> dict[str, Any]:
    """The columns of results.csv that say which point a row is about."""
    site = None if config.activations.source == "rows" else Site.parse(point.site)
    start = architecture(point.architecture).STARTS_FROM
    return {
        "point": point.name,
        "architecture": point.architecture,
        "variant": point.options.variant(),
        "starts_from": architecture_name_of(start) if start else "",
        "layer": site.layer if site else None,
        "site": site.name if site else point.site,
        "width": point.width,
        "sparsity_coefficient": point.sparsity_coefficient,
        "learning_rate": point.learning_rate,
        "seed": point.seed,
        "data_seed": config.seed,
        "steps": point.steps,
        "resamplings": len(config.training.resampling.at),
    }


def origin(config: Config) -> dict[str, Any]:
    """Where the activations of a run's points come from, kept with their weights; nothing where it is not known."""
    if config.activations.source == "rows":
        return {}
    return {
        "language_model": config.language_model.name,
        "language_model_revision": config.language_model.revision,
        "context_length": config.text.context_length,
    }
