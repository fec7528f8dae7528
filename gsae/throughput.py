"""How much of the machine a program uses: its matrix products and their FLOPs, and the peaks of known chips. A leaf."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from gsae import chips


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product of a traced program.

    Attributes:
        left, right, out: shapes of its operands and its result.
        contracted: lengths of the axes that are summed over.
        dtype: of the operands.
        times: how often the program computes it.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    out: tuple[int, ...]
    contracted: tuple[int, ...]
    dtype: Any
    times: int = 1

    @property
    def flops(self) -> float:
        """Two for each multiply-add, of all its times."""
        return 2.0 * self.times * math.prod(self.out) * math.prod(self.contracted)


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of one device, bfloat16 operands and no sparsity; None where it is not known, as on any CPU."""
    chip = chips.known(device.device_kind)
    return None if chip is None else chip.bfloat16


def count_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products that a traced program needs, over all devices, two for each multiply-add.

    Counted here because XLA's own cost analysis takes the body of a loop once, however often it runs, and the members
    of a group are a loop. Products whose result nobody uses are left out, as the compiler does (gradients with regard
    to a constant, say). A `while` counts once, whatever its trips; of a `cond`, the dearest branch.
    """
    return sum(product.flops for product in matrix_products(jaxpr))


def matrix_products(jaxpr: Any) -> list[Product]:
    """The matrix products that a traced program needs, as `count_flops` counts them, with their global shapes."""
    program = getattr(jaxpr, "jaxpr", jaxpr)
    return _needed(program, [True] * len(program.outvars))[0]


def _flops(products: Sequence[Product]) -> float:
    return sum(product.flops for product in products)


def _needed(jaxpr: Any, wanted: Sequence[bool]) -> tuple[list[Product], list[bool]]:
    """Products behind the wanted results of a program, and which of its arguments they need."""
    live = {var for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not _is_literal(var)}
    found: list[Product] = []
    for equation in reversed(jaxpr.eqns):
        outputs = [var in live for var in equation.outvars]
        if any(outputs) or equation.effects:
            products, inputs = _equation(equation, outputs)
            found += products
            live.update(v for v, needed in zip(equation.invars, inputs, strict=True) if needed and not _is_literal(v))
    return found, [var in live for var in jaxpr.invars]


def _equation(equation: Any, wanted: list[bool]) -> tuple[list[Product], list[bool]]:
    """Products of one equation, and which of its operands its wanted results need."""
    everything = [True] * len(equation.invars)
    name, params = equation.primitive.name, equation.params
    programs = [program for value in params.values() for program in _programs(value)]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, right = (operand.aval for operand in equation.invars)
        lengths = tuple(left.shape[axis] for axis in contracted)
        return [Product(left.shape, right.shape, equation.outvars[0].aval.shape, lengths, left.dtype)], everything
    if name == "scan":
        return _scan(equation, programs[0], wanted)
    if name == "cond":
        return max((_needed(branch, wanted)[0] for branch in programs), key=_flops), everything
    if len(programs) == 1 and len(programs[0].invars) == len(everything) and len(programs[0].outvars) == len(wanted):
        return _needed(programs[0], wanted)  # a jitted function and the like
    return [p for program in programs for p in _needed(program, [True] * len(program.outvars))[0]], everything


def _scan(equation: Any, body: Any, wanted: list[bool]) -> tuple[list[Product], list[bool]]:
    """A loop: what a trip carries is wanted if any later trip needs it."""
    # Told by their ranks, because the names of the parameters differ between versions of jax: what is carried has the
    # shape that the body gives it, what is stacked or taken apart has one axis more outside than inside.
    carried = _same_rank(equation.outvars, body.outvars)
    constants = _same_rank(equation.invars, body.invars) - carried
    while True:
        products, inputs = _needed(body, wanted)
        carry = [a or b for a, b in zip(wanted[:carried], inputs[constants : constants + carried], strict=True)]
        if carry == wanted[:carried]:
            trips = equation.params["length"]
            return [dataclasses.replace(product, times=trips * product.times) for product in products], inputs
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
