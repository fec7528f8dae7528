"""How the axes of a checkpoint's tensor become those of a parameter, so that any part of it can be read alone.

An axis is a product of named parts, the outermost first: a fused projection whose file has the axes
`("head part number", "width")` fills the parameter `q` of axes `("width", "head number")` with `part` picked at 0.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Box = dict[str, tuple[int, int]]  # per named part, from where to where

PIECE = 2**18  # numbers asked of a file at a time; a piece of this size is transposed within a core's cache


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tensor of a file beside the parameter that it becomes, or fills.

    Args:
        file: the axes of the tensor in the file.
        parameter: the axes of the parameter.
        sizes: how large each named part is.
        picked: the parts that the parameter lacks, and which index of them it is.
    """

    file: tuple[str, ...]
    parameter: tuple[str, ...]
    sizes: Mapping[str, int]
    picked: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The tensor's shape in the file."""
        return tuple(self._count(axis.split()) for axis in self.file)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return tuple(self._count(axis.split()) for axis in self.parameter)

    def read(self, get: Callable[[tuple[slice, ...]], np.ndarray], index: Sequence[slice], dtype: Any) -> np.ndarray:
        """A part of the parameter, reading only those of the file's numbers that it consists of, piece by piece.

        Args:
            get: gives a part of the tensor in the file, by one slice for each of its axes.
            index: one slice for each axis of the parameter.
            dtype: of the result; the file's numbers are rounded to it.
        """
        box: Box = {part: (0, size) for part, size in self.sizes.items()}
        box |= {part: (i, i + 1) for part, i in self.picked.items()}
        trim = []
        for axis, wanted, size in zip(self.parameter, index, self.parameter_shape, strict=True):
            start, stop, _ = wanted.indices(size)
            covering, first = self._covering(axis.split(), start, stop)
            box |= covering
            trim.append(slice(start - first, stop - first))
        inside = _parts(self.parameter)
        result = _aligned([_length(box, [part]) for part in inside], np.dtype(dtype))
        for piece in self._pieces(box):
            array = get(tuple(slice(*self._span(axis.split(), piece)) for axis in self.file))
            place = tuple(slice(piece[part][0] - box[part][0], piece[part][1] - box[part][0]) for part in inside)
            result[place] = self._turned(array.reshape([_length(piece, [part]) for part in _parts(self.file)]))
        return result.reshape([_length(box, axis.split()) for axis in self.parameter])[tuple(trim)]

    def write(self, parameter: np.ndarray, into: np.ndarray) -> None:
        """Puts a whole parameter into its place in `into`, a contiguous array of the file's shape."""
        file, inside = _parts(self.file), _parts(self.parameter)
        parts = into.reshape([self.sizes[part] for part in file])  # splits axes only, hence a view
        ranges = {part: slice(i, i + 1) for part, i in self.picked.items()}
        self._turned(parts[tuple(ranges.get(part, slice(None)) for part in file)])[...] = parameter.reshape(
            [self.sizes[part] for part in inside]
        )

    def _turned(self, array: np.ndarray) -> np.ndarray:
        """A view of an array over the file's parts, the picked ones of length 1, in the parameter's order."""
        file = _parts(self.file)
        left = [part for part in file if part not in self.picked]
        array = array[tuple(0 if part in self.picked else slice(None) for part in file)]
        return array.transpose([left.index(part) for part in _parts(self.parameter)])

    def _covering(self, parts: Sequence[str], start: int, stop: int) -> tuple[Box, int]:
        """The smallest box that holds numbers start to stop - 1 of an axis, and its first number."""
        box, first = {}, 0
        for i, part in enumerate(parts):
            inner = self._count(parts[i + 1 :])
            low, high = start // inner, -(-stop // inner)
            box[part] = (low, high)
            first += low * inner
            start, stop = start - low * inner, stop - low * inner
            if high - low != 1:
                break
        return box, first

    def _pieces(self, box: Box) -> Iterator[Box]:
        """The box in small pieces, each contiguous along every axis of the file."""
        part = self._to_halve(box)
        if part is None:
            yield box
            return
        low, high = box[part]
        for half in ((low, (low + high) // 2), ((low + high) // 2, high)):
            yield from self._pieces(box | {part: half})

    def _to_halve(self, box: Box) -> str | None:
        for parts in map(str.split, self.file):
            for i, part in enumerate(parts):
                broken = any(box[inner] != (0, self.sizes[inner]) for inner in parts[i + 1 :])
                if broken and _length(box, [part]) > 1:
                    return part
        file = _parts(self.file)
        return next((part for part in file if _length(box, [part]) > 1), None) if _length(box, file) > PIECE else None

    def _span(self, parts: Sequence[str], piece: Box) -> tuple[int, int]:
        """Where a piece starts and stops along an axis of the file."""
        start = sum(piece[part][0] * self._count(parts[i + 1 :]) for i, part in enumerate(parts))
        return start, start + _length(piece, parts)

    def _count(self, parts: Sequence[str]) -> int:
        return math.prod(self.sizes[part] for part in parts)


def _parts(axes: Sequence[str]) -> list[str]:
    return [part for axis in axes for part in axis.split()]


def _length(box: Box, parts: Sequence[str]) -> int:
    """How many numbers a box has along some parts."""
    return math.prod(box[part][1] - box[part][0] for part in parts)


def _aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address from which a CPU device takes it without a copy."""
    length = math.prod(shape) * dtype.itemsize
    buffer = np.empty(length + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + length].view(dtype).reshape(shape)
