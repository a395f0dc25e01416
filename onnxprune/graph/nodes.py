"""The constants of a graph, its nodes in order, and copies with other outputs."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.graph.sparse_weights import SparseWeight
from onnxprune.graph.view import is_constant, list_reads, list_subgraphs, map_makers
from onnxprune.graph.weights import ArrayWeight, Weight

if TYPE_CHECKING:
    from onnxprune.graph.model import Model


def get_constant(node: NodeProto) -> np.ndarray | None:
    """The array that a Constant node holds; None for strings, and for other nodes, whose `value` is something else."""
    for a in node.attribute if is_constant(node) else ():
        if a.name == "value":
            return None if a.t.data_type == TensorProto.STRING else numpy_helper.to_array(a.t)
        if a.name == "sparse_value":
            return SparseWeight(a.sparse_tensor).array()
        if a.name in ("value_float", "value_floats"):
            return np.array(helper.get_attribute_value(a), np.float32)
        if a.name in ("value_int", "value_ints"):
            return np.array(helper.get_attribute_value(a), np.int64)
    return None


def collect_weights(model: Model) -> dict[str, Weight]:
    """Initializers and the tensors of Constant nodes, by tensor name."""
    weights = dict(model.weights)
    for node in model.proto.graph.node:
        array = get_constant(node)
        if array is not None:
            weights[node.output[0]] = ArrayWeight(array)
    return weights


def sort_nodes(graph: GraphProto) -> None:
    """Bring the nodes of a graph, and of the bodies in it, in an order in which each comes after what it reads.

    A graph that is in order, or has a cycle, stays as it is.
    """
    for body in (b for n in graph.node for b in list_subgraphs(n)):
        sort_nodes(body)
    made_at = map_makers(graph.node)
    before = {i: [made_at[x] for x in list_reads(n) if x in made_at] for i, n in enumerate(graph.node)}
    if all(j < i for i, earlier in before.items() for j in earlier):
        return
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError:  # onnx.checker says so
        return
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def replace_outputs(proto: ModelProto, outputs: Iterable[ValueInfoProto] = ()) -> ModelProto:
    """A copy of a model that hands out other values.

    It has no value_info: of a former output it may be stale (converters to half precision leave the old type there), which
    nobody notices until the output's own entry, which counts more, is gone.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.value_info[:], copy.graph.output[:]
    copy.graph.output.extend(outputs)
    return copy
