"""How much of the machine a training step uses: its matrix-product FLOPs, and the published peaks of known chips."""

from typing import Any

import jax
import numpy as np

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
    """FLOPs of all matrix products of a traced program, over all devices, two for each multiply-add.

    Counted here because XLA's own cost analysis takes the body of a loop once, however often it runs, and the members
    of a group are a loop. A `while` whose trips are not known counts once; of a `cond`, the dearest branch.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [count_flops(sub) for value in equation.params.values() for sub in _jaxprs(value)]
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * float(np.prod(out)) * float(np.prod([left[axis] for axis in contracted]))
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        elif name == "cond":
            total += max(inner, default=0.0)
        else:
            total += sum(inner)
    return total


def _jaxprs(value: Any) -> list[Any]:
    """The programs in one parameter of an equation."""
    if hasattr(value, "eqns"):
        return [value]
    if hasattr(value, "jaxpr"):
        return _jaxprs(value.jaxpr)
    if isinstance(value, (tuple, list)):
        return [jaxpr for part in value for jaxpr in _jaxprs(part)]
    return []
