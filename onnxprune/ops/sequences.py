"""Sequences of tensors. With constant positions they are Splits and Concats, and are written so before layouts are coupled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxprune.graph.facts import Facts
from onnxprune.graph.model import Model
from onnxprune.graph.sample_sizes import choose_first_sizes
from onnxprune.graph.view import Names, get_domain, list_reads, list_value_names, read_attribute, read_opset
from onnxprune.graph.walk import Visitor, walk
from onnxprune.layout import LayoutError
from onnxprune.ops.records import get_record
from onnxprune.ops.registry import Axes, Op, couple

MOST_PIECES = 1024  # of a Split that stands for a sequence


@couple(
    "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SplitToSequence",
)  # fmt: skip
def sequence(op: Op) -> list[Axes | None]:
    """Where positions and sizes are constant, sequences are seen as Split, Concat and Identity; here they are not."""
    raise LayoutError("a sequence whose length or positions the model computes")


def has_sequences(model: Model) -> bool:
    return any(get_record(n).rule is sequence for n in model.proto.graph.node)


def lower_sequences(model: Model) -> Model:
    """A flat model without the sequences whose length, positions and sizes are constant: the same tensors, by name.

    A sequence that is also read in another way stays beside its tensors.
    """
    return _Lowering(model).run()


class _Lowering(Visitor):
    """Knows the tensors that each sequence holds."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.names = Names(list_value_names(model.proto))
        self.old_split = read_opset(model.proto) < 13  # sizes and axes are attributes
        self.contents: dict[str, list[str]] = {}
        self.placed: dict[int, list[NodeProto]] = {}  # what stands in the place of each node
        self.nodes: list[NodeProto] = []  # of the one at hand
        self.spare: set[str] = set()  # what only matters where it is read: sequences, and nodes that are new

    def run(self) -> Model:
        walk(self.model, self, choose_first_sizes(self.model.proto, self.model.weights))
        kept = self._needed()
        outputs = {name for node in kept for name in node.output}
        proto = ModelProto()
        proto.CopyFrom(self.model.proto)
        del proto.graph.node[:], proto.graph.value_info[:]
        proto.graph.node.extend(kept)
        proto.graph.value_info.extend(
            v for v in self.model.proto.graph.value_info if v.name not in self.spare - outputs
        )
        return replace(self.model, proto=proto)

    def begin(self, facts: Facts, weights: object) -> None:
        self.trace = facts

    def place(self, index: int, node: NodeProto, facts: Facts) -> list[NodeProto]:
        self.nodes = self.placed[index] = []
        lower = self.HOW.get(node.op_type) if not get_domain(node) else None
        if lower is None or not lower(self, node):
            self.nodes.append(node)
        return self.nodes

    def _needed(self) -> list[NodeProto]:
        """The nodes, without those whose spare outputs nobody reads."""
        wanted = {v.name for v in self.model.proto.graph.output}
        kept = []
        nodes = [n for i, node in enumerate(self.model.proto.graph.node) for n in self.placed.get(i, [node])]
        for node in reversed(nodes):
            if not node.output or not self.spare.issuperset(node.output) or not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(list_reads(node))
        return kept[::-1]

    def _emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attrs: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attrs))

    def _fresh(self, stem: str) -> str:
        name = self.names.claim(stem, f"{stem}_")
        self.spare.add(name)
        return name

    def _constant(self, stem: str, value: Any) -> str:
        name = self._fresh(stem)
        self._emit("Constant", [], [name], value=numpy_helper.from_array(np.array(value, np.int64)))
        return name

    def _with_axes(self, op: str, x: str, axis: int) -> str:
        """Squeeze or Unsqueeze one axis."""
        y = self._fresh(f"{x}/{op.lower()}")
        if self.old_split:
            self._emit(op, [x], [y], axes=[axis])
        else:
            self._emit(op, [x, self._constant(f"{y}/axes", [axis])], [y])
        return y

    def _position(self, node: NodeProto, slot: int, default: int) -> int | None:
        """A position that is the same at any size; None where the model computes it."""
        if len(node.input) <= slot or not node.input[slot]:
            return default
        value = self.trace.value(node.input[slot])
        return None if value is None or value.size != 1 else int(value.ravel()[0])

    def _hold(self, node: NodeProto, tensors: list[str]) -> bool:
        """Remember what a sequence holds; its node stays for whoever reads the sequence itself."""
        self.contents[node.output[0]] = tensors
        self.spare.add(node.output[0])
        return False

    # one way for each operator: True where its work is done by new nodes

    def _split(self, node: NodeProto) -> bool:
        axis, x, seq = read_attribute(node, "axis", 0), node.input[0], node.output[0]
        sizes = self._sizes(node, axis)
        if sizes is None:
            return False
        parts = [self._fresh(f"{seq}/{i}") for i in range(len(sizes))]
        if self.old_split:
            self._emit("Split", [x], parts, node.name, axis=axis, split=sizes)
        else:
            self._emit("Split", [x, self._constant(f"{seq}/sizes", sizes)], parts, node.name, axis=axis)
        if len(node.input) < 2 and not read_attribute(node, "keepdims", 1):
            parts = [self._with_axes("Squeeze", part, axis) for part in parts]
        return self._hold(node, parts)

    def _sizes(self, node: NodeProto, axis: int) -> list[int] | None:
        """The lengths of the pieces; None if the model computes them, or there are none or too many."""
        split = self.trace.value(node.input[1]) if len(node.input) > 1 and node.input[1] else np.array(1)
        shape = self.trace.shape(node.input[0])
        if split is None or shape is None or not -len(shape) <= axis < len(shape):
            return None
        size = shape[axis]
        if split.ndim:
            sizes = [int(n) for n in split]
        elif isinstance(size, int) and split > 0:
            sizes = [min(int(split), size - at) for at in range(0, size, int(split))]
        else:
            return None
        return sizes if 0 < len(sizes) <= MOST_PIECES else None

    def _construct(self, node: NodeProto) -> bool:
        return self._hold(node, list(node.input))

    def _insert(self, node: NodeProto) -> bool:
        tensors = self.contents.get(node.input[0])
        at = None if tensors is None else self._position(node, 2, len(tensors))
        if tensors is None or at is None:
            return False
        at += len(tensors) if at < 0 else 0
        return self._hold(node, [*tensors[:at], node.input[1], *tensors[at:]])

    def _erase(self, node: NodeProto) -> bool:
        tensors, at = self.contents.get(node.input[0]), self._position(node, 1, -1)
        if not tensors or at is None:
            return False
        at %= len(tensors)
        return self._hold(node, [*tensors[:at], *tensors[at + 1 :]])

    def _pass_on(self, node: NodeProto) -> bool:
        return node.input[0] in self.contents and self._hold(node, self.contents[node.input[0]])

    def _at(self, node: NodeProto) -> bool:
        tensors, at = self.contents.get(node.input[0]), self._position(node, 1, 0)
        if tensors is None or at is None or not -len(tensors) <= at < len(tensors):
            return False
        self._emit("Identity", [tensors[at]], node.output, node.name)
        return True

    def _length(self, node: NodeProto) -> bool:
        tensors = self.contents.get(node.input[0])
        if tensors is not None:
            self._emit(
                "Constant", [], node.output, node.name, value=numpy_helper.from_array(np.array(len(tensors), np.int64))
            )
        return tensors is not None

    def _concat(self, node: NodeProto) -> bool:
        tensors, axis = self.contents.get(node.input[0]), read_attribute(node, "axis", 0)
        if tensors and read_attribute(node, "new_axis", 0):
            tensors = [self._with_axes("Unsqueeze", x, axis) for x in tensors]
        if tensors:
            self._emit("Concat", tensors, node.output, node.name, axis=axis)
        return bool(tensors)

    HOW: ClassVar[dict[str, Callable[[_Lowering, NodeProto], bool]]] = {
        "ConcatFromSequence": _concat, "Identity": _pass_on, "SequenceAt": _at, "SequenceConstruct": _construct,
        "SequenceEmpty": _construct, "SequenceErase": _erase, "SequenceInsert": _insert, "SequenceLength": _length,
        "SplitToSequence": _split,
    }  # fmt: skip
