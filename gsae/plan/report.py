"""A plan as lines for the terminal. Every figure says whether it was compiled or is arithmetic."""

from collections.abc import Iterator

from gsae.collectives import totals
from gsae.plan.compiler import Compiled
from gsae.plan.plan import PROVENANCE, Plan
from gsae.roofline.choice import explain

REACHED = 0.5  # of the roofline: about what the one public figure of such a training reaches (docs/scale.md)


def lines(plan: Plan, price: float | None) -> Iterator[str]:
    """The whole report; `price` of a chip and hour."""
    topology = plan.topology
    how = "arithmetic, no compiler" if topology.devices is None else "compiled"
    chip = topology.chip
    cores = "" if topology.count == topology.chips else f", {topology.count} devices"
    peak, assumed = chip.peak(plan.compute_dtype) / 1e12, " (assumed)" if chip.assumed else ""
    yield (
        f"{topology.name}: {topology.chips} {chip.name} chips{cores}; each device {peak:.4g} TFLOP/s "
        f"({plan.compute_dtype}), {chip.memory / 1e9:.3g} GB at {chip.memory_bandwidth / 1e9:.4g} GB/s{assumed}; {how}"
    )
    yield from explain(plan.ranked, chip)
    for candidate, said in plan.refused:
        yield f"  the compiler refuses {candidate.sizes}: {said}"
    for group in plan.groups:
        yield f"group: {group.describe()}"
    yield from _step(plan)
    yield from _stages(plan)
    yield from _run(plan, price)
    yield from _memory(plan)  # last: the language model's programs take longest to compile


def _memory(plan: Plan) -> Iterator[str]:
    asked, there = plan.chosen.demand, plan.topology.chip.memory
    yield "memory of a device, GB:"
    model = plan.model.bytes / plan.config.language_model.parts if plan.model else 0.0
    loaded = f" + language model {model / 1e9:.3g}" if model else ""
    peak = asked.peak + model
    yield (
        f"  training, arithmetic: arguments {asked.arguments / 1e9:.3g} + temporaries {asked.temporaries / 1e9:.3g}"
        f"{loaded} = {peak / 1e9:.3g} of {there / 1e9:.3g}"
    )
    fits = peak <= there
    if plan.steps and not plan.refused_all:
        arguments = sum(step.arguments for step in plan.steps.values())
        temporaries = max(step.temporaries + step.results for step in plan.steps.values())
        # The groups' updates take turns; the states of all of them stay.
        most = max(arguments - step.arguments + step.peak for step in plan.steps.values()) + model
        fits = most <= there
        yield (
            f"  training, compiled: arguments {arguments / 1e9:.3g} + temporaries {temporaries / 1e9:.3g}{loaded}; "
            f"peak {most / 1e9:.3g}"
        )
    fits = fits and not plan.refused_all
    for name, stage in (("harvest", plan.harvest), ("live rows", plan.live), ("evaluation", plan.evaluation)):
        for program, found in stage.programs.items() if stage else ():
            yield f"  {name}, {program}, {_held(found)}"
            fits = fits and not found.refused
    yield "  it fits" if fits else "  IT DOES NOT FIT"


def _held(found: Compiled) -> str:
    if found.refused:
        return f"refused by the compiler: {found.refused}"
    return (
        f"compiled: arguments {found.arguments / 1e9:.3g} + temporaries {found.temporaries / 1e9:.3g} + results "
        f"{found.results / 1e9:.3g}; peak {found.peak / 1e9:.3g}"
    )


def _step(plan: Plan) -> Iterator[str]:
    asked, line, sizes = plan.chosen.demand, plan.roofline, plan.chosen.sizes
    yield (
        f"one step of all groups, a device (arithmetic): {asked.flops / 1e12:.4g} TFLOP of matrix products, "
        f"{asked.memory_bytes / 1e9:.4g} GB of memory traffic, {asked.collective_bytes / 1e9:.4g} GB sent in "
        f"{asked.collectives} collectives, {asked.host_bytes / 1e6:.4g} MB from the host"
    )
    for name, found in plan.steps.items():
        if not found.refused:
            yield f"  compiled {name}: {_compiled(found)}"
    yield (
        f"  roofline, ms: matmul {1e3 * line.matmul:.4g}, memory {1e3 * line.memory:.4g}, collectives "
        f"{1e3 * line.collectives:.4g}, host to device {1e3 * line.host_to_device:.4g}; step {1e3 * line.seconds:.4g}, "
        f"bound by {line.bound}"
    )
    tokens = plan.config.training.batch_size / line.seconds
    peak = plan.topology.chip.peak(plan.compute_dtype)
    yield (
        f"  {tokens:,.0f} tokens/s, model FLOP utilisation {asked.useful_flops / peak / line.seconds:.0%} at the "
        f"roofline on {sizes.devices} devices"
    )


def _compiled(found: Compiled) -> str:
    moved = ", ".join(
        f"{kind} over {' and '.join(axes)} {size / 1e6:.4g} MB"
        for (kind, axes), size in totals(found.collectives).items()
    )
    return (
        f"{found.flops / 1e12:.4g} TFLOP and {found.bytes / 1e9:.4g} GB for each member that a device holds "
        f"(loops counted once); {moved or 'no collectives'}; {found.sent / 1e9:.4g} GB sent"
    )


def _stages(plan: Plan) -> Iterator[str]:
    if plan.config.activations.source != "live":
        disk = plan.rows * (plan.row_bytes + PROVENANCE)
        reading = plan.config.training.batch_size * plan.row_bytes / plan.roofline.seconds
        yield (
            f"store (arithmetic): {plan.rows:,} rows of {plan.row_bytes:,} bytes, {_size(disk)} on disk; training "
            f"reads {reading / 1e9:.3g} GB/s at the roofline"
        )
    if plan.harvest:
        yield f"harvest (arithmetic): {_time(plan.harvest.seconds)}, {plan.harvest.flops:.3g} FLOP; {_writes(plan)}"
    if plan.live:
        yield f"live rows (arithmetic): {_time(plan.live.seconds)} of the language model within the training"
    if plan.evaluation:
        yield f"evaluation (arithmetic): {_time(plan.evaluation.seconds)}, {plan.evaluation.flops:.3g} FLOP"


def _writes(plan: Plan) -> str:
    assert plan.harvest is not None
    rate = plan.rows * (plan.row_bytes + PROVENANCE) / plan.harvest.seconds
    return f"the disk would have to take {rate / 1e9:.3g} GB/s"


def _run(plan: Plan, price: float | None) -> Iterator[str]:
    for share, words in ((1.0, "at the roofline"), (REACHED, f"at {REACHED:.0%} of it, as published runs reach")):
        seconds = plan.seconds / share
        hours = seconds / 3600 * plan.topology.chips
        money = "" if price is None else f", {hours * price:,.2f} at {price:g} a chip hour"
        yield f"whole run {words}: {_time(seconds)}, {hours:.4g} chip hours{money}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 3600:.3g} h"


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count < 1e12 else f"{count / 1e12:.3g} TB"
