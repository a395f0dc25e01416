"""How far rounding may move the outputs of a model: those of an ill-conditioned one differ though nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Array = NDArray[Any]
NOISE = 1e-6  # about ten roundings of a float32
TRIALS = 6
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def measure_noise(
    proto: onnx.ModelProto,
    feeds: Sequence[Mapping[str, Array]],
    run: Callable[[onnx.ModelProto, Sequence[Mapping[str, Array]]], list[list[Array]]],
    difference: Callable[[Array, Array], float],
    seed: int = 0,
) -> float:
    """How far the outputs move when every float that goes in moves by NOISE of itself."""
    rng = np.random.default_rng(seed)
    want = run(proto, feeds)
    worst = 0.0
    for _ in range(TRIALS):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        for t in _constants(copy):
            if t.data_type in FLOATS:
                x = numpy_helper.to_array(t)
                t.CopyFrom(numpy_helper.from_array(_moved(x, rng), t.name))
        other = [{n: _moved(x, rng) if x.dtype.kind == "f" else x for n, x in f.items()} for f in feeds]
        for a, b in zip(want, run(copy, other), strict=True):
            worst = max(worst, *(difference(x, y) for x, y in zip(a, b, strict=True)))
    return worst


def _constants(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [*proto.graph.initializer, *(n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant")]


def _moved(x: Array, rng: np.random.Generator) -> Array:
    """Values such as 0, 1 and 2, which a graph may rely on (scales, exponents), stay."""
    y = x * (1 + NOISE * rng.standard_normal(x.shape))
    return np.asarray(np.where(x == np.round(x), x, y), x.dtype)
