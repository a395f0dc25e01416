"""Tensors inside the message, of Constant nodes, bodies and local functions, and where they are in the flattened model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from onnxprune.graph.model import Model, list_inner_tensors
from onnxprune.graph.view import find_attribute, is_constant
from onnxprune.graph.weights import Array

MARK = "onnxprune inner tensor "  # in a doc string, which every copy of a tensor keeps


def mark_inner_tensors(model: Model) -> Model:
    """A copy of a model whose inner tensors are numbered in their doc strings; the model itself where it has none to mark."""
    if not any(len(t.dims) > 0 for t in list_inner_tensors(model.proto)):
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for at, tensor in enumerate(list_inner_tensors(proto)):
        tensor.doc_string = f"{MARK}{at}"
    return replace(model, proto=proto)


def read_marks(flat: ModelProto) -> dict[str, int]:
    """The numbers of the weights of a flattened model that are inner tensors of the model it comes from."""
    return {name: int(t.doc_string[len(MARK) :]) for name, t in _named(flat.graph) if t.doc_string.startswith(MARK)}


def _named(graph: GraphProto) -> Iterable[tuple[str, TensorProto]]:
    yield from ((t.name, t) for t in graph.initializer)
    values = ((n.output[0], find_attribute(n, "value")) for n in graph.node if is_constant(n))
    yield from ((name, a.t) for name, a in values if a)


def rewrite_inner_tensors(model: Model, arrays: Mapping[int, Array]) -> Model:
    """A copy of a model with other contents, of the same types and shapes, for those inner tensors."""
    if not arrays:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    weights = dict(model.weights)
    for at, tensor in enumerate(list_inner_tensors(proto)):
        if at in arrays:
            new = numpy_helper.from_array(np.asarray(arrays[at], order="C"))
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            tensor.raw_data = new.raw_data
    return replace(model, proto=proto, weights=weights)
