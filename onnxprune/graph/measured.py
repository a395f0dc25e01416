"""Shapes that only a run tells: of operators that onnx has no shape function for, where ONNX Runtime knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from onnx import TensorProto, TypeProto, ValueInfoProto, helper

from onnxprune.axes import pair
from onnxprune.graph.lent import lend_bytes
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import replace_outputs
from onnxprune.graph.sample_sizes import Sizes, sample_shapes
from onnxprune.graph.view import list_reads, map_makers
from onnxprune.graph.weights import Array, is_float

SEEDS = (0, 1)  # a size that changes with the values of the inputs is decided by the data
INTEGERS = (1, 0)  # what integer inputs are filled with: ids of any vocabulary
Types = tuple[TypeProto, TypeProto]  # at both samples


class MeasuredShapes:
    """The types of values of a model at its sample sizes. Nothing runs before one is asked for."""

    def __init__(self, model: Model, sizes: Sizes, names: Iterable[str]) -> None:
        self._model, self._sizes, self._names = model, sizes, names

    def types(self, name: str) -> Types | None:
        """None where the model does not run as far as there, or has no such value; open sizes are those that the data decide."""
        return self._together.get(name) or self._measure([name]).get(name)

    @cached_property
    def _together(self) -> dict[str, Types]:
        """All of them in one run."""
        return self._measure(list(self._names))

    def _measure(self, names: Sequence[str]) -> dict[str, Types]:
        import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]

        part = _up_to(self._model, names)
        if part is None:
            return {}
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            with lend_bytes(part) as (source, entries):
                for key, value in entries.items():
                    options.add_session_config_entry(key, value)
                session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception:  # ONNX Runtime's exceptions share no base class
            return {}
        for integer in INTEGERS:
            try:
                runs = [[session.run(names, self._feeds(i, seed, integer)) for seed in SEEDS] for i in (0, 1)]
            except Exception:  # it refuses these inputs
                continue
            return {
                name: (_type_of(*(out[j] for out in runs[0])), _type_of(*(out[j] for out in runs[1])))
                for j, name in enumerate(names)
                if isinstance(runs[0][0][j], np.ndarray)
            }
        return {}

    def _feeds(self, sample: int, seed: int, integer: int) -> dict[str, Array]:
        proto, rng = self._model.proto, np.random.default_rng(seed)
        elems = {v.name: v.type.tensor_type.elem_type for v in proto.graph.input}
        feeds = {}
        for name, shape in sample_shapes(proto, self._model.weights, self._sizes).items():
            dims = [pair(s)[sample] for s in shape or ()]
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(elems[name]))
            feeds[name] = rng.standard_normal(dims).astype(dtype) if is_float(dtype) else np.full(dims, integer, dtype)
        return feeds


def _type_of(first: Array, second: Array) -> TypeProto:
    elem = TensorProto.STRING if first.dtype.kind == "O" else helper.np_dtype_to_tensor_dtype(first.dtype)
    if first.ndim != second.ndim:
        return helper.make_tensor_type_proto(elem, None)
    sizes = zip(first.shape, second.shape, strict=True)
    return helper.make_tensor_type_proto(elem, [a if a == b else None for a, b in sizes])


def _up_to(model: Model, names: Sequence[str]) -> Model | None:
    """The part of a model that makes some values; None where it does not make all of them."""
    graph = model.proto.graph
    made_at, needed, todo = map_makers(graph.node), set[int](), list(names)
    if not names or not made_at.keys() >= set(names):
        return None
    while todo:
        index = made_at.get(todo.pop())
        if index is not None and index not in needed:
            needed.add(index)
            todo.extend(list_reads(graph.node[index]))
    part = replace_outputs(model.proto, [ValueInfoProto(name=name) for name in names])
    nodes = [graph.node[index] for index in sorted(needed)]
    read = {name for node in nodes for name in list_reads(node)}
    weights = [t for t in graph.initializer if t.name in read]
    del part.graph.node[:], part.graph.initializer[:], part.graph.quantization_annotation[:]
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(weights)
    inputs = [v for v in graph.input if v.name in read or v.name not in model.weights]
    del part.graph.input[:]
    part.graph.input.extend(inputs)
    return replace(model, proto=part, sparse=())
