"""Multiply-accumulates of a graph: one a multiplication of a weight or of two activations, at the first sample size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from onnx import NodeProto, helper

from onnxprune.graph.contrib import LIKE, operands
from onnxprune.graph.trace import Trace
from onnxprune.graph.unsettled import unsettled

Shape = tuple[Any, ...]  # of ints, or of what adds and multiplies as they do


def _attr(node: NodeProto, name: str, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _conv(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    return math.prod(out) * math.prod(ins[1][1:])


def _conv_transpose(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    return math.prod(ins[0]) * math.prod(ins[1][1:])


def _gemm(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    return math.prod(out) * ins[0][0 if _attr(node, "transA") else 1]


def _matmul(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    return math.prod(out) * ins[0][-1]


def _einsum(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    left, _, _ = helper.get_attribute_value(node.attribute[0]).decode().replace(" ", "").partition("->")
    sizes = {c: n for term, shape in zip(left.split(","), ins, strict=True) for c, n in zip(term, shape, strict=False)}
    return math.prod(sizes.values()) if len(ins) > 1 and "." not in left else 0


def _recurrent(node: NodeProto, ins: list[Shape], out: Shape) -> Any:
    steps = ins[0][0] * ins[0][1]
    return steps * (math.prod(ins[1]) + math.prod(ins[2]))


COUNT: dict[str, Callable[[NodeProto, list[Shape], Shape], Any]] = {
    "Conv": _conv, "FusedConv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul,
    "FusedGemm": _gemm, "FusedMatMul": _matmul, "MatMulNBits": _matmul, "Einsum": _einsum, "LSTM": _recurrent,
    "DynamicQuantizeLSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent,
}  # fmt: skip


def total_macs(nodes: Iterable[NodeProto], trace: Trace) -> int | None:
    """Sum over the nodes, those of a loop's body once; None where the shapes of an operator that multiplies are unknown."""
    nodes = list(nodes)
    unknown = unsettled(nodes, trace)

    def first(name: str) -> Shape | None:
        shape = None if name in unknown else trace.shape(name)
        return None if shape is None else tuple(s if isinstance(s, int) else s[0] for s in shape)

    total: int | None = count_macs(nodes, lambda node, slot: first(node.input[slot]), first)
    return total


def count_macs(
    nodes: Iterable[NodeProto],
    of_input: Callable[[NodeProto, int], Shape | None],
    of_output: Callable[[str], Shape | None],
) -> Any:
    """The same where shapes come from elsewhere: of a node's input slot, of an output's name."""
    total: Any = 0
    for node in nodes:
        like = LIKE.get(node.op_type)
        count = COUNT.get(like.op if like else node.op_type)
        if count is None:
            continue
        slots = operands(node) if like else range(len(node.input))
        ins = [of_input(node, s) for s in slots if node.input[s]]
        out = of_output(next(o for o in node.output if o))
        if out is None or any(s is None for s in ins[:2]):
            return None
        total += count(node, [shape or () for shape in ins], out)
    return total
