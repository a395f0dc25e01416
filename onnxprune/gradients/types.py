"""Element types: which torch type carries which ONNX type, and arrays that become tensors and back.

Floats of 32 bits and less are computed in one type, float32 unless the module was converted, and rounded where they are written:
by a Cast, and in outputs that leave as arrays. Unsigned integers that torch cannot add are carried in the next wider type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import TensorProto, numpy_helper

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.operators import State
from onnxprune.graph.weights import BITS, Array, dtype_of, is_float

WIDE: dict[int, torch.dtype] = {TensorProto.DOUBLE: torch.float64}
INTEGERS: dict[int, torch.dtype] = {
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
}
PAIRS = ("INT2", torch.int8, (-2, 1)), ("UINT2", torch.uint8, (0, 3))  # newer than the oldest onnx that is supported
COMPLEX: dict[int, torch.dtype] = {TensorProto.COMPLEX64: torch.complex64, TensorProto.COMPLEX128: torch.complex128}
ROUNDED: dict[int, torch.dtype] = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535), TensorProto.INT32: (-(2**31), 2**31 - 1), TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
}  # fmt: skip
for _name, _type, _range in PAIRS:
    if _name in TensorProto.DataType.keys():
        INTEGERS[TensorProto.DataType.Value(_name)] = _type
        RANGES[TensorProto.DataType.Value(_name)] = _range
_RANGES_OF = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}


def choose_carrier(elem: int, state: State) -> torch.dtype:
    """The torch type that tensors of an ONNX element type are carried in."""
    dtype = WIDE.get(elem) or INTEGERS.get(elem) or COMPLEX.get(elem)
    if dtype is None and (elem == TensorProto.STRING or not is_float(dtype_of(elem))):
        raise OnnxPruneError(f"torch has no tensors of type {TensorProto.DataType.Name(elem)}")
    return dtype or state.dtype


def cast(x: torch.Tensor, elem: int, state: State, saturate: bool = True) -> torch.Tensor:
    """A tensor as another ONNX element type, rounded as that type rounds."""
    if elem in ROUNDED and x.is_floating_point():
        return x.to(ROUNDED[elem]).to(state.dtype)
    if elem in BITS or (elem not in INTEGERS and is_float(dtype_of(elem)) and dtype_of(elem).itemsize == 1):
        return round_to_type(x, elem, state, saturate)
    if elem in INTEGERS and x.is_floating_point():
        return x != 0 if elem == TensorProto.BOOL else x.trunc().to(INTEGERS[elem])
    return x.to(choose_carrier(elem, state))


def round_to_type(x: torch.Tensor, elem: int, state: State, saturate: bool = True) -> torch.Tensor:
    """Rounded to a type of 8 bits or fewer; the gradient of a float is the number's."""
    values, dtype = x.detach().cpu().numpy(), dtype_of(elem)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = numpy_helper.saturate_cast(values, dtype) if saturate and is_float(dtype) else values.astype(dtype)
    rounded = to_tensor(narrow, state, elem).to(x.device)
    return x + (rounded - x.detach()) if x.requires_grad and is_float(dtype) else rounded


def get_integer_range(elem: int, x: torch.Tensor | None) -> tuple[int, int]:
    """The least and the largest number of an integer type, given by ONNX or else by the tensor that has it."""
    if elem in RANGES:
        return RANGES[elem]
    return _RANGES_OF.get(x.dtype, (0, 255)) if x is not None else (0, 255)


def to_tensor(array: Any, state: State, elem: int = 0) -> torch.Tensor:
    """An array or tensor in the type that carries it; integers and floats stay where they are, on the CPU for an array."""
    if not isinstance(array, torch.Tensor):
        array = np.asarray(array)
        if array.dtype.kind in "OSU":
            raise OnnxPruneError("torch has no tensors of strings")
        array = torch.from_numpy(_plain(array))
    if elem:
        return array.to(choose_carrier(elem, state))
    return array.to(state.dtype) if array.dtype in (torch.float32, torch.float16, torch.bfloat16) else array


def _plain(array: Array) -> Array:
    """A writable array of a type that torch has."""
    if is_float(array.dtype) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    narrow = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
    narrow |= {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}
    return np.array(array, narrow.get(array.dtype.name, array.dtype), order="C")  # a copy: weights are read-only


def to_array(x: Any, elem: int) -> Any:
    """A tensor as the array of its ONNX type; a sequence as a list of them."""
    if isinstance(x, list):
        return [to_array(v, elem) for v in x]
    array = x.detach().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype_of(elem)) if elem and array.dtype != dtype_of(elem) else array
