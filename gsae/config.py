"""The typed schema of a run's configuration: what each setting may be, checked before anything else happens.

Values, comments and units stand in the config file (`experiments/pareto_sweep.py` holds every setting); types, bounds
and which settings may change between two runs in one workdir stand here. Neither repeats the other.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gsae.errors import SettingError
from gsae.schema import (
    all_positive,
    anything,
    at_least_a_second,
    axis,
    duration,
    fraction,
    group,
    not_negative,
    one_of,
    positive,
    section,
    setting,
    share,
    some_durations,
    some_positive,
    text,
)


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Devices along each axis of the mesh."""

    sweep: int = axis()
    data: int = axis()
    feature: int = axis()


@dataclasses.dataclass(frozen=True)
class ProcessSettings:
    """Which of several processes this is, and how long they wait for each other."""

    coordinator: str = text(operational=True)
    count: int = not_negative(operational=True)
    index: int = setting("must be -1 or the number of a process from 0", lambda value: value >= -1, operational=True)
    start_timeout: float = at_least_a_second()
    heartbeat_timeout: float = at_least_a_second()


@dataclasses.dataclass(frozen=True)
class LanguageModelSettings:
    """Which language model; none for rows from elsewhere."""

    name: str = anything()
    revision: str = text()
    dtype: str = one_of("float32", "bfloat16", "float16", "file")
    parts: int = positive(operational=True)


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """Which text, and how it is packed and split."""

    source: str = one_of("python_standard_library", "files", "hugging_face")
    paths: tuple[str, ...] = anything()
    name: str = anything()
    revision: str = text()
    configuration: str = anything()
    split: str = text()
    content: str = one_of("text", "token_ids", "chat")
    column: str = text()
    streaming: bool = anything()
    shuffle_buffer: int = not_negative()
    max_documents: int = not_negative()
    held_out_fraction: float = fraction()
    compare_up_to: int = not_negative()
    packing: str = one_of("across_documents", "one_document")
    context_length: int = setting("must be at least 2 tokens", lambda value: value >= 2)
    separator: str = one_of("auto", "eos", "bos", "none")
    prepend_bos: str = one_of("auto", "always", "never")
    skip_positions: int = not_negative()
    mask_special_tokens: bool = anything()
    mask_tokens: tuple[int, ...] = setting(
        "must be a tuple of token ids from 0", lambda values: all(value >= 0 for value in values)
    )
    store: str = anything(operational=True)


@dataclasses.dataclass(frozen=True)
class ActivationSettings:
    """Where the rows come from, how many there are, and how they are kept."""

    source: str = one_of("store", "live", "rows", operational=True)
    paths: tuple[str, ...] = anything()
    held_out_fraction: float = fraction()
    rows: int = not_negative()
    superblock_rows: int = positive()
    dtype: str = one_of("bfloat16", "float32")
    gradients: bool = anything()
    sequences_at_once: int = not_negative(operational=True)
    statistics_rows: int = not_negative()
    devices: int = not_negative(operational=True)
    memory_gb: float = not_negative(operational=True)
    store: str = anything(operational=True)


@dataclasses.dataclass(frozen=True)
class SaeSettings:
    """What all autoencoders of the run share."""

    width: int = positive()
    normalisation: str = one_of("mean_squared_norm", "none")
    decoder_bias: str = one_of("zeros", "mean")
    compute_dtype: str = one_of("auto", "float32", "bfloat16")
    start_from: str = anything()


@dataclasses.dataclass(frozen=True)
class SweepEntry:
    """Points of a sweep: the product of the tuples. `options` are checked by the architecture itself."""

    architecture: str = text()
    sites: tuple[str, ...] = setting('must be a tuple of sites such as ("mlp_out.1",)', bool)
    width_factor: float = positive()
    sparsity_coefficients: tuple[float, ...] = all_positive()  # these or targets: `recipe` sees to it
    target_l0: tuple[float, ...] = all_positive(absent=())
    learning_rates: tuple[float, ...] = some_positive()
    seeds: tuple[int, ...] = setting(
        "must be a tuple of whole numbers from 0", lambda values: bool(values) and all(0 <= v < 2**31 for v in values)
    )
    options: Mapping[str, Any] = anything()
    steps: int = not_negative(absent=0)


@dataclasses.dataclass(frozen=True)
class ResamplingSettings:
    """When dead features are revived, and how."""

    at: tuple[str, ...] = some_durations()
    inputs: int = positive()
    rewarmup: str = duration()


