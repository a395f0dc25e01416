"""What nodes hold and reach: Constant nodes' tensors, bodies, and the outer values that bodies read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.graph.io import Model
from onnxprune.graph.weights import ArrayWeight, Weight


def constant_of(node: NodeProto) -> np.ndarray | None:
    """The array that a Constant node holds; None for strings and sparse tensors."""
    for a in node.attribute:
        if a.name == "value":
            return None if a.t.data_type == TensorProto.STRING else numpy_helper.to_array(a.t)
        if a.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(a), np.float32)
        if a.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(a), np.int64)
    return None


def all_weights(model: Model) -> dict[str, Weight]:
    """Initializers and the tensors of Constant nodes, by tensor name."""
    weights = dict(model.weights)
    for node in model.proto.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            array = constant_of(node)
            if array is not None:
                weights[node.output[0]] = ArrayWeight(array)
    return weights


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a node, and those of the nodes inside them."""
    todo = list(subgraphs(node))
    while todo:
        g = todo.pop()
        yield g
        todo.extend(body for n in g.node for body in subgraphs(n))


def captured(node: NodeProto) -> set[str]:
    """Names of outer values that the bodies of a node read."""
    out: set[str] = set()
    todo = list(subgraphs(node))
    while todo:
        g = todo.pop()
        own = {v.name for v in g.input} | {t.name for t in g.initializer} | {o for n in g.node for o in n.output}
        for n in g.node:
            out.update(i for i in n.input if i and i not in own)
            todo.extend(subgraphs(n))
        out.update(o.name for o in g.output if o.name not in own)
    return out


def value_names(proto: ModelProto) -> set[str]:
    """Every name that a value of the model has, in bodies too."""
    g = proto.graph
    names = {x for n in g.node for x in (*n.input, *n.output)} | {v.name for v in (*g.input, *g.output, *g.value_info)}
    inside = (m for n in g.node for body in bodies(n) for m in body.node)
    return names | {t.name for t in g.initializer} | {x for m in inside for x in (*m.input, *m.output)}
