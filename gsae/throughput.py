"""How much of the machine a program uses: its matrix-product FLOPs, and the published peaks of known chips. A leaf."""

import math
from collections.abc import Sequence
from typing import Any

import jax

# Dense bfloat16 FLOP/s of one jax device, as published by the maker; the first name found in `device_kind` counts.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p calls itself so
    "TPU v6": 918e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of one device, bfloat16 operands and no sparsity; None where it is not known, as on any CPU."""
    return next((peak for name, peak in PEAKS.items() if name in device.device_kind), None)


def count_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products that a traced program needs, over all devices, two for each multiply-add.

    Counted here because XLA's own cost analysis takes the body of a loop once, however often it runs, and the members
    of a group are a loop. Products whose result nobody uses are left out, as the compiler does (gradients with regard
    to a constant, say). A `while` counts once, whatever its trips; of a `cond`, the dearest branch.
    """
    program = getattr(jaxpr, "jaxpr", jaxpr)
    return _needed(program, [True] * len(program.outvars))[0]


def _needed(jaxpr: Any, wanted: Sequence[bool]) -> tuple[float, list[bool]]:
    """FLOPs behind the wanted results of a program, and which of its arguments they need."""
    live = {var for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not _is_literal(var)}
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        outputs = [var in live for var in equation.outvars]
        if any(outputs) or equation.effects:
            flops, inputs = _equation(equation, outputs)
            total += flops
            live.update(v for v, needed in zip(equation.invars, inputs, strict=True) if needed and not _is_literal(v))
    return total, [var in live for var in jaxpr.invars]


def _equation(equation: Any, wanted: list[bool]) -> tuple[float, list[bool]]:
    """FLOPs of one equation, and which of its operands its wanted results need."""
    everything = [True] * len(equation.invars)
    name, params = equation.primitive.name, equation.params
    programs = [program for value in params.values() for program in _programs(value)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted), everything
    if name == "scan":
        return _scan(equation, programs[0], wanted)
    if name == "cond":
        return max(_needed(branch, wanted)[0] for branch in programs), everything
    if len(programs) == 1 and len(programs[0].invars) == len(everything) and len(programs[0].outvars) == len(wanted):
        return _needed(programs[0], wanted)  # a jitted function and the like
    return sum(_needed(program, [True] * len(program.outvars))[0] for program in programs), everything


def _scan(equation: Any, body: Any, wanted: list[bool]) -> tuple[float, list[bool]]:
    """A loop: what a trip carries is wanted if any later trip needs it."""
    # Told by their ranks, because the names of the parameters differ between versions of jax: what is carried has the
    # shape that the body gives it, what is stacked or taken apart has one axis more outside than inside.
    carried = _same_rank(equation.outvars, body.outvars)
    constants = _same_rank(equation.invars, body.invars) - carried
    while True:
        flops, inputs = _needed(body, wanted)
        carry = [a or b for a, b in zip(wanted[:carried], inputs[constants : constants + carried], strict=True)]
        if carry == wanted[:carried]:
            return equation.params["length"] * flops, inputs
        wanted = carry + wanted[carried:]


def _same_rank(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True))


def _programs(value: Any) -> list[Any]:
    """The programs in one parameter of an equation."""
    if hasattr(value, "eqns"):
        return [value.jaxpr if hasattr(value, "jaxpr") else value]
    if hasattr(value, "jaxpr"):
        return _programs(value.jaxpr)
    if isinstance(value, (tuple, list)):
        return [program for part in value for program in _programs(part)]
    return []


def _is_literal(var: Any) -> bool:
    return hasattr(var, "val")  # a constant written into the program, not a variable
