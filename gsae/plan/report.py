"""A plan as lines for the terminal: arithmetic at once, then what each program compiles to, as it comes.

Every figure says whether it was compiled or is arithmetic.
"""

from collections.abc import Callable, Iterator, Mapping

from gsae.collectives import totals
from gsae.plan.compilations import Compilations
from gsae.plan.compiler import Compiled
from gsae.plan.plan import PROVENANCE, Plan
from gsae.roofline.choice import explain
from gsae.roofline.estimate import Roofline

REACHED = 0.5  # of the roofline: about what the one public figure of such a training reaches (docs/scale.md)


def lines(plan: Plan, price: float | None = None, compilations: Compilations | None = None) -> Iterator[str]:
    """The whole report; `price` of a chip and hour. Without a compiler it ends with the arithmetic."""
    topology = plan.topology
    chip = topology.chip
    cores = "" if topology.count == topology.chips else f", {topology.count} devices"
    peak, assumed = chip.peak(plan.settings.compute_dtype) / 1e12, " (assumed)" if chip.assumed else ""
    if chip.unverified:
        assumed += f" (no published {' or '.join(chip.unverified)} was found: assumed)"
    how = "arithmetic first" if compilations else "arithmetic, no compiler"
    yield (
        f"{topology.name}: {topology.chips} {chip.name} chips{cores}; each device {peak:.4g} TFLOP/s "
        f"({plan.settings.compute_dtype}), {chip.memory / 1e9:.3g} GB at {chip.memory_bandwidth / 1e9:.4g} GB/s"
        f"{assumed}; {how}"
    )
    yield from _arithmetic(plan, price)
    if compilations:
        yield from _compiled(plan, price, compilations)


def _arithmetic(plan: Plan, price: float | None) -> Iterator[str]:
    yield from explain(plan.ranked, plan.topology.chip)
    for group in plan.groups:
        yield f"group: {group.describe()}"
    asked, there = plan.chosen.demand, plan.topology.chip.memory
    yield (
        f"one step of all groups, a device: {asked.flops / 1e12:.4g} TFLOP of matrix products, "
        f"{asked.memory_bytes / 1e9:.4g} GB of memory traffic, {asked.collective_bytes / 1e9:.4g} GB sent in "
        f"{asked.collectives} collectives, {asked.host_bytes / 1e6:.4g} MB from the host"
    )
    yield from _roofline(plan, plan.roofline())
    yield from _stages(plan)
    yield from _run(plan, plan.roofline(), price)
    peak = asked.peak + plan.loaded
    yield (
        f"memory of a device while training, GB: arguments {asked.arguments / 1e9:.3g} + temporaries "
        f"{asked.temporaries / 1e9:.3g}{_model(plan)} = {peak / 1e9:.3g} of {there / 1e9:.3g}"
    )
    yield _verdict(plan, peak <= there, "by arithmetic")


def _compiled(plan: Plan, price: float | None, compilations: Compilations) -> Iterator[str]:
    topology = plan.topology
    effort = "quickly, as --thorough would not" if compilations.quick else "as for a run"
    yield f"compiled for {topology.name} ({effort}), as it comes:"
    forward = "harvest" if plan.harvest else "live rows"
    stage, sizes = plan.harvest or plan.live, plan.chosen.sizes
    waiting: list[tuple[str, Callable[[], Compiled]]] = []
    for attempt in plan.candidates():
        if attempt.chosen is not plan.chosen:
            plan = attempt
            yield from _arithmetic(plan, price)
        started = [(name, compilations.start(program)) for name, program in plan.lower_steps()]
        if stage and not waiting:
            waiting = [(f"{forward}, {name}", compilations.start(one)) for name, one in stage.lower(sizes)]
        steps: dict[str, Compiled] = {}
        for name, result in started:
            steps[name] = result()
            yield f"  {name}: {_step(steps[name])}"
        refused = next((step.refused for step in steps.values() if step.refused), "")
        if not refused:
            break
        yield f"  the compiler refuses {plan.chosen.sizes}"
    fits = not refused
    if not refused:
        most = _most(plan, steps)
        fits = most <= topology.chip.memory
        yield f"  training: all groups{_model(plan)}; peak {most / 1e9:.3g} GB of {topology.chip.memory / 1e9:.3g}"
        yield from _roofline(plan, plan.roofline(steps), "with the compiled collectives")
        yield from _run(plan, plan.roofline(steps), price)
    if plan.evaluation:
        programs = plan.evaluation.lower(plan.chosen.sizes)
        waiting += [(f"evaluation, {name}", compilations.start(program)) for name, program in programs]
    for name, result in waiting:
        found = result()
        yield f"  {name}: {_held(found)}"
        fits = fits and not found.refused
    if compilations.reused:
        yield f"  {compilations.reused} of these programs were compiled by an earlier plan (--cache)"
    yield _verdict(plan, fits, "as compiled")


