"""Operators that are a plainer one with scales and zero points around its operands, or with its channels last.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import NamedTuple

from onnx import NodeProto

MICROSOFT = "com.microsoft"


class Like(NamedTuple):
    """What a node is without its scales and zero points."""

    op: str
    operands: tuple[int, ...]  # the input slots that the plainer operator would read, in its order
    typed: int = 0  # the slot whose element type the result has; float where it is absent


LIKE = {
    "ConvInteger": Like("Conv", (0, 1)),
    "MatMulInteger": Like("MatMul", (0, 1)),
    "QLinearMatMul": Like("MatMul", (0, 3), 7),
    "FusedConv": Like("Conv", (0, 1, 2)),
    "NhwcFusedConv": Like("Conv", (0, 1, 2)),
    "NhwcConv": Like("Conv", (0, 1, 2)),
    "QLinearConv": Like("Conv", (0, 3, 8), 7),
    "NhwcMaxPool": Like("MaxPool", (0,)),
    "QLinearAveragePool": Like("AveragePool", (0,)),
    "QLinearGlobalAveragePool": Like("GlobalAveragePool", (0,)),
    "QLinearAdd": Like("Add", (0, 3)),
    "QLinearMul": Like("Mul", (0, 3)),
    "QLinearConcat": Like("Concat", tuple(range(2, 1 << 10, 3)), 2),
    "QLinearLeakyRelu": Like("LeakyRelu", (0,)),
    "QLinearSigmoid": Like("Sigmoid", (0,)),
    "QLinearSoftmax": Like("Softmax", (0,)),
    "QLinearWhere": Like("Where", (0, 1, 4), 1),
    "QGemm": Like("Gemm", (0, 3, 6), 8),
    "DynamicQuantizeMatMul": Like("MatMul", (0, 1), 2),
    "MatMulIntegerToFloat": Like("MatMul", (0, 1), 2),
}


def operands(node: NodeProto) -> list[int]:
    """The operands that a node has."""
    return [s for s in LIKE[node.op_type].operands if s < len(node.input)]


def channels_last(node: NodeProto) -> bool:
    """Does the node keep its channels on the last axis rather than on axis 1?"""
    return node.op_type.startswith("Nhwc") or any(a.name == "channels_last" and a.i for a in node.attribute)
