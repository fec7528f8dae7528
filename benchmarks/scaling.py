"""How a training step scales on paper: widths x chips x architectures, with the figures of `gsae.plan`.

    python benchmarks/scaling.py                       # the tables of benchmarks/SCALING.md
    python benchmarks/scaling.py --write               # puts them there; compiles where libtpu is installed
    python benchmarks/scaling.py --write --arithmetic  # without a compiler

Every row is arithmetic by the roofline, but for the columns that say compiled: memory and collectives of the step that
the TPU's compiler made for that mesh.
"""

import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from gsae import chips
from gsae.autoencoders.registry import architecture
from gsae.plan import topology
from gsae.plan.compiler import Compiled
from gsae.plan.programs import lower_step
from gsae.roofline.choice import Candidate, rank
from gsae.roofline.estimate import LATENCY, Roofline, roofline
from gsae.roofline.work import MemberWork
from gsae.training.groups import Group, Point, group_points
from gsae.training.schedules import Schedules
from gsae.training.step import StepSettings

DOCUMENT = Path(__file__).resolve().parent / "SCALING.md"
BEGIN, END = "<!-- made by benchmarks/scaling.py -->", "<!-- end -->"
D, B = 3072, 4096  # Gemma 7B's width; Gemma Scope's batch
WIDTHS = {"16K": 1 << 14, "131K": 1 << 17, "1M": 1 << 20}
MACHINES = {8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16", 512: "v5p:8x8x8"}  # a pod of v5e ends at 256
# The dense products of a top-k autoencoder whose selection costs no product: those of the standard one.
KINDS = {"gated": "gated", "standard": "standard", "topk-like": "standard"}
SELECTION_PASSES = 32  # over [B, F] float32: bisection on counts, one a bit
PODS = ("v5e 8", "v5e 64", "v5e 256", "v6e 256", "v4 64", "v5p 64", "v5p 512", "tpu7x 64", "h100 8")
HEAD = (
    "width", "chips", "kind", "mesh (data x feature)", "GB a chip: arithmetic", "compiled", "GB sent: arithmetic",
    "compiled", "step, ms", "bound by", "tokens/s", "utilisation",
)  # fmt: skip
SCOPE_D, SCOPE_SECONDS = 3584, 45e-3  # Gemma Scope: 131,072 features, float32, 8 TPU v3 chips


def line(cells: Sequence[Any]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def group_of(name: str, width: int, members: int = 1) -> Group:
    """Members of one architecture that differ by their sparsity coefficient."""
    options = architecture(name).Options()
    points = [Point(name, "resid_post.14", width, 0.1 * (i + 1), 3e-4, 0, options) for i in range(members)]
    return group_points(points)[0]


def settings(dtype: str) -> StepSettings:
    """Of the step."""
    return StepSettings(batch_size=B, schedules=Schedules(total_steps=100, warmup_steps=5), compute_dtype=dtype)


def ranked(group: Group, width: int, chip: chips.Chip, count: int, dtype: str = "bfloat16") -> list[Candidate]:
    """Meshes of so many chips, the one that a run would choose first."""
    return rank(
        [MemberWork.of(group, width, settings(dtype))],
        chip,
        count * chip.devices_per_chip,
        batch_size=B,
        row_itemsize=2 if dtype == "bfloat16" else 4,
        compute_dtype=dtype,
        memory=chip.memory,
    )


def chip_named(name: str) -> chips.Chip:
    """From the table of chips."""
    found = chips.named(name)
    assert found is not None, name
    return found


def steps(compiling: bool) -> Iterator[str]:
    """The table of steps."""
    yield line(HEAD)
    yield line(["---"] * len(HEAD))
    for label, width in WIDTHS.items():
        for count, machine in MACHINES.items():
            for kind in KINDS:
                yield line([label, *_step(kind, width, count, machine, compiling)])


def _step(kind: str, width: int, count: int, machine: str, compiling: bool) -> list[str]:
    chip, group = chip_named(machine.partition(":")[0]), group_of(KINDS[kind], width)
    best = ranked(group, D, chip, count)[0]
    asked, found = best.demand, None
    if kind == "topk-like":
        selection = SELECTION_PASSES * 4 * B / best.sizes.data * width / best.sizes.feature
        asked = dataclasses.replace(asked, memory_bytes=asked.memory_bytes + selection)
    elif compiling and best.fits:
        mesh = topology.find(machine).mesh(best.sizes)
        found = lower_step(group, D, settings("bfloat16"), mesh, "bfloat16").compile()
    terms = _with(roofline(asked, chip, count, "bfloat16"), found, chip, count)
    memory = "-" if found is None else "refused" if found.refused else f"{found.peak / 1e9:.3g}"
    return [
        f"{count} {chip.name}",
        kind,
        f"{best.sizes.data} x {best.sizes.feature}",
        f"{asked.peak / 1e9:.3g}{'' if best.fits else ' (does not fit)'}",
        memory,
        f"{asked.collective_bytes / 1e9:.3g}",
        "-" if found is None or found.refused else f"{found.sent / 1e9:.3g}",
        f"{1e3 * terms.seconds:.3g}",
        terms.bound,
        f"{B / terms.seconds / 1e6:.3g} M",
        f"{asked.useful_flops / chip.bfloat16 / terms.seconds:.0%}",
    ]


def _with(terms: Roofline, found: Compiled | None, chip: chips.Chip, count: int) -> Roofline:
    """The roofline with the time of the compiled collectives, where there are some."""
    if found is None or found.refused:
        return terms
    times = sum(one.times for one in found.collectives)
    return dataclasses.replace(terms, collectives=found.sent / chip.ring(count) + times * LATENCY)


def largest() -> Iterator[str]:
    """What pods hold at most: members of 131,072 features, and features of one member."""
    yield line(["pod", "chips", "members of 131K features", "its step, ms", "features of one member", "its step, ms"])
    yield line(["---"] * 6)
    for pod in PODS:
        name, count = pod.split()
        members = _most(chip_named(name), int(count), [(1 << power, 1 << 17) for power in range(15)])
        features = _most(chip_named(name), int(count), [(1, 1 << power) for power in range(14, 31)])
        yield line([name, count, *members, *features])


def _most(chip: chips.Chip, count: int, sizes: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """The last (members, width) that fits, as the number that varies, and the time of its step."""
    varies = 0 if sizes[0][1] == sizes[1][1] else 1
    last = "none", "-"
    for each in sizes:
        best = ranked(group_of("gated", each[1], each[0]), D, chip, count)[0]
        if not best.fits:
            break
        last = f"{each[varies]:,}", f"{1e3 * best.roofline.seconds:,.3g}"
    return last


def public_figure() -> Iterator[str]:
    """Our estimate beside the one published time of such a training."""
    heads = ("kind", "mesh (data x feature)", "matmul, ms", "memory, ms", "collectives, ms", "step, ms", "of 45 ms")
    yield line(heads)
    yield line(["---"] * len(heads))
    for name in ("standard", "gated"):
        for found in ranked(group_of(name, 1 << 17), SCOPE_D, chip_named("tpuv3"), 8, "float32"):
            terms = found.roofline
            if found.fits and found.sizes.data <= 4:
                shown = [f"{1e3 * s:.3g}" for s in (terms.matmul, terms.memory, terms.collectives, terms.seconds)]
                share = f"{terms.seconds / SCOPE_SECONDS:.0%}"
                yield line([name, f"{found.sizes.data} x {found.sizes.feature}", *shown, share])


def tables(compiling: bool) -> Iterator[str]:
    """All tables, with a line that says what each is."""
    yield from steps(compiling)
    yield from ("", "The largest powers of two that fit (gated, arithmetic):", "", *largest())
    yield from (
        "",
        "Gemma Scope's figure (45 ms a step; 131,072 features at width 3584, float32, 8 TPU v3 chips) beside ours",
        "(arithmetic; each chip is two devices):",
        "",
        *public_figure(),
    )


def written(document: str, made: Sequence[str]) -> str:
    """The document with other tables."""
    before, _, rest = document.partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", "", *made, "", f"{END}{rest.partition(END)[2]}"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    parser.add_argument("--arithmetic", action="store_true", help="compile nothing")
    wanted = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    made = []
    for each in tables(not wanted.arithmetic and importlib.util.find_spec("libtpu") is not None):
        print(each, flush=True)
        made.append(each)
    if wanted.write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), made))
