"""The known shapes and values of tensors at two sample input shapes, read-only. graph/trace.py computes them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, TypeProto

from onnxprune.axes import Size, size_of
from onnxprune.graph.sample_sizes import Sizes
from onnxprune.ops.records import Values

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
DIVISIBLE = 5040  # a guessed size may be divided by what it likes
Varying = Mapping[str, set[int] | None]  # axes of a value that a loop carries whose size changes (None: all)


@dataclass
class Facts:
    """Shapes, element types and small values by name, and how far they can be trusted."""

    opsets: Mapping[str, int]
    sizes: Sizes = field(default_factory=dict)  # the samples of the dynamic axes
    from_shapes: AbstractSet[str] = field(default_factory=set)  # values that a Shape or Size node had a part in
    asserted: AbstractSet[str] = field(default_factory=set)  # pieces of an axis whose size only the data know
    guesses: AbstractSet[str] = field(default_factory=set)  # tensors with a size that is known only when the model runs
    declared: AbstractSet[str] = field(default_factory=set)  # tensors whose shape is only what the file says of it
    clashes: Sequence[str] = field(default_factory=list)  # operators that the samples, or the model itself, do not fit
    # tensors of which a sample has nothing, because it is too small
    short: AbstractSet[str] = field(default_factory=set)
    # tensors of unknown shape, and the first such one before them
    lost: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)  # outputs of nodes that could not be followed, and why
    # does the If of a scope always take its then branch?
    taken: Mapping[int, bool | None] = field(default_factory=dict)
    varying: Varying = field(default_factory=dict)
    _types: Mapping[str, tuple[TypeProto, TypeProto]] = field(default_factory=dict)
    _values: Mapping[str, Values] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[Size, ...] | None:
        """The sizes of each axis; None where the rank or a size is unknown."""
        types = self._types.get(name)
        if types is None:
            return None
        a, b = (t.tensor_type for t in types)
        if not a.HasField("shape") or not b.HasField("shape") or len(a.shape.dim) != len(b.shape.dim):
            return None
        out: list[Size] = []
        for x, y in zip(a.shape.dim, b.shape.dim, strict=True):
            if not x.HasField("dim_value") or not y.HasField("dim_value"):
                return None
            out.append(size_of(x.dim_value, y.dim_value))
        return tuple(out)

    def dtype(self, name: str) -> int:
        types = self._types.get(name)
        return types[0].tensor_type.elem_type if types else TensorProto.UNDEFINED

    def values(self, name: str) -> Values | None:
        """The tensor's contents at both samples."""
        return self._values.get(name)

    def value(self, name: str) -> np.ndarray | None:
        """The tensor's contents where no entry is dynamic."""
        both = self._values.get(name)
        return None if both is None or is_dynamic(both) else both[0]

    def admits(self, name: str, sizes: tuple[Size, ...]) -> bool:
        """May a tensor have these sizes? Yes where none are known, or where the file alone says otherwise and leaves them open."""
        known = self.shape(name)
        if known is None or known == sizes:
            return True
        if name not in self.declared or len(known) != len(sizes):
            return False
        return all(s == t for s, t in zip(known, sizes, strict=True) if isinstance(s, int))


def guess_size(name: str, axis: int) -> Size:
    """Two sample sizes for an axis that is as long as the data decide: dynamic, and equal to no other."""
    first = DIVISIBLE * (101 + zlib.crc32(f"{name}/{axis}".encode()) % 99991)
    return size_of(first, first + 13 * DIVISIBLE)


def is_dynamic(both: Values | None) -> bool:
    """Does a known value change with the sample?"""
    return both is not None and both[0] is not both[1] and not is_same(*both)


def is_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Do two arrays have one shape and equal entries?"""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
