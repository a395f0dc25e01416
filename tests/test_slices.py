"""Slices of weights: what numpy would take, of every type, and nothing out of range."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from io_models import NARROW, values
from onnx import TensorProto, numpy_helper

from onnxprune.graph.weights import ArrayWeight, SlicedWeight


@st.composite
def slices(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """An array, and (axis, indices) pairs that are in range when they are taken one after another."""
    array = draw(hnp.arrays(np.int16, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7)))
    shape, keep = list(array.shape), []
    for axis in draw(st.lists(st.integers(0, array.ndim - 1), max_size=5)):
        indices = draw(st.lists(st.integers(0, shape[axis] - 1), max_size=7)) if shape[axis] else []
        keep.append((axis, np.array(indices, dtype=np.int64)))
        shape[axis] = len(indices)
    return array, keep


@given(slices(), st.integers(0, 5), st.sampled_from([1, 16, 1 << 22]))
def test_a_slice_is_what_numpy_takes(
    case: tuple[np.ndarray, list[tuple[int, np.ndarray]]], cut: int, block_bytes: int
) -> None:
    array, keep = case
    expected = array
    for axis, indices in keep:
        expected = expected.take(indices, axis)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.graph.weights.BLOCK_BYTES", block_bytes)
        for weight in (
            SlicedWeight(ArrayWeight(array), keep),
            SlicedWeight(SlicedWeight(ArrayWeight(array), keep[:cut]), keep[cut:]),
        ):
            assert (weight.shape, weight.nbytes, weight.data_type) == (
                expected.shape,
                expected.nbytes,
                TensorProto.INT16,
            )
            assert isinstance(weight.base, ArrayWeight)
            np.testing.assert_array_equal(weight.array(), expected, strict=True)
            assert bytes(weight.raw()) == expected.tobytes()


@pytest.mark.parametrize("dtype", NARROW.values(), ids=NARROW)
def test_slices_of_every_type(dtype: Any) -> None:
    array, keep = values(dtype, (6, 5, 3)), [(1, np.array([0, 3])), (0, np.array([5, 1, 2]))]
    weight = SlicedWeight(ArrayWeight(array), keep)
    expected = array[[5, 1, 2]][:, [0, 3]]
    np.testing.assert_array_equal(weight.array(), expected)
    assert bytes(weight.raw()) == numpy_helper.from_array(np.ascontiguousarray(expected)).raw_data
    assert weight.nbytes == len(weight.raw())


@pytest.mark.parametrize("keep", [(2, [0]), (-1, [0]), (0, [4]), (0, [-1]), (0, [[0]]), (0, [0.5])])
def test_slices_out_of_range(keep: tuple[int, Any]) -> None:
    with pytest.raises(ValueError, match="axis"):
        SlicedWeight(ArrayWeight(np.zeros((4, 4))), [(keep[0], np.array(keep[1]))])
