"""Walk the graph once, and say of each activation which channels hold constants, or multiples of others.

By the laws an operator with a rule treats all channels alike, and each for itself unless it mixes them. So what is the same in all
that it reads comes out the same; factors and shifts come through where its record says so. An operator that nothing is known of
makes slices of which nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto

from onnxprune.axes import Axis, Var
from onnxprune.free.calculator import Calculator
from onnxprune.free.contents import Contents
from onnxprune.free.slices import Slices, add, combine, multiply
from onnxprune.free.substitution import take_channel_rows
from onnxprune.free.sums import ProductNode
from onnxprune.graph.flat import get_flat_id
from onnxprune.graph.view import list_subgraphs
from onnxprune.graph.weights import Array, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import NOTHING, NodeView, Passes, Record, get_record

LISTS = (AttributeProto.FLOATS, AttributeProto.STRINGS, AttributeProto.TENSOR)  # may have an entry for each channel
Operands = dict[int, Slices]


class RankedNode(NodeView):
    """A node with the ranks of what it reads."""

    def __init__(self, values: Values, index: int, node: NodeProto) -> None:
        super().__init__(node)
        self._values, self._index = values, index

    def rank(self, i: int = 0) -> int:
        return len(self._values.layout(self._index, i, self.node.input[i]))


class Values:
    """The slices of the wanted channels, by tensor; there are none where nothing is known."""

    def __init__(self, analysis: Analysis, wanted: set[Var]) -> None:
        self.analysis, self.c, self._wanted = analysis, analysis.coupling, wanted
        self.nodes = analysis.flat.proto.graph.node
        self.contents = Contents(analysis)
        self.known: dict[str, dict[Var, Slices]] = {}
        self.special: set[Var] = set()  # of which something is known somewhere
        self._calculator = Calculator(analysis.flat)
        self._carried: dict[str, tuple[Var, ...]] = {}

    def layout(self, index: int, slot: int, name: str) -> Sequence[Axis]:
        return self.c.use(name, index, slot) or ()

    def carried(self, name: str) -> tuple[Var, ...]:
        """The wanted channels that an activation has."""
        if name not in self._carried:
            axes = self.c.layouts.get(name) or ()
            self._carried[name] = tuple(
                v for v in dict.fromkeys(v for a in axes for v in a.leaves) if v in self._wanted
            )
        return self._carried[name]

    def slices(self, name: str, v: Var) -> Slices:
        """The known slices of an activation's channels."""
        return self.known.get(name, {}).get(v) or Slices.unknown(v.size)

    def visit(self, index: int, node: NodeProto) -> None:
        """Say what a node makes; all before it have been visited."""
        if not any(n in self.known or self.contents.is_constant(n) for n in node.input) or _is_opaque(node):
            return
        record = get_record(node)
        for name in filter(None, node.output):
            for v in self.carried(name):
                slices = self._make(index, node, record, v)
                if slices is not None and not slices.is_unknown:
                    self.known.setdefault(name, {})[v] = slices
                    self.special.add(v)

    def _make(self, index: int, node: NodeProto, record: Record, v: Var) -> Slices | None:
        """Compute the output slices of a node for the channels of v."""
        if record.product:
            return ProductNode(self, index, node, record.product).make(v)
        if record.traits.affine and (line := self._line(index, node, record, v)) is not None:
            return line
        operands = self.operands(index, node, v)
        if not operands:
            return None
        traits, passes = record.traits, _passes(node, record)
        if not traits.pointwise and any(self._is_index(node.input[i]) for i in operands):
            passes = Passes.NOTHING
        shared = [i for i, n in enumerate(node.input) if n and i not in operands]
        read = [*operands.values()]
        if Passes.EACH in passes:
            slices = multiply(read)
        else:
            read += [self._same_for_all(i, node, v.size) for i in shared if traits.pointwise]
            slices = add(read) if traits.sums else combine(read, passes)
        return self._calculated(node, operands, shared, slices) if traits.pointwise else slices

    def _same_for_all(self, slot: int, node: NodeProto, size: int) -> Slices:
        """An input that all channels read."""
        if self._varies(slot, node):
            return Slices.shared(size)
        value = self.c.weights[node.input[slot]].array().reshape(1, 1)
        return Slices.of_rows(np.broadcast_to(value, (size, 1)))

    def _is_index(self, name: str) -> bool:
        """Does a weight say which elements to take? Those are no numbers to reckon with."""
        kind = self.c.weights[name].data_type if name in self.c.weights else self.c.trace.dtype(name)
        return self.contents.is_constant(name) and not is_float(dtype_of(kind or TensorProto.FLOAT))

    def _varies(self, slot: int, node: NodeProto) -> bool:
        """Is an input something else than a number?"""
        name = node.input[slot]
        if name not in self.c.weights or math.prod(self.c.weights[name].shape) != 1:
            return True
        return dtype_of(self.c.weights[name].data_type).kind in "OSUc"

    def operands(self, index: int, node: NodeProto, v: Var) -> Operands | None:
        """The slices of the channels of v that the node reads, by slot; None if channels lie on two axes."""
        operands: Operands = {}
        for slot, name in enumerate(node.input):
            axes = [(i, a) for i, a in enumerate(self.layout(index, slot, name)) if v in a.leaves] if name else []
            if len(axes) > 1:
                return None
            for i, axis in axes:
                if name in self.c.weights and dtype_of(self.c.weights[name].data_type).kind in "OSUc":
                    return None
                if name in self.c.weights:
                    operands[slot] = Slices.of_rows(take_channel_rows(self.c.weights[name].array(), i, axis, v))
                else:
                    operands[slot] = self.slices(name, v)
        return operands

    def _line(self, index: int, node: NodeProto, record: Record, v: Var) -> Slices | None:
        """Of a node that scales and shifts by constants; None where those of one channel differ."""
        live = [i for i, n in enumerate(node.input) if n and not self.contents.is_constant(n)]
        if len(live) != 1 or record.traits.affine is None:
            return None
        axes = self.layout(index, live[0], node.input[live[0]])
        at = [i for i, a in enumerate(axes) if v in a.leaves]
        read = {
            i: x for i, n in enumerate(node.input) if n and i != live[0] and (x := self.contents.read(n)) is not None
        }
        with np.errstate(all="ignore"):
            line = record.traits.affine(RankedNode(self, index, node), live[0], read) if len(at) == 1 else None
        if line is None:
            return None
        scale, shift = (_for_channels(x, len(axes), at[0], axes[at[0]], v) for x in line)
        if scale is None or shift is None:
            return None
        return self.slices(node.input[live[0]], v).line(scale, shift)

    def _calculated(self, node: NodeProto, operands: Operands, shared: Sequence[int], slices: Slices) -> Slices:
        """With the constants that come of constants."""
        where = np.flatnonzero(np.all([o.constant for o in operands.values()], axis=0) & ~slices.constant)
        if not len(where) or any(self._varies(i, node) for i in shared):
            return slices
        inputs = {i: self._typed(node.input[i], o.shifts[where]) for i, o in operands.items()}
        inputs |= {i: self.c.weights[node.input[i]].array() for i in shared}
        constants = self._calculator.evaluate(node, dict(sorted(inputs.items())))
        if constants is None or constants.size != len(where):
            return slices
        return slices.with_constants(where, constants.reshape(-1).astype(np.float64))

    def _typed(self, name: str, values: Array) -> Array:
        return values.astype(dtype_of(self.c.trace.dtype(name) or TensorProto.FLOAT))


def _passes(node: NodeProto, record: Record) -> Passes:
    """The properties of slices that a node preserves."""
    traits = record.traits
    if traits.moves:
        return Passes.NOTHING if traits.changes_type else Passes.ALL
    return traits.passes(NodeView(node)) if callable(traits.passes) else traits.passes


def _is_opaque(node: NodeProto) -> bool:
    """Is nothing known of what it makes of single channels?"""
    record = get_record(node)
    lists = any(a.type in LISTS for a in node.attribute)
    return (
        record is NOTHING or record.traits.random or lists or get_flat_id(node) is not None or any(list_subgraphs(node))
    )


def _for_channels(x: Array, rank: int, at: int, axis: Axis, v: Var) -> Array | None:
    """A constant that broadcasts to `rank` axes as one number for each channel; None where a channel has several."""
    if x.size == 1:
        return np.broadcast_to(x.reshape(1), (v.size,)).astype(np.float64)
    at -= rank - x.ndim
    if at < 0 or x.shape[at] != axis.size:
        return None
    rows = take_channel_rows(x, at, axis, v)
    return rows[:, 0].astype(np.float64) if (rows == rows[:, :1]).all() else None
