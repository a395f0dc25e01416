"""How many tokens a language model knows, as its graph tells."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.graph.nodes import constant_of
from onnxprune.graph.view import attribute

IDS = (TensorProto.INT32, TensorProto.INT64)
SAME_ENTRIES = ("Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze")  # ids stay ids
SAME_ROWS = ("Cast", "Identity", "DequantizeLinear")  # a table keeps its rows


def vocabulary(proto: ModelProto) -> int | None:
    """The rows of the table that an integer input is looked up in, of several (positions, types) the largest; None: there is none.

    An output whose last axis is as long holds a score for each token, as a language model's head makes them.
    """
    ids = {v.name for v in proto.graph.input if v.type.tensor_type.elem_type in IDS}
    rows = {t.name: t.dims[0] for t in proto.graph.initializer if t.dims}
    found: list[int] = []
    for node in proto.graph.node:
        if node.op_type == "Constant" and (array := constant_of(node)) is not None and array.ndim:
            rows[node.output[0]] = len(array)
        elif node.op_type in SAME_ENTRIES and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type in SAME_ROWS and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in rows and not _axis(node):
            found.append(rows[node.input[0]])
    return max(found, default=None)


def _axis(node: NodeProto) -> int:
    return int(attribute(node, "axis", 0))
