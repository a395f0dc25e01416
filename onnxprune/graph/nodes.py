"""What nodes hold and reach: Constant nodes' tensors, bodies, and the outer values that bodies read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.graph.sparse import SparseWeight
from onnxprune.graph.weights import ArrayWeight, Weight

if TYPE_CHECKING:
    from onnxprune.graph.io import Model


def constant_of(node: NodeProto) -> np.ndarray | None:
    """The array that a Constant node holds; None for strings."""
    for a in node.attribute:
        if a.name == "value":
            return None if a.t.data_type == TensorProto.STRING else numpy_helper.to_array(a.t)
        if a.name == "sparse_value":
            return SparseWeight(a.sparse_tensor).array()
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


def sort_nodes(graph: GraphProto) -> None:
    """Bring the nodes of a graph, and of the bodies in it, in an order in which each comes after what it reads.

    A graph that is in order, or has a cycle, stays as it is.
    """
    for body in (b for n in graph.node for b in subgraphs(n)):
        sort_nodes(body)
    makers = {name: i for i, n in enumerate(graph.node) for name in n.output if name}
    reads = {i: [makers[x] for x in (*n.input, *captured(n)) if x in makers] for i, n in enumerate(graph.node)}
    if all(j < i for i, makers_of in reads.items() for j in makers_of):
        return
    try:
        order = list(TopologicalSorter(reads).static_order())
    except CycleError:  # onnx.checker says so
        return
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def with_outputs(proto: ModelProto, outputs: Iterable[ValueInfoProto] = ()) -> ModelProto:
    """A copy of a model that hands out other values.

    It has no value_info: of a former output it may be stale (converters to half precision leave the old type there), which
    nobody notices until the output's own entry, which counts more, is gone.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:], copy.graph.output[:]
    copy.graph.output.extend(outputs)
    return copy


def value_names(proto: ModelProto) -> set[str]:
    """Every name that a value of the model has, in bodies too."""
    g = proto.graph
    names = {x for n in g.node for x in (*n.input, *n.output)} | {v.name for v in (*g.input, *g.output, *g.value_info)}
    inside = (m for n in g.node for body in bodies(n) for m in body.node)
    return names | {t.name for t in g.initializer} | {x for m in inside for x in (*m.input, *m.output)}
