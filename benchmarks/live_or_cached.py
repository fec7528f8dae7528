"""When rows made live beat rows kept on disk, for the shipped experiments: FLOPs and bytes, nothing is run.

    python benchmarks/live_or_cached.py            # the table of docs/live_or_cached.md
    python benchmarks/live_or_cached.py --write    # puts it there

Cached, the language model runs once over the rows while they are written, and the training reads them from disk as it
computes; each takes the longer of its FLOPs and its bytes. Live, the language model runs again in every pass, and once
over the rows of the statistics; nothing is read or written.
"""

import argparse
import dataclasses
import functools
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gsae import chips, recipe
from gsae import config as schema
from gsae.activations.live import GENERATIONS
from gsae.language_models.sites import NAMES, Site
from gsae.mesh import make_mesh
from gsae.throughput import count_flops
from gsae.training.groups import Point, group_points
from gsae.training.step import abstract_state, batch_sharding, make_step

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "live_or_cached.md"
BEGIN, END = "<!-- made by benchmarks/live_or_cached.py -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of a language model that decide its FLOPs."""

    num_layers: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp_width: int
    mlp_matrices: int = 2  # 3 where the MLP is gated

    def site_width(self, name: str) -> int:
        """Numbers of a row at a site."""
        return {"attn_z": self.heads * self.head_width, "mlp_act": self.mlp_width}.get(name, self.width)

    def flops_a_token(self, layers: int, context_length: int) -> float:
        """Of the first layers, two for each multiply-add; all pairs of positions in attention."""
        attention = self.width * self.head_width * 2 * (self.heads + self.key_value_heads)
        matrices = attention + self.mlp_matrices * self.width * self.mlp_width
        return layers * (2.0 * matrices + 4.0 * context_length * self.heads * self.head_width)


MODELS = {
    "bundled": Model(4, 128, 4, 4, 32, 512),
    "openai-community/gpt2": Model(12, 768, 12, 12, 64, 3072),
    "EleutherAI/pythia-70m": Model(6, 512, 8, 8, 64, 2048),
    "EleutherAI/pythia-160m": Model(12, 768, 12, 12, 64, 3072),
    "EleutherAI/pythia-410m": Model(24, 1024, 16, 16, 64, 4096),
    "EleutherAI/pythia-1b": Model(16, 2048, 8, 8, 256, 8192),
    "EleutherAI/pythia-1.4b": Model(24, 2048, 16, 16, 128, 8192),
    "EleutherAI/pythia-2.8b": Model(32, 2560, 32, 32, 80, 10240),
    "NeelNanda/GELU_1L512W_C4_Code": Model(1, 512, 8, 8, 64, 2048),
    "google/gemma-7b": Model(28, 3072, 16, 16, 256, 24576, 3),
    "google/gemma-2-2b": Model(26, 2304, 8, 4, 256, 9216, 3),
    "meta-llama/Llama-3.2-1B": Model(16, 2048, 32, 8, 64, 8192, 3),
    "Qwen/Qwen3-0.6B-Base": Model(28, 1024, 16, 8, 128, 3072, 3),
    "Qwen/Qwen3-1.7B-Base": Model(28, 2048, 16, 8, 128, 6144, 3),
    "Qwen/Qwen3-4B-Base": Model(36, 2560, 32, 8, 128, 9728, 3),
}


PAPER = ("gelu_1l", "pythia_2_8b", "gemma_7b")
LARGE = ("gelu_1l", "gpt2", "pythia:70m", "pythia:2.8b", "llama_3_2_1b", "qwen_3:1.7B", "gemma_2_2b")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is assumed of the hardware."""

    name: str
    chips: int
    flops: float  # a second, of all chips, reached on average
    disk: float  # bytes a second, read or written


LAPTOP = Machine("2 cores", 1, 0.12e12, 1e9)  # what the front-door experiment reaches
V5E: Any = chips.named("v5e")
TPUS = Machine("8 TPU v5e", 8, 8 * 0.4 * V5E.bfloat16, 1e9)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Seconds and bytes of a run, both ways."""

    rows: int  # different ones
    passes: float  # over them
    disk_bytes: float
    harvest: float
    cached_training: float
    live: float
    extra_flops: float  # of the language model, when it runs live
    even_disk: float  # bytes a second of a disk with which both take as long


def compare(
    machine: Machine,
    *,
    rows: int,
    trained_rows: int,
    statistics_rows: int,
    superblock_overlap: float,
    row_bytes: int,
    provenance_bytes: int,
    model_flops: float,
    training_flops: float,
) -> Comparison:
    """Both ways of giving a training its rows.

    Args:
        machine: where.
        rows: different rows.
        trained_rows: those that the training takes, each as often as it comes.
        statistics_rows: those that a live run makes for the statistics first.
        superblock_overlap: share of the forward passes that a live run makes for a superblock's neighbours.
        row_bytes: of all sites.
        provenance_bytes: that a store keeps beside a row.
        model_flops: of the language model, a row.
        training_flops: of all points, a row.
    """
    made_live = (trained_rows + statistics_rows) * model_flops * (1 + superblock_overlap)
    live = (made_live + trained_rows * training_flops) / machine.flops
    stored = rows * (row_bytes + provenance_bytes)
    harvest = max(rows * model_flops / machine.flops, stored / machine.disk)
    training = max(trained_rows * training_flops / machine.flops, trained_rows * row_bytes / machine.disk)

    def cached(disk: float) -> float:
        written = max(rows * model_flops / machine.flops, stored / disk)
        return written + max(trained_rows * training_flops / machine.flops, trained_rows * row_bytes / disk)

    slow, fast = 1.0, 1e15
    while fast / slow > 1.001:  # the longer the disk takes the longer cached does: bisection
        middle = (slow * fast) ** 0.5
        slow, fast = (middle, fast) if cached(middle) > live else (slow, middle)
    return Comparison(
        rows=rows,
        passes=trained_rows / rows,
        disk_bytes=stored,
        harvest=harvest,
        cached_training=training,
        live=live,
        extra_flops=made_live - rows * model_flops,
        even_disk=fast,
    )


