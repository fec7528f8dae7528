"""Parts of a parameter read from a file's tensor: the right numbers, and no others asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsae.language_models import layout
from gsae.language_models.layout import Layout

SIZES = {"head": 5, "part": 3, "number": 4, "width": 7, "neuron": 6}
LAYOUTS = {
    "as it is": Layout(("neuron", "width"), ("neuron", "width"), SIZES),
    "transposed": Layout(("neuron", "width"), ("width", "neuron"), SIZES),
    "vector": Layout(("width",), ("width",), SIZES),
    "heads apart in the file": Layout(("head", "width", "number"), ("width", "head number"), SIZES),
    "fused by head": Layout(("head part number", "width"), ("width", "head number"), SIZES, {"part": 1}),
    "fused by part": Layout(("width", "part head number"), ("width", "head number"), SIZES, {"part": 2}),
    "fused, reordered": Layout(("head part number", "width"), ("width", "part head number"), SIZES),
    "fused bias": Layout(("head part number",), ("head number",), SIZES, {"part": 0}),
}


class Asked:
    """A tensor of a file that counts the numbers asked of it."""

    def __init__(self, array):
        self.array, self.numbers, self.largest = array, 0, 0

    def __call__(self, index):
        assert len(index) == self.array.ndim
        found = self.array[index]
        self.numbers += found.size
        self.largest = max(self.largest, found.size)
        return found


def tensor(case):
    return np.arange(np.prod(case.file_shape), dtype=np.float32).reshape(case.file_shape)


def whole(case):
    return case.read(Asked(tensor(case)), [slice(None)] * len(case.parameter), np.float32)


def test_the_fused_projection_of_gpt_neox():
    rows = tensor(LAYOUTS["fused by head"])
    for part in range(3):
        case = Layout(("head part number", "width"), ("width", "head number"), SIZES, {"part": part})
        expected = rows.reshape(5, 3, 4, 7)[:, part].reshape(20, 7).T
        np.testing.assert_array_equal(whole(case), expected)


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("piece", [1, 8, 2**18])
def test_reading_undoes_writing_and_asks_for_each_number_once(case, piece, monkeypatch):
    monkeypatch.setattr(layout, "PIECE", piece)
    parameter = np.random.default_rng(0).normal(size=case.parameter_shape).astype(np.float32)
    into = np.full(case.file_shape, np.nan, np.float32)
    case.write(parameter, into)
    assert np.isfinite(into).sum() == parameter.size
    asked = Asked(into)
    np.testing.assert_array_equal(case.read(asked, [slice(None)] * parameter.ndim, np.float32), parameter)
    assert asked.numbers == parameter.size
    assert asked.largest <= max(piece, 1)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_slice_is_read_alone(data):
    case = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    index = []
    for size in case.parameter_shape:
        start = data.draw(st.integers(0, size - 1))
        index.append(slice(start, data.draw(st.integers(start + 1, size))))
    asked = Asked(tensor(case))
    part = case.read(asked, index, np.float32)
    np.testing.assert_array_equal(part, whole(case)[tuple(index)])
    if "part head number" in case.parameter:
        return  # a range over all three projections has the heads between its ends
    aligned = part.size
    for axis, wanted in zip(case.parameter, index, strict=True):
        if axis.endswith("head number"):  # whole heads are read
            width = wanted.stop - wanted.start
            aligned = aligned // width * (4 * (-(-wanted.stop // 4) - wanted.start // 4))
    assert asked.numbers <= aligned


def test_the_numbers_are_rounded_to_the_dtype_asked_for():
    case = LAYOUTS["transposed"]
    assert case.read(Asked(tensor(case) / 3), [slice(None)] * 2, np.float16).dtype == np.float16
    assert case.read(Asked(tensor(case)), [slice(0, 2), slice(None)], np.float32).ctypes.data % 64 == 0
