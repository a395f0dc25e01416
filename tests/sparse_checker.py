"""A second opinion on N:M patterns, which shares no code with the package.

It inlines local functions with onnx, computes the constant operand of every product with onnx's reference evaluator, and counts
along the axis that the product sums over, node type by node type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


def operands(model: ModelProto) -> dict[str, Array]:
    """The constant operand of each product as [.., K]: what is summed over is last, kernel positions are rows of their own."""
    flat = inliner.inline_local_functions(model) if model.functions else model
    return dict(_walk(flat.graph, {}, list(flat.opset_import)))


def violations(w: Array, n: int, m: int) -> int:
    """How many runs of m numbers of the last axis have more than n that are not zero."""
    pad = -w.shape[-1] % m
    padded = np.pad(w != 0, [(0, 0)] * (w.ndim - 1) + [(0, pad)])
    return int((padded.reshape(-1, m).sum(axis=1) > n).sum())


def _walk(graph: GraphProto, outer: dict[str, Array], imports: Any) -> Iterator[tuple[str, Array]]:
    known = {**outer, **{t.name: numpy_helper.to_array(t) for t in graph.initializer}}
    for node in graph.node:
        for g in (a.g for a in node.attribute if a.type == AttributeProto.GRAPH):
            yield from _walk(g, known, imports)
        if all(i in known or not i for i in node.input) and not any(
            a.type == AttributeProto.GRAPH for a in node.attribute
        ):
            known.update(_computed(node, known, imports))
            continue
        for slot, axis in _summed(node, {i for i in node.input if i in known}):
            w = np.asarray(known[node.input[slot]], np.float32)
            yield node.name or node.output[0], np.moveaxis(w, axis if w.ndim > 1 else 0, -1)


def _computed(node: NodeProto, known: dict[str, Array], imports: Any) -> dict[str, Array]:
    if node.op_type in ("Shape", "RandomNormal", "RandomUniform"):
        return {}
    feeds = {i: known[i] for i in node.input if i}
    types = [onnx.ValueInfoProto(name=i) for i in feeds]
    graph = helper.make_graph([node], "one", types, [onnx.ValueInfoProto(name=o) for o in node.output if o])
    try:
        run = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports))
        return dict(zip([o for o in node.output if o], run.run(None, feeds), strict=True))
    except Exception:  # not an operator that it knows: then not a constant that anybody could know
        return {}


def _summed(node: NodeProto, constant: set[str]) -> Iterator[tuple[int, int]]:
    """The constant operands of a product, and the axis of each that is summed over."""
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in ("Conv", "FusedConv") and node.input[1] in constant:
        yield 1, 1
    if node.op_type == "ConvTranspose" and node.input[1] in constant:
        yield 1, 0
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm"):
        for slot, name, plain in ((0, "transA", -1), (1, "transB", -2)):
            if node.input[slot] in constant:
                axis = (-3 - plain) if attrs.get(name, 0) else plain
                moved = axis == -2 and attrs.get(
                    name.replace("trans", "transBatch"), 0
                )  # there the first axis is the row
                yield slot, 0 if moved else axis
