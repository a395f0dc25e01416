"""Mixtures of experts as one operator: experts, their neurons, and the width that all of them share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxprune.layout import Dim, LayoutError, factor, find, prod
from onnxprune.ops.quant import split_blocks
from onnxprune.ops.records import Encoding, NodeFacts, NodeShapes, Operand, Product, take_least
from onnxprune.ops.registry import MICROSOFT, Axes, Edits, New, Op, couple


def _read_experts(node: NodeFacts) -> list[Operand]:
    """Weights [e, made, used]."""
    return [Operand(i, inputs=(2,), outputs=(0, 1)) for i in (2, 4, 6) if node.has(i)]


def _read_integer_experts(node: NodeFacts) -> list[Operand]:
    """The same packed into bytes along the last axis."""
    return [Operand(i, (2,), (0, 1), encoding=_encode(node, i)) for i in (2, 5, 8) if node.has(i)]


def _encode(node: NodeFacts, slot: int) -> Encoding:
    bits = node.attr(f"fc{(slot + 1) // 3}_expert_weight_bits") or node.attr("expert_weight_bits", 4)
    block = node.attr("block_size", 0)
    return Encoding(slot + 1, 0, 2 if block > 0 else 1, bits, 1 << (bits - 1), block * bits // 8)


def _count_experts(node: NodeShapes, operands: Sequence[Operand]) -> Any:
    """Every token passes through `k` experts."""
    *tokens, experts = node.x(1)
    used = take_least(experts, node.attr("k", 1))
    packed = [8 // o.encoding.bits if o.encoding else 1 for o in operands]
    each = sum(math.prod(node.x(o.slot)[1:]) * n for o, n in zip(operands, packed, strict=True))
    return math.prod(tokens) * used * each


EXPERTS = Product("experts", lambda node: _count_experts(node, _read_experts(node)), _read_experts)
INTEGERS = Product("experts", lambda node: _count_experts(node, _read_integer_experts(node)), _read_integer_experts)


@couple("MoE", domain=MICROSOFT, routed=(1, "k"), product=EXPERTS)
@couple("QMoE", domain=MICROSOFT, routed=(1, "k"), product=INTEGERS)
def mixture(op: Op) -> list[Axes | None]:
    """x [*t, h], router [t, e], w1 [e, (f i), h], w2 [e, h, i], w3 [e, i, h], biases [e, rows] -> y [*t, h].

    The gate and the value of SwiGLU are f = 2, inside of i. QMoE packs the last axis of a weight into bytes; its scales are
    [e, rows] or [e, rows, blocks]. Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    x, e = op.x(0), op.x(1)[-1]
    integers = op.type == "QMoE"
    w1, w2, w3, more = (2, 5, 8, 2) if integers else (2, 4, 6, 1)
    if any(op.has(i) for i in range(w3 + more + 1, len(op.node.input))):
        raise LayoutError("zero points, weights for the router or other scales")
    if op.attr("quant_type", "int") != "int" or op.attr("weights_prepacked", -1) > 0:
        raise LayoutError("weights that are no plain integers")
    rows = op.x(w1)[1]
    fusion = op.attr("swiglu_fusion", 0) if op.attr("activation_type", "relu") == "swiglu" else 0
    i, two = _gate(rows, fusion)
    op.freeze(two, "a neuron and its gate")
    for slot, rows_of_weight, used in ((w1, rows, x[-1]), (w2, x[-1], i), (w3, i, x[-1])):
        if op.has(slot):
            _expert(op, slot, more, e, rows_of_weight, used)
    for t in (*x[:-1], *op.x(1)[:-1]):
        op.freeze(t, f"the tokens of {op.type}")
    op.mix(e, "weighs all experts by one softmax")
    op.kind(e, "experts")
    op.kind(i, "neurons")

    def change(new: New, edits: Edits) -> None:
        if new.changes(e):
            edits.attrs["k"] = min(op.attr("k", 1), int(str(new.size(e))))

    op.edit(change)
    return [list(x)]


def _gate(rows: Dim, fusion: int) -> tuple[Dim, Dim]:
    """Neurons and the two rows of each, side by side (1) or in two halves (2)."""
    size = find(rows).size
    if not isinstance(size, int):
        raise LayoutError("experts of dynamic size")
    if not fusion:
        return factor(rows, 1)
    outer, inner = factor(rows, 2 if fusion == 1 else size // 2)
    return (outer, inner) if fusion == 1 else (inner, outer)


def _expert(op: Op, slot: int, more: int, e: Dim, rows: Dim, used: Dim) -> None:
    """One weight [e, made, used] with its scale, if it has one, and its bias [e, made]."""
    w = op.x(slot)
    op.tie(w[0], e)
    op.tie(w[1], rows)
    if more == 2:
        bits = _encode(op, slot).bits
        share = max(op.attr("block_size", 0), 8 // bits)
        blocks = split_blocks(op, used, share)
        op.tie(w[2], prod(blocks, op.plain(share * bits // 8)))
        for a, b in zip(op.x(slot + 1), (e, rows, blocks), strict=False):
            op.tie(a, b)
        if op.rank(slot + 1) > 2:
            op.role(slot + 1, 2, "in")
    else:
        op.tie(w[2], used)
    if op.has(slot + more):
        op.tie(op.x(slot + more)[0], e)
        op.tie(op.x(slot + more)[1], rows)
        op.role(slot + more, 1, "bias")