@dataclasses.dataclass(frozen=True)
class TargetSettings:
    """How coefficients are found for a target L0. Points with given coefficients do not depend on it."""

    pilot: str = duration(operational=True)
    pilot_coefficients: tuple[float, ...] = setting(
        "must be a tuple of at least two positive numbers",
        lambda values: len(set(values)) > 1 and all(value > 0 for value in values),
        operational=True,
    )
    adjust_until: str = duration(operational=True)
    held_out_tokens: int = not_negative(operational=True)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The optimisation of every point."""

    steps: int = positive(operational=True)  # more of them extend what is trained, fewer are refused
    batch_size: int = positive()
    beta2: float = fraction()
    epsilon: float = positive()
    warmup: str = duration()
    warmup_shape: str = one_of("linear", "cosine")
    decay: str = one_of("constant", "linear", "cosine")
    decay_start: str = duration()
    decay_to: float = share()
    sparsity_warmup: str = duration()
    dead_window: str = duration()
    resampling: ResamplingSettings = group()
    target_l0: TargetSettings = group()
    checkpoint_every: int = not_negative(operational=True)
    keep_checkpoints: int = positive(operational=True)
    checkpoints: str = anything(operational=True)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """How the points are judged. Changing these makes the evaluation again and leaves the training alone."""

    tokens: int = not_negative(operational=True)
    skip_tokens: int = not_negative(operational=True)
    sequences_at_once: int = positive(operational=True)
    zero_ablation: str = one_of("masked", "all_positions", operational=True)
    bootstrap_samples: int = positive(operational=True)
    baseline: str = text(operational=True)
    pursuit: tuple[int, ...] = setting(
        "must be a tuple of whole numbers above 0", lambda values: all(value > 0 for value in values), operational=True
    )
    pursuit_tokens: int = positive(operational=True)
    error_bound: bool = anything(operational=True)
    every: int = not_negative(operational=True)
    quick_tokens: int = positive(operational=True)
    dashboards: int = not_negative(operational=True)


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
    """Where the numbers go while it trains."""

    every: int = positive(operational=True)
    tensorboard: bool = anything(operational=True)
    wandb_project: str = anything(operational=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = setting("must be a whole number from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
    mesh: MeshSettings = group()
    processes: ProcessSettings = group()
    language_model: LanguageModelSettings = group()
    text: TextSettings = group()
    activations: ActivationSettings = group()
    sae: SaeSettings = group()
    # Points are added and removed as one likes: each is known by its own settings.
    sweep: Mapping[str, SweepEntry] = setting("must hold at least one entry", bool, operational=True)
    training: TrainingSettings = group()
    evaluation: EvaluationSettings = group()
    logging: LoggingSettings = group()


def parse_processes(values: Mapping[str, Any]) -> ProcessSettings:
    """The section that is needed before all others: with several processes their complaints are one process's.

    Raises:
        SettingError: as `parse`.
    """
    if not hasattr(values, "items") or "processes" not in values:
        raise SettingError(
            "config.processes", "(absent)", "the config file must set it (experiments/pareto_sweep.py has them all)"
        )
    return section(ProcessSettings, values["processes"], "config.processes")


def parse(values: Mapping[str, Any]) -> Config:
    """Checks a plain mapping (or ConfigDict) against the schema.

    Raises:
        SettingError: for an unknown, missing, mistyped or impossible setting; the first one found, in schema order.
    """
    config = section(Config, values, "config")
    training, activations, name = config.training, config.activations, config.language_model.name
    if activations.source == "rows" and name:
        allowed = "must be '' with config.activations.source = 'rows': no language model judges rows from elsewhere"
        raise SettingError("config.language_model.name", name, allowed)
    if activations.source != "rows" and not name:
        raise SettingError("config.language_model.name", name, "must be a text that is not empty")
    if activations.source == "rows" and not (activations.paths or activations.store):
        allowed = "must name files or directories of rows, unless config.activations.store has some already"
        raise SettingError("config.activations.paths", activations.paths, allowed)
    if activations.source == "rows" and activations.gradients:
        raise SettingError("config.activations.gradients", True, "must be False: rows from elsewhere bring no gradient")
    if activations.source == "rows" and config.evaluation.dashboards:
        allowed = "must be 0: rows from elsewhere bring no text to show features on"
        raise SettingError("config.evaluation.dashboards", config.evaluation.dashboards, allowed)
    if activations.superblock_rows % training.batch_size:
        raise SettingError(
            "config.activations.superblock_rows",
            activations.superblock_rows,
            f"must be a multiple of config.training.batch_size = {training.batch_size}",
        )
    if 0 < activations.rows < activations.superblock_rows:
        raise SettingError(
            "config.activations.rows",
            activations.rows,
            f"must be 0 or at least config.activations.superblock_rows = {activations.superblock_rows}",
        )
    return config
