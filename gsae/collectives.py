"""What a program moves between devices: read off its compiled text, and known beforehand from its types. A leaf.

Under explicit axes the second needs no compiler and no devices: a sum over an axis that is split, or an array that is
to be less split than it is, is all that moves anything.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_BYTES = {"pred": 1, "c64": 8, "c128": 16}
_NUMBERS = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count[\\"]*:\{[\\"]*n[\\"]*:[\\"]*(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        kind: one of `KINDS`.
        axes: the mesh axes along which devices exchange, in the mesh's order.
        shapes: of the results on one device.
        bytes: of the results on one device, each time.
        times: how often, in one run of the program.
    """

    kind: str
    axes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    times: int = 1

    @property
    def is_scalar(self) -> bool:
        """Whether only single numbers are exchanged."""
        return all(math.prod(shape) == 1 for shape in self.shapes)


def totals(collectives: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], int]:
    """Bytes of one run of the program by kind and axes, results on one device."""
    found: dict[tuple[str, tuple[str, ...]], int] = {}
    for one in collectives:
        found[one.kind, one.axes] = found.get((one.kind, one.axes), 0) + one.bytes * one.times
    return found


def compiled(text: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
        text: of the optimised HLO (`compiled.as_text()`); several arrays may share one instruction.
        mesh_shape: the mesh's sizes by axis, in its order (`mesh.shape`).
    """
    computations, entry = _computations(text)
    found: list[Collective] = []

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            match = _INSTRUCTION.search(line)
            if match:
                found.extend(_read(line, match, mesh_shape, times))
            trips = _trips(line, computations) if " while(" in line else 1
            branches = _BRANCHES.search(line)
            inside = _CALLED.findall(line) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])
            for called in inside:
                visit(called, times * trips)

    visit(entry, 1)
    return found


def _trips(line: str, computations: Mapping[str, Sequence[str]]) -> int:
    """How often a loop runs: as the compiler notes, or up to its condition's one constant, as jax writes it; else 1."""
    noted = _TRIPS.search(line)
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    if noted or not condition:
        return int(noted[1]) if noted else 1
    text = "\n".join(computations.get(condition[1], ()))
    bounds = re.findall(r"= [su]\d+\[\]\S* constant\((\d+)\)", text)
    return int(bounds[0]) if len(bounds) == 1 and "direction=LT" in text else 1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and which one is the program."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        begins = _COMPUTATION.match(line)
        if begins:
            lines = computations.setdefault(begins[2], [])
            entry = begins[2] if begins[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _read(line: str, match: re.Match[str], mesh_shape: Mapping[str, int], times: int) -> Iterator[Collective]:
    results = _NUMBERS.findall(match[1])
    if match[3] and match[2] in ("all-gather", "collective-permute"):  # started: operands first, then results
        results = results[len(results) // 2 :] if match[2] == "all-gather" else results[1:2]
    groups = _groups(line, math.prod(mesh_shape.values()))
    axes = _axes(groups, mesh_shape)
    if axes:
        shapes = tuple(tuple(int(n) for n in dims.split(",") if n) for _, dims in results)
        sizes = [math.prod(shape) * _width(kind) for (kind, _), shape in zip(results, shapes, strict=True)]
        yield Collective(match[2], axes, shapes, sum(sizes), times)


def _width(dtype: str) -> int:
    """Bytes of one number."""
    bits = re.match(r"[a-z]+(\d+)", dtype)
    return _BYTES.get(dtype) or max(int(bits[1]) // 8, 1) if bits else 1


def _groups(line: str, devices: int) -> list[list[int]]:
    """The groups of device numbers of a collective, whichever way they are written."""
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", line)
    listed = pairs or re.search(r"replica_groups=\{(\{.*?\})\}", line)
    if listed:
        return [[int(n) for n in part.split(",")] for part in re.findall(r"\{([\d,]+)\}?", listed[1])]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        sizes, reshape = _integers(iota[1]), _integers(iota[2])
        order = _integers(iota[3]) if iota[3] else list(range(len(reshape)))
        return np.arange(devices).reshape(reshape).transpose(order).reshape(sizes).tolist()
    named = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", line)
    return _named_groups(named[1], named[2], named[3], devices) if named else [list(range(devices))]


def _named_groups(axes: str, order: str | None, own: str, devices: int) -> list[list[int]]:
    """`mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}`; the order of devices is optional."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    numbers = np.arange(devices)
    if order:
        reshape, permutation = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order).groups()  # type: ignore[union-attr]
        numbers = numbers.reshape(_integers(reshape))
        numbers = numbers.transpose(_integers(permutation)) if permutation else numbers
    together = [i for i, name in enumerate(sizes) if f"'{name}'" in own]
    apart = [i for i in range(len(sizes)) if i not in together]
    numbers = numbers.reshape(list(sizes.values())).transpose(apart + together)
    return numbers.reshape(-1, int(np.prod(numbers.shape[len(apart) :]))).tolist()


def _axes(groups: Sequence[Sequence[int]], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the devices of a group differ, in any group."""
    sizes = tuple(mesh_shape.values())
    places = [np.asarray(np.unravel_index(np.asarray(group), sizes)) for group in groups]
    return tuple(name for i, name in enumerate(mesh_shape) if any((place[i] != place[i][0]).any() for place in places))


def _integers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def traced(jaxpr: Any) -> list[Collective]:
    """The collectives that a traced program needs, from the shardings in its types; results that nobody uses need none.

    Of a `cond`, those of the dearest branch; a `while` counts once, whatever its trips. What the compiler finds twice
    it may do once: small sums, as a rule.
    """
    program = getattr(jaxpr, "jaxpr", jaxpr)
    return _needed(program, [True] * len(program.outvars))[0]


def _needed(jaxpr: Any, wanted: Sequence[bool]) -> tuple[list[Collective], list[bool]]:
    """Those behind the wanted results of a program, and which of its arguments they need."""
    live = {v for v, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not hasattr(v, "val")}
    found: list[Collective] = []
    for equation in reversed(jaxpr.eqns):
        outputs = [v in live for v in equation.outvars]
        if any(outputs) or equation.effects:
            collectives, inputs = _of_equation(equation, outputs)
            found = collectives + found
            live.update(v for v, used in zip(equation.invars, inputs, strict=True) if used and not hasattr(v, "val"))
    return found, [v in live for v in jaxpr.invars]


def _of_equation(equation: Any, wanted: list[bool]) -> tuple[list[Collective], list[bool]]:
    everything = [True] * len(equation.invars)
    name, params = equation.primitive.name, equation.params
    programs = [program for value in params.values() for program in _programs(value)]
    if name == "cond":
        branches = [_needed(branch, wanted) for branch in programs]
        used = [any(column) for column in zip(*(inputs for _, inputs in branches), strict=True)]
        dearest = max((found for found, _ in branches), key=lambda found: sum(totals(found).values()))
        return dearest, [True, *used]
    if name == "scan":
        found, _ = _needed(programs[0], [True] * len(programs[0].outvars))
        return [dataclasses.replace(one, times=one.times * params["length"]) for one in found], everything
    if len(programs) == 1 and len(programs[0].invars) == len(everything):
        same = len(programs[0].outvars) == len(wanted)
        return _needed(programs[0], wanted if same else [True] * len(programs[0].outvars))
    if programs:
        return [one for p in programs for one in _needed(p, [True] * len(p.outvars))[0]], everything
    return _of_primitive(equation, name, params), everything


def _programs(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [program for part in value for program in _programs(part)]
    program = getattr(value, "jaxpr", value)
    return [program] if hasattr(program, "eqns") else []


def _of_primitive(equation: Any, name: str, params: Mapping[str, Any]) -> list[Collective]:
    if name == "reshard":
        return _resharded(equation)
    summed: set[str] = set()
    if name == "dot_general":
        (left, _), _ = params["dimension_numbers"]
        summed = _split_over(equation.invars[0].aval, left)
    elif name.startswith(("reduce_", "arg")) and "axes" in params:
        summed = _split_over(equation.invars[0].aval, params["axes"])
    if not summed:
        return []
    # One axis after the other, as the compiler does where a sum goes over two.
    return [_collective("all-reduce", {axis}, outvar.aval) for outvar in equation.outvars for axis in summed]


def _resharded(equation: Any) -> list[Collective]:
    """What an array is split over and is not to be split over any more has to be gathered."""
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    gathered = _split_over(before, range(before.ndim)) - _split_over(after, range(after.ndim))
    return [_collective("all-gather", gathered, after)] if gathered else []


def _split_over(aval: Any, dimensions: Iterable[int]) -> set[str]:
    """The mesh axes of more than one device over which some dimensions of an array are split."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return set()
    spec = tuple(sharding.spec)
    entries = [spec[i] for i in dimensions if i < len(spec)]
    names = {n for entry in entries if entry is not None for n in (entry if isinstance(entry, tuple) else (entry,))}
    return {name for name in names if sharding.mesh.shape[name] > 1}


def _collective(kind: str, axes: set[str], aval: Any) -> Collective:
    shape = tuple(aval.sharding.shard_shape(aval.shape))
    ordered = tuple(name for name in aval.sharding.mesh.axis_names if name in axes)
    return Collective(kind, ordered, (shape,), math.prod(shape) * aval.dtype.itemsize)