def points_of(config: schema.Config, model: Model) -> list[Point]:
    """The points of an experiment on a model."""
    return recipe.points(config, functools.partial(recipe.site_of_layers, model.num_layers, NAMES))


def training_flops(config: schema.Config, model: Model) -> float:
    """FLOPs a row of all points: those of the traced programs."""
    mesh, batch, total = make_mesh(), config.training.batch_size, 0.0
    for group in group_points(points_of(config, model)):
        width = model.site_width(Site.parse(group.site).name)
        x_BD = jax.ShapeDtypeStruct((batch, width), jnp.bfloat16, sharding=batch_sharding(mesh))
        step = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, PartitionSpec()))
        program: Any = make_step(group, recipe.step_settings(config), mesh)
        with jax.set_mesh(mesh):
            total += count_flops(program.trace(abstract_state(group, width, mesh), x_BD, step).jaxpr) / batch
    return total


def of_experiment(config: schema.Config, model: Model, machine: Machine, available: int = 0) -> Comparison:
    """Both ways for an experiment on a model; `available` rows of text where config.activations.rows is 0."""
    activations, training = config.activations, config.training
    trained = training.steps * training.batch_size
    rows = min(activations.rows or available or trained, trained)
    sites = {Site.parse(point.site) for point in points_of(config, model)}
    itemsize = 2 if activations.dtype == "bfloat16" else 4
    tokens_at_once = (activations.sequences_at_once or 64) * config.text.context_length  # 64: about what is found
    return compare(
        machine,
        rows=rows,
        trained_rows=trained,
        statistics_rows=min(rows, activations.statistics_rows or rows),
        superblock_overlap=tokens_at_once / activations.superblock_rows,
        row_bytes=itemsize * sum(model.site_width(site.name) for site in sites),
        provenance_bytes=12,
        model_flops=model.flops_a_token(1 + max(site.layer for site in sites), config.text.context_length),
        training_flops=training_flops(config, model),
    )


def experiments() -> Iterator[tuple[str, schema.Config]]:
    """The shipped experiments that train on a language model's activations; of the paper's, each file's first."""
    large = (*(f"language_models/{name}" for name in LARGE), *(f"paper/{name}" for name in PAPER))
    for name in ("pareto_sweep", *large):
        file, _, size = name.partition(":")
        get_config = runpy.run_path(str(ROOT / "experiments" / f"{file}.py"))["get_config"]
        yield name, schema.parse(get_config(*filter(None, [size])))


def table() -> str:
    """The table in Markdown."""
    heads = "experiment, language model | on | rows × passes | on disk | cached: harvest + training | live"
    lines = [f"{heads} | live's additional chip time | live is faster below", " | ".join(["---"] * 8)]
    for name, config in experiments():
        model = MODELS[config.language_model.name]
        machine = LAPTOP if config.language_model.name == "bundled" else TPUS
        found = of_experiment(config, model, machine)
        extra = found.extra_flops / machine.flops
        cells = [
            f"{name}, {config.language_model.name}",
            machine.name,
            f"{found.rows / 1e6:,.4g} M × {found.passes:.3g}",
            f"{found.disk_bytes / 1e9:.2f} GB" if found.disk_bytes < 1e11 else f"{found.disk_bytes / 1e12:.2f} TB",
            f"{_time(found.harvest)} + {_time(found.cached_training)}",
            _time(found.live),
            f"{_time(extra * machine.chips)} ({extra / found.live:.0%})",
            f"{found.even_disk / 1e9:.2g} GB/s of disk",
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.3g} h"


def needs(config: schema.Config) -> str:
    """What an experiment on a published model needs, in one sentence: it stands in the experiment's docstring."""
    model = MODELS[config.language_model.name]
    found = of_experiment(config, model, TPUS)
    points = points_of(config, model)
    sizes = [2 * model.site_width(Site.parse(point.site).name) * point.width for point in points]
    sweep = sum(2 * 4 * size for size in sizes)  # parameters and second moments, float32
    row_bytes = 2 * sum(model.site_width(Site.parse(site).name) for site in {point.site for point in points})
    host = GENERATIONS * config.activations.superblock_rows * row_bytes
    return (
        f"{len(points)} points on {found.rows / 1e6:,.0f} million rows: {_time(found.live)} on {TPUS.name} live, "
        f"{_time(found.harvest + found.cached_training)} and {_bytes(found.disk_bytes)} of disk cached; "
        f"the sweep's state {_bytes(sweep)} over all chips, live superblocks {_bytes(host)} of host memory."
    )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count < 1e12 else f"{count / 1e12:.2f} TB"


def written(document: str) -> str:
    """The document with the table as it is now."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    if parser.parse_args().write:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        print(table())
