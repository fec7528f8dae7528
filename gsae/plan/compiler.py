"""What the compiler says about a program: memory, FLOPs, bytes, and what devices send each other."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from gsae.collectives import Collective, compiled
from gsae.roofline.estimate import all_gather, all_reduce


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, on one device.

    Attributes:
        arguments, temporaries, results, peak: bytes of memory; results that take an argument's place are none.
        flops, bytes: as the compiler counts them: the body of a loop once, however often it runs.
        collectives: read off the compiled text, loops counted.
        sent: bytes that a device sends for them, on rings.
        refused: what the compiler said where the program does not fit; everything else is 0 then.
    """

    arguments: int = 0
    temporaries: int = 0
    results: int = 0
    peak: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    sent: float = 0.0
    refused: str = ""


def compile_program(program: Any, *arguments: Any, mesh_shape: Mapping[str, int], **static: Any) -> Compiled:
    """Compiles a jitted program for abstract arguments, whose shardings say for what devices."""
    try:
        found = program.lower(*arguments, **static).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = re.search(r"(Ran out of memory.*?)(?:\n|$)", str(error))
        return Compiled(refused=reason[1] if reason else "it needs more memory than there is")
    memory, costs = found.memory_analysis(), found.cost_analysis()
    collectives = tuple(compiled(found.as_text(), mesh_shape))
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    whole = memory.argument_size_in_bytes + memory.temp_size_in_bytes + results
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        results=results,
        peak=getattr(memory, "peak_memory_in_bytes", 0) or whole,
        flops=float(costs.get("flops", 0.0)),
        bytes=float(costs.get("bytes accessed", 0.0)),
        collectives=collectives,
        sent=sum(sent(one, mesh_shape) for one in collectives),
    )


def sent(one: Collective, mesh_shape: Mapping[str, int]) -> float:
    """Bytes that a device sends for a collective in all its times."""
    ring = 1
    for axis in one.axes:
        ring *= mesh_shape[axis]
    if one.kind == "all-reduce":
        return one.times * all_reduce(one.bytes, ring)
    if one.kind == "reduce-scatter":
        return one.times * all_gather(one.bytes * ring, ring)
    return one.times * all_gather(one.bytes, ring)
