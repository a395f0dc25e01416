"""Recurrent layers: hidden units are channels; gates are stacked in front of them."""

from __future__ import annotations

import math
from typing import Any

from onnxprune.layout import Dim, LayoutError, factor, find, freeze
from onnxprune.ops.records import Encoding, NodeFacts, NodeShapes, Operand, Product
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def _count_steps(node: NodeShapes) -> Any:
    """Every step of every sample multiplies with all of w and r."""
    steps = node.x(0)[0] * node.x(0)[1]
    return steps * (math.prod(node.x(1)) + math.prod(node.x(2)))


def _read_gates(_: NodeFacts) -> list[Operand]:
    return [Operand(i, inputs=(2,), outputs=(1,), batch=(0,)) for i in (1, 2)]


def _read_integer_gates(_: NodeFacts) -> list[Operand]:
    encodings = Encoding(8, 9, axis=2), Encoding(10, 11, axis=2)
    return [Operand(i, (1,), (2,), batch=(0,), encoding=e) for i, e in enumerate(encodings, start=1)]


@couple("LSTM", "GRU", "RNN", since=7, product=Product("recurrent", _count_steps, _read_gates, bias=3))
@couple(
    "DynamicQuantizeLSTM", domain=MICROSOFT, product=Product("recurrent", _count_steps, _read_integer_gates, bias=3)
)
def recurrent(op: Op) -> list[Axes | None]:
    """x [s, b, i], w [D, (g h), i], r [D, (g h), h], b [D, (2 g h)] -> y [s, D, b, h], y_h and y_c [D, b, h].

    More inputs are the initial h and c [D, b, h] and the peepholes [D, (3 h)]. With layout = 1 the batch comes first.
    DynamicQuantizeLSTM has w [D, i, (g h)] and r [D, h, (g h)] of integers, with scales and zero points [D] or [D, (g h)].
    The gates g and the directions D are frozen; both directions share h, because their weights are one tensor.
    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html
    """
    x, w, r = op.x(0), op.x(1), op.x(2)
    quantized = op.type == "DynamicQuantizeLSTM"
    gates, inputs = (2, 1) if quantized else (1, 2)
    h = find(r[inputs])
    size = h.size
    if not isinstance(size, int):
        raise LayoutError("a hidden size that is dynamic")
    op.tie(x[2], w[inputs])
    op.freeze(x[op.attr("layout", 0)], f"{op.type} runs along it")
    for d in (_unit(op, w[gates], size), _unit(op, r[gates], size)):
        op.tie(d, h)
    if quantized:
        _quantized(op, size, h)
    if op.has(3):
        op.tie(_unit(op, op.x(3)[1], size), h)
        op.role(3, 1, "bias")
    if op.has(4):
        op.tie(op.x(4)[0], x[1 - op.attr("layout", 0)])
    batch = 1 - op.attr("layout", 0)
    for i in (5, 6):
        if op.has(i):
            op.tie(op.x(i)[2], h)
            op.tie(op.x(i)[batch], x[batch])
            freeze(op.x(i)[1 - batch], op.reason("direction", structural=True))
    if op.has(7):
        op.tie(_unit(op, op.x(7)[1], size), h)
    for i in (1, 2, 3, 7):
        if op.has(i):
            freeze(op.x(i)[0], op.reason("direction", structural=True))
    op.kind(h, "neurons")
    op.follow_attr("hidden_size", h)
    return _outputs(op, x, find(h))


def _quantized(op: Op, size: int, h: Dim) -> None:
    for d, slots in ((op.x(0)[2], (8, 9)), (h, (10, 11))):
        op.mix(d, "takes its range over it")
        for slot in slots:
            if op.has(slot):
                freeze(op.x(slot)[0], op.reason("direction", structural=True))
            if op.has(slot) and op.rank(slot) == 2:
                op.tie(_unit(op, op.x(slot)[1], size), h)
                op.role(slot, 1, "stat")


def _unit(op: Op, d: Dim, size: int) -> Dim:
    gates, unit = factor(d, size)
    freeze(gates, op.reason("gate", structural=True))
    return unit


def _outputs(op: Op, x: Axes, h: Dim) -> list[Axes | None]:
    directions = op.plain(2 if op.attr("direction", "forward") == "bidirectional" else 1, "direction")
    if op.attr("layout", 0):
        y, last = [x[0], x[1], directions, h], [x[0], directions, h]
    else:
        y, last = [x[0], directions, x[1], h], [directions, x[1], h]
    return [y, last, list(last)]
