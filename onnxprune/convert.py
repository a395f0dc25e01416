"""Convert the computation, not the function, of a model.

Half precision, zeros for subnormal numbers, and matrix products in the form that sparse kernels are picked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, helper, inliner, shape_inference

from onnxprune.axes import Size
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import sort_nodes
from onnxprune.graph.view import Names, get_domain, list_bodies, list_value_names, map_readers
from onnxprune.graph.weights import Array, ArrayWeight, DerivedWeight, FileWeight, Weight
from onnxprune.groups import analyze
from onnxprune.ops.records import get_record

TYPES = {"fp16": TensorProto.FLOAT16}
LEAST, MOST = 2.0**-24, 65504.0  # the magnitudes of float16's smallest and largest numbers
PART = 1 << 20  # elements that are converted at once


class FlushedWeight(DerivedWeight):
    """A float32 weight with zeros in place of its subnormal numbers."""

    def __init__(self, base: Weight) -> None:
        self.base, self.data_type, self.shape = base, base.data_type, base.shape

    def parts(self) -> Iterator[Array]:
        for part in _parts_of(self.base):
            yield np.where(np.abs(part) < np.finfo(np.float32).tiny, np.float32(0), part)


class HalfWeight(DerivedWeight):
    """A float32 weight in half precision. No number becomes zero, or infinite, that was not."""

    def __init__(self, base: Weight) -> None:
        self.base, self.data_type, self.shape = base, TensorProto.FLOAT16, base.shape

    def parts(self) -> Iterator[Array]:
        for part in _parts_of(self.base):
            size = np.clip(np.abs(part), LEAST, MOST, where=(part != 0) & np.isfinite(part), out=np.abs(part))
            yield np.copysign(size, part).astype(np.float16)


def _parts_of(weight: Weight) -> Iterator[Array]:
    if isinstance(weight, DerivedWeight):
        yield from weight.parts()
        return
    if (
        isinstance(weight, FileWeight) and math.prod(weight.shape) > PART
    ):  # some rows at a time: it may be larger than memory
        rows = max(1, PART * weight.shape[0] // math.prod(weight.shape))
        for at in range(0, weight.shape[0], rows):
            yield weight.rows(at, min(at + rows, weight.shape[0]))
        return
    flat = weight.array().reshape(-1)
    for at in range(0, flat.size, PART):
        yield flat[at : at + PART]


def flush_subnormals(model: Model) -> Model:
    """The model with zeros in place of weights below 1.2e-38, with which some processors are slow (docs/results.md).

    A single number stays, since it may be there to keep others from zero, as the 1e-45 of a logarithm's Max is.
    """
    slow = {n: w for n, w in model.weights.items() if w.data_type == TensorProto.FLOAT and math.prod(w.shape) > 1}
    return replace(model, weights=model.weights | {n: FlushedWeight(w) for n, w in slow.items()})


def cast(model: Model, to: str) -> Model:
    """The model in half precision ("fp16"), with the inputs and outputs that it had.

    Operators that need float32 keep it behind Casts (ONNX Runtime's converter knows which). Large weights are converted when
    they are read. Raises OnnxPruneError for another type, and for a model that the converter does not take.
    """
    if to not in TYPES:
        raise OnnxPruneError(f"cast '{to}' is unknown; there is {', '.join(TYPES)}")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        done = convert_float_to_float16(_hollow(model), keep_io_types=True, disable_shape_infer=True)
    except Exception as e:  # it raises whatever its code runs into
        why = f"{type(e).__name__}{f': {e}' if str(e) else ''}"
        raise OnnxPruneError(
            f"ONNX Runtime's converter to half precision does not take the model ({why}); drop --cast"
        ) from e
    sort_nodes(done.graph)
    weights = dict(model.weights)
    for tensor in done.graph.initializer:
        old = weights.get(tensor.name)
        if old is None:
            continue
        del tensor.dims[:]
        tensor.dims.extend(old.shape)
        if old.data_type == TensorProto.FLOAT and tensor.data_type == TensorProto.FLOAT16:
            weights[tensor.name] = HalfWeight(old)
    return replace(model, proto=done, weights=weights)


def _hollow(model: Model) -> ModelProto:
    """The graph with its shapes inferred, and weights of no elements: the converter looks at their types alone.

    It does not look into local functions, so they are put where they are called.
    """
    proto = inliner.inline_local_functions(model.proto) if model.proto.functions else model.proto
    proto = shape_inference.infer_shapes(proto)
    # Names that inference gives sizes may stand for several (those of a sequence's tensors), and ONNX Runtime believes them.
    known = {d.dim_param for d in _declared_sizes(model.proto.graph)}
    for size in _declared_sizes(proto.graph):
        if size.dim_param not in known:
            size.ClearField("dim_param")
    for tensor in proto.graph.initializer:
        if tensor.name in model.weights:
            tensor.CopyFrom(
                TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0], doc_string=tensor.doc_string)
            )
    return proto


def _declared_sizes(graph: GraphProto) -> Iterator[TensorShapeProto.Dimension]:
    """The sizes in the shapes that a graph and its bodies declare."""
    inner = (body for node in graph.node for body in list_bodies(node))
    for g in (graph, *inner):
        for value in (*g.input, *g.output, *g.value_info):
            kind = value.type
            while (wrapper := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
                kind = getattr(kind, wrapper).elem_type
            yield from kind.tensor_type.shape.dim


def write_gemms(model: Model) -> Model:
    """Each MatMul of an activation and a constant matrix as a Gemm, with the Add of a constant vector behind it as its bias.

    An activation with more axes than two is reshaped before and after, where no more than one of its sizes is dynamic.
    """
    a = analyze(model)
    shapes, weights = a.coupling.trace.shape, a.coupling.weights
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    maker = _Gemms(
        proto, {name: tuple(w.shape) for name, w in weights.items()}, dict(model.weights), a.coupling.computed
    )
    for node in model.proto.graph.node:
        maker.add(node, shapes(node.input[0]) if node.input else None, shapes(node.output[0]) if node.output else None)
    del proto.graph.node[:]
    proto.graph.node.extend(maker.nodes)
    return replace(model, proto=proto, weights=maker.weights)


class _Gemms:
    """The nodes of the new graph, as they come."""

    def __init__(
        self, proto: ModelProto, shapes: dict[str, tuple[int, ...]], weights: dict[str, Weight], computed: set[str]
    ) -> None:
        self.proto, self.shapes, self.weights = proto, shapes, weights
        self.nodes: list[NodeProto] = []
        self.names = Names(list_value_names(proto) | set(weights))
        self.constant = set(shapes) | computed
        self.readers = map_readers(proto.graph.node)
        self.outputs = {v.name for v in proto.graph.output}
        self.gemm_of: dict[str, NodeProto] = {}  # the Gemm whose output a value is, if nothing came between

    def add(self, node: NodeProto, x: tuple[Size, ...] | None, y: tuple[Size, ...] | None) -> None:
        if get_record(node).traits.sums and len(node.input) == 2 and self._fold(node):
            return
        w = self.shapes.get(node.input[1]) if node.op_type == "MatMul" and not get_domain(node) else None
        target = None if w is None or len(w) != 2 or x is None or y is None else _target(x, y)
        if target is None or node.input[0] in self.constant:
            self.nodes.append(node)
            return
        a, out = node.input[0], node.output[0]
        gemm = helper.make_node("Gemm", [a, node.input[1]], [out], name=node.name, doc_string=node.doc_string or None)
        self.nodes.append(gemm)
        if x is not None and len(x) > 2 and w is not None:
            gemm.input[0], gemm.output[0] = self._fresh(f"{out}/rows"), self._fresh(f"{out}/product")
            rows = self._constant(f"{out}/rows_shape", [-1, w[0]])
            shape = self._constant(f"{out}/shape", target)
            self.nodes.insert(-1, helper.make_node("Reshape", [a, rows], [gemm.input[0]], name=gemm.input[0]))
            self.nodes.append(
                helper.make_node("Reshape", [gemm.output[0], shape], [out], name=self._fresh(f"{out}/reshape"))
            )
        self.gemm_of[out] = gemm

    def _fold(self, node: NodeProto) -> bool:
        """Make the vector that an Add brings the bias of the Gemm before it."""
        for i in (0, 1):
            gemm, bias = self.gemm_of.get(node.input[i]), node.input[1 - i]
            if (
                gemm is None
                or len(self.readers[node.input[i]]) > 1
                or node.input[i] in self.outputs
                or len(gemm.input) > 2
            ):
                continue
            columns = self.shapes[gemm.input[1]][1]
            if self.shapes.get(bias) == (columns,):
                gemm.input.append(bias)
                self.nodes[-1].output[0] = node.output[0]
                return True
        return False

    def _constant(self, base: str, values: list[int]) -> str:
        name = self._fresh(base)
        weight = ArrayWeight(np.array(values, np.int64))
        self.proto.graph.initializer.add(name=name, data_type=weight.data_type, dims=weight.shape)
        self.weights[name] = weight
        return name

    def _fresh(self, base: str) -> str:
        return self.names.claim(base, f"{base}_")


def _target(x: tuple[Size, ...], y: tuple[Size, ...]) -> list[int] | None:
    """The shape to reshape a product back to, with -1 for a dynamic size; None where there are several, or no rows."""
    out = [n if isinstance(n, int) else -1 for n in y]
    if len(x) < 2 or out.count(-1) > 1 or not math.prod(out):
        return None
    return out
