"""The one place that drives the tracer: along the nodes of a flat model, in order, showing each of them to a visitor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from onnx import NodeProto, ValueInfoProto

from onnxprune.axes import Dynamic, Size
from onnxprune.errors import is_guarded
from onnxprune.graph import scopes
from onnxprune.graph.facts import Facts, Varying
from onnxprune.graph.flat import CLOSE, FLAT, get_flat_id
from onnxprune.graph.measured import MeasuredShapes
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights
from onnxprune.graph.sample_sizes import Sizes, sample_shapes
from onnxprune.graph.trace import Trace
from onnxprune.graph.view import is_constant, list_subgraphs
from onnxprune.graph.weights import Weight
from onnxprune.ops.records import NOTHING, get_record

Known = tuple[int, tuple[Size, ...]]  # the element type and the sizes of a tensor


class Told(NamedTuple):
    """A visitor's knowledge of a node's outputs; used if it does not contradict the facts."""

    shapes: Mapping[str, Known] = MappingProxyType({})
    is_short: bool = False  # a sample is too small for the node


class Visitor:
    """Looks on while a model is walked. It reads the facts; what it knows better it returns, and the walk keeps it."""

    def begin(self, facts: Facts, weights: dict[str, Weight]) -> None:
        """The inputs and the weights (of Constant nodes too) are known, and no node yet."""

    def place(self, index: int, node: NodeProto, facts: Facts) -> Sequence[NodeProto]:
        """The inputs of a node are known. Returns what stands in its place, where the visitor changes the graph."""
        return [node]

    def again(self, index: int, node: NodeProto, facts: Facts) -> Sequence[NodeProto] | None:
        """So are its outputs. Returns what stands in its place now, where the visitor changed it again."""
        return None

    def after(self, index: int, node: NodeProto, facts: Facts) -> Told:
        """The outputs are as they will be. Returns what the visitor knows of them."""
        return Told()

    def settle(self, node: NodeProto, name: str, facts: Facts) -> None:
        """Nobody knew the shape of this output; a run, or the file, has told it now."""


def walk(
    model: Model,
    visitor: Visitor,
    sizes: Sizes,
    *,
    source: Model | None = None,
    varying: Varying = MappingProxyType({}),
    whole: bool = True,
) -> Facts:
    """Trace a flat model, and show the visitor each node that computes something.

    Args:
        model: the flat model.
        visitor: sees each node, and what is known of it by then.
        sizes: the samples of the dynamic axes.
        source: the model before it was made flat. Where inference knows no shape, the file and runs of this model tell it.
        varying: the varying sizes of loops that an earlier walk found; the returned facts may have more of them.
        whole: go on where a sample turns out to be too small.
    """
    weights = collect_weights(model)
    trace = _start(model, weights, sizes, varying)
    others = _OtherSources(model, source, trace) if source else None
    facts = trace.read_only()
    visitor.begin(facts, weights)
    for index, node in _live_nodes(model, facts, weights):
        _follow(trace, model, visitor.place(index, node, facts))
        changed = visitor.again(index, node, facts)
        if changed is not None:
            _follow(trace, model, changed)
        if others:
            others.infer(node)
        knowledge = visitor.after(index, node, facts)
        for name, (elem, shape) in knowledge.shapes.items():
            trace.learn(name, elem, shape)
        if knowledge.is_short:
            trace.short.update(node.output)
        for name in others.settle(node) if others else ():
            visitor.settle(node, name, facts)
        trace.note_lost(node)
        if trace.short and not whole:
            break
    return facts


def _start(model: Model, weights: Mapping[str, Weight], sizes: Sizes, varying: Varying) -> Trace:
    """A trace that knows inputs and constants, before any node has run."""
    trace = Trace(model.proto, sizes)
    trace.varying.update(varying)
    elems = {v.name: v.type.tensor_type.elem_type for v in model.proto.graph.input}
    for name, shape in sample_shapes(model.proto, model.weights, sizes).items():
        trace.set(name, elems[name], shape)
    for name, weight in weights.items():
        trace.learn_constant(name, weight)
    return trace


def _live_nodes(model: Model, facts: Facts, weights: Mapping[str, Weight]) -> Iterator[tuple[int, NodeProto]]:
    """The nodes that compute something, in order, with their indices: no constants, no branches that are never taken."""
    dead: int | None = None
    for index, node in enumerate(model.proto.graph.node):
        if dead is not None:
            if node.op_type == CLOSE and get_flat_id(node) == dead:
                dead = None
            continue
        if is_constant(node) and node.output[0] in weights:
            continue
        yield index, node
        if node.domain == FLAT and scopes.is_dead(facts, node):
            dead = get_flat_id(node)


def _follow(trace: Trace, model: Model, nodes: Iterable[NodeProto]) -> None:
    """Learn what nodes make, and the constants that were added for them; where a node cannot be followed it is `failed`."""
    for node in nodes:
        for name in node.input:
            if name in model.weights and not trace.knows(name):
                trace.learn_constant(name, model.weights[name])
        try:
            if get_flat_id(node) is None:
                trace.step(node)
            else:
                scopes.trace_scope(trace, node)
        except Exception as e:
            if not is_guarded():
                raise
            trace.fail(node, e)


class _OtherSources:
    """Where shapes come from that node by node inference does not find: the file, inference over the whole model, and runs."""

    def __init__(self, model: Model, source: Model, trace: Trace) -> None:
        self.proto, self.trace = model.proto, trace
        graph = model.proto.graph
        self.symbols = _symbols(graph.input, trace)
        self.functions = {f.domain for f in model.proto.functions}
        self.hints = {v.name: v for v in (*graph.value_info, *graph.output)}
        foreign = (n for n in source.proto.graph.node if get_record(n) is NOTHING and trace.lacks_shapes(n))
        self.measured = MeasuredShapes(source, trace.sizes, [o for n in foreign for o in n.output if o])

    def infer(self, node: NodeProto) -> None:
        """Fill in what the file declares, and what is known of bodies and local functions."""
        for name in filter(None, node.output):
            if self.trace.shape(name) is None:
                hint = self.hints.get(name)
                if hint and (get_record(node) is not NOTHING or _is_complete(hint, self.symbols)):
                    self.trace.declare(hint, self.symbols)
                inside = any(True for _ in list_subgraphs(node)) or node.domain in self.functions
                if self.trace.shape(name) is None and inside:
                    self.trace.ask(name, self.proto)

    def settle(self, node: NodeProto) -> list[str]:
        """Where neither onnx nor a visitor tells a shape: from a run, else what the file says of it. Returns the names."""
        unknown = [name for name in node.output if name and self.trace.shape(name) is None]
        for name in unknown if unknown and self.trace.lacks_shapes(node) else ():
            types, hint = self.measured.types(name), self.hints.get(name)
            if types is not None:
                self.trace.settle(name, types)
            elif hint:
                self.trace.declare(hint, {**self.symbols, **_batch_symbol(self.trace, node, hint)})
        return [name for name in unknown if self.trace.shape(name) is not None]


def _symbols(inputs: Iterable[ValueInfoProto], facts: Facts) -> dict[str, Size]:
    """The sample sizes of the symbols that name the inputs' dynamic axes."""
    out: dict[str, Size] = {}
    for v in inputs:
        for d, size in zip(v.type.tensor_type.shape.dim, facts.shape(v.name) or (), strict=False):
            if d.dim_param:
                out.setdefault(d.dim_param, size)
    return out


def _is_complete(hint: ValueInfoProto, symbols: Mapping[str, Size]) -> bool:
    """Does the file say all sizes of a value, as numbers or as symbols of the inputs?"""
    tensor = hint.type.tensor_type
    return tensor.HasField("shape") and all(d.dim_value > 0 or d.dim_param in symbols for d in tensor.shape.dim)


def _batch_symbol(facts: Facts, node: NodeProto, hint: ValueInfoProto) -> dict[str, Size]:
    """The symbol on a value's first axis stands for the batch, where the node reads one."""
    dims, x = hint.type.tensor_type.shape.dim, facts.shape(node.input[0]) if node.input else None
    return {dims[0].dim_param: x[0]} if dims and dims[0].dim_param and x and isinstance(x[0], Dynamic) else {}