def _verdict(plan: Plan, fits: bool, how: str) -> str:
    if fits:
        return f"  it fits, {how}"
    alone = 2 * plan.loaded > plan.topology.chip.memory
    parts = "; config.language_model.parts splits the language model over the devices of a host" if alone else ""
    return f"  IT DOES NOT FIT, {how}{parts}"


def _most(plan: Plan, steps: Mapping[str, Compiled]) -> float:
    """Bytes of a device at the peak: the groups' updates take turns, the states of all of them stay."""
    arguments = sum(step.arguments for step in steps.values())
    return max(arguments - step.arguments + step.peak for step in steps.values()) + plan.loaded


def _model(plan: Plan) -> str:
    return f" + language model {plan.loaded / 1e9:.3g}" if plan.model else ""


def _held(found: Compiled) -> str:
    if found.refused:
        return f"refused by the compiler: {found.refused}"
    return (
        f"GB: arguments {found.arguments / 1e9:.3g} + temporaries {found.temporaries / 1e9:.3g} + results "
        f"{found.results / 1e9:.3g}, peak {found.peak / 1e9:.3g}"
    )


def _step(found: Compiled) -> str:
    if found.refused:
        return _held(found)
    moved = ", ".join(
        f"{kind} over {' and '.join(axes)} {size / 1e6:.4g} MB"
        for (kind, axes), size in totals(found.collectives).items()
    )
    return (
        f"{_held(found)}; {found.flops / 1e12:.4g} TFLOP and {found.bytes / 1e9:.4g} GB touched for each member that a "
        f"device holds (loops counted once); {moved or 'no collectives'}; {found.sent / 1e9:.4g} GB sent"
    )


def _roofline(plan: Plan, line: Roofline, which: str = "") -> Iterator[str]:
    which = f" {which}" if which else ""
    yield (
        f"  roofline{which}, ms: matmul {1e3 * line.matmul:.4g}, memory {1e3 * line.memory:.4g}, collectives "
        f"{1e3 * line.collectives:.4g}, host to device {1e3 * line.host_to_device:.4g}; step {1e3 * line.seconds:.4g}, "
        f"bound by {line.bound}"
    )
    tokens = plan.config.training.batch_size / line.seconds
    peak = plan.topology.chip.peak(plan.settings.compute_dtype)
    yield (
        f"  {tokens:,.0f} tokens/s, model FLOP utilisation {plan.chosen.demand.useful_flops / peak / line.seconds:.0%} "
        f"at the roofline on {plan.chosen.sizes.devices} devices"
    )


def _stages(plan: Plan) -> Iterator[str]:
    if plan.config.activations.source != "live":
        disk = plan.rows * (plan.row_bytes + PROVENANCE)
        reading = plan.config.training.batch_size * plan.row_bytes / plan.roofline().seconds
        yield (
            f"store: {plan.rows:,} rows of {plan.row_bytes:,} bytes, {_size(disk)} on disk; training "
            f"reads {reading / 1e9:.3g} GB/s at the roofline"
        )
    if plan.harvest:
        yield f"harvest: {_time(plan.harvest.seconds)}, {plan.harvest.flops:.3g} FLOP; {_writes(plan)}"
    if plan.live:
        yield f"live rows: {_time(plan.live.seconds)} of the language model within the training"
    if plan.evaluation:
        yield f"evaluation: {_time(plan.evaluation.seconds)}, {plan.evaluation.flops:.3g} FLOP"


def _writes(plan: Plan) -> str:
    assert plan.harvest is not None
    rate = plan.rows * (plan.row_bytes + PROVENANCE) / plan.harvest.seconds
    return f"the disk would have to take {rate / 1e9:.3g} GB/s"


def _run(plan: Plan, roofline: Roofline, price: float | None) -> Iterator[str]:
    for share, words in ((1.0, "at the roofline"), (REACHED, f"at {REACHED:.0%} of it, as published runs reach")):
        seconds = plan.seconds(roofline) / share
        hours = seconds / 3600 * plan.topology.chips
        money = "" if price is None else f", {hours * price:,.2f} at {price:g} a chip hour"
        yield f"whole run {words}: {_time(seconds)}, {hours:.4g} chip hours{money}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 3600:.3g} h"


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count < 1e12 else f"{count / 1e12:.3g} TB"
