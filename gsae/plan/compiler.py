"""What the compiler says about a program: memory, FLOPs, bytes, and what devices send each other."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax

from gsae.collectives import Collective, compiled
from gsae.roofline.estimate import all_gather, all_reduce

QUICK: dict[str, Any] = {"optimization_level": 9}  # XLA's O0; a number, as both the oldest and the newest jax take it


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

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def of_plain(cls, given: Mapping[str, Any]) -> "Compiled":
        """The inverse of `plain`; raises TypeError or KeyError for anything else."""
        collectives = tuple(
            Collective(**{**one, "axes": tuple(one["axes"]), "shapes": tuple(tuple(shape) for shape in one["shapes"])})
            for one in given["collectives"]
        )
        return cls(**{**given, "collectives": collectives})


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is ready to be compiled, for devices that may not be there.

    Attributes:
        lowered: traced for abstract arguments and lowered.
        mesh_shape: sizes of the axes of its mesh, in their order.
        devices: their numbers, in the mesh's order.
    """

    lowered: jax.stages.Lowered
    mesh_shape: Mapping[str, int]
    devices: tuple[int, ...]

    @classmethod
    def of(cls, program: Any, *arguments: Any, mesh: jax.sharding.Mesh, **static: Any) -> "Program":
        """A jitted program for abstract arguments, whose shardings say where they are on the mesh."""
        devices = tuple(device.id for device in mesh.devices.flat)
        return cls(program.lower(*arguments, **static), dict(mesh.shape), devices)

    def compile(self, quickly: bool = False) -> Compiled:
        """Compiles it.

        Args:
            quickly: whether the TPU's compiler may search less for fast code, which is most of what it does: FLOPs,
                arguments and collectives are the same, temporaries about the same (docs/scale.md).
        """
        try:
            found = self.lowered.compile(compiler_options=QUICK if quickly else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = re.search(r"(Ran out of memory.*?)(?:\n|$)", str(error))
            return Compiled(refused=reason[1] if reason else "it needs more memory than there is")
        memory, costs = found.memory_analysis(), found.cost_analysis() or {}
        assert memory is not None, "a compiler that knows no memory"
        collectives = tuple(compiled(found.as_text() or "", self.mesh_shape))
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
            sent=sum(sent(one, self.mesh_shape) for one in collectives),
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
