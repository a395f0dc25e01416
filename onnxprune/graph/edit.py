"""Change a copy of a model: attributes, inputs, constants. Everything that is not changed stays as it was, byte for byte.

Edits go to the protobuf message itself. A graph library would have to take the message apart and put it together again,
and what its own classes do not model (metadata, doc strings, quantization annotations, 4-bit types, opset imports) would
have to be carried around it; six kinds of edit need none of that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnxprune.axes import Size
from onnxprune.graph.flat import get_flat_id
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import get_constant
from onnxprune.graph.view import (
    Names,
    NodeBuilder,
    find_attribute,
    find_captured,
    list_reads,
    list_value_names,
    read_opset,
)
from onnxprune.graph.weights import ArrayWeight, Weight
from onnxprune.ops.records import get_record


class Editor:
    """A copy of a model, open for changes; `finish` closes it."""

    def __init__(self, model: Model) -> None:
        self._source = model
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.proto)
        self.weights: dict[str, Weight] = dict(model.weights)
        self.nodes: list[NodeProto] = list(self.proto.graph.node)
        self._inserted: dict[int, list[NodeProto]] = defaultdict(list)
        self._initializers = {t.name: t for t in self.proto.graph.initializer}
        self._constants = {n.output[0]: n for n in self.nodes if n.op_type == "Constant" and n.output}
        self._opset = read_opset(model.proto)
        self._touched = False
        self._added = set[str]()

    @cached_property
    def _names(self) -> Names:
        return Names(list_value_names(self.proto))

    def _fresh(self, base: str) -> str:
        return self._names.claim(f"{base}_pruned_1", f"{base}_pruned_")

    def set_attr(self, index: int, name: str, value: Any) -> None:
        """Set an attribute of a node; None removes it."""
        node = self.nodes[index]
        for i, a in enumerate(node.attribute):
            if a.name == name:
                if value is None:
                    del node.attribute[i]
                else:
                    a.CopyFrom(helper.make_attribute(name, value, a.doc_string or None))
                return
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))

    def become(self, index: int, op: str) -> None:
        """Another operator of the default domain in the node's place, with the same name and outputs and no attributes."""
        node = self.nodes[index]
        node.op_type, node.domain = op, ""
        del node.attribute[:]

    def pass_on(self, index: int, name: str) -> None:
        """An Identity of a value in the node's place."""
        self.become(index, "Identity")
        node = self.nodes[index]
        del node.input[:]
        node.input.append(name)
        self._touched = True

    def remove(self, indices: Iterable[int]) -> None:
        """Take nodes out that nobody needs, and those with them whose sizes alone are read."""
        for index in indices:
            self.nodes[index] = NodeProto()
            self._inserted.pop(index, None)
            self._touched = True

    def skip(self, names: Iterable[str]) -> None:
        """Let who reads these outputs of Identities read what the Identities do, but for the model's outputs, and bodies."""
        identities = {
            n.output[0]: i for i, n in enumerate(self.nodes) if n.op_type == "Identity" and len(n.output) == 1
        }
        inside = {name for n in self.nodes for name in find_captured(n)} | {v.name for v in self.proto.graph.output}
        sources = {name: identities[name] for name in names if name in identities and name not in inside}
        for node in self.nodes:
            for slot, name in enumerate(node.input):
                while name in sources:
                    name = self.nodes[sources[name]].input[0]
                node.input[slot] = name
        for index in sources.values():
            self.nodes[index] = NodeProto()
        gone = [v for v in self.proto.graph.value_info if v.name in sources]
        for v in gone:
            self.proto.graph.value_info.remove(v)

    def set_input(self, index: int, slot: int, name: str) -> None:
        node = self.nodes[index]
        while len(node.input) <= slot:
            node.input.append("")
        node.input[slot] = name
        self._touched = True

    def add_constant(self, base: str, weight: Weight) -> str:
        """A new initializer whose name derives from `base`; equal small ones are not shared."""
        name = self._fresh(base)
        t = self.proto.graph.initializer.add()
        t.name, t.data_type = name, weight.data_type
        t.dims.extend(weight.shape)
        self.weights[name] = weight
        self._initializers[name] = t
        self._added.add(name)
        if self.proto.ir_version < 4:  # every initializer is an input there
            self.proto.graph.input.append(helper.make_tensor_value_info(name, weight.data_type, weight.shape))
        return name

    def replace_constant(self, name: str, weight: Weight) -> None:
        """New content for an initializer or a Constant node, under the same name."""
        if name in self._initializers:
            t = self._initializers[name]
            keep = (t.name, t.doc_string, list(t.metadata_props))
            t.Clear()
            t.name, t.doc_string = keep[:2]
            t.metadata_props.extend(keep[2])
            if not keep[1]:
                t.ClearField("doc_string")
            t.data_type = weight.data_type
            t.dims.extend(weight.shape)
            self.weights[name] = weight
            return
        node = self._constants[name]
        array = weight.array()
        tensor = numpy_helper.from_array(np.asarray(array, order="C"))
        for a in node.attribute:
            if a.name == "value":
                tensor.name, tensor.data_type = a.t.name, weight.data_type
                a.t.CopyFrom(tensor)
            elif a.name == "sparse_value":
                a.CopyFrom(helper.make_attribute("value", tensor))
            elif a.name in ("value_ints", "value_floats"):
                a.CopyFrom(helper.make_attribute(a.name, array.ravel().tolist()))

    def constant_shape(self, name: str) -> list[int] | None:
        """The shape of an initializer or a Constant node's tensor as it stands."""
        if name in self._initializers:
            return list(self._initializers[name].dims)
        array = get_constant(self._constants[name]) if name in self._constants else None
        return None if array is None else list(array.shape)

    def _constant_type(self, name: str) -> int:
        """The element type of an initializer or a Constant node's tensor as it stands; 0 of anything else."""
        if name in self._initializers:
            return int(self._initializers[name].data_type)
        value = find_attribute(self._constants[name], "value") if name in self._constants else None
        return value.t.data_type if value else 0

    def rescale(
        self, index: int, slot: int, times: np.ndarray, by: np.ndarray, use: np.ndarray, fill: np.ndarray
    ) -> list[NodeProto]:
        """Before node `index`, make a computed input x * times / by, with `fill` where `use` is false."""
        name, inserted = self.nodes[index].input[slot], self._inserted[index]
        old = len(inserted)

        def emit(op: str, *operands: str | np.ndarray) -> str:
            ins = [self.add_constant(name, ArrayWeight(x)) if isinstance(x, np.ndarray) else x for x in operands]
            out = self._fresh(name)
            inserted.append(helper.make_node(op, ins, [out], name=out))
            return out

        ops, y = NodeBuilder(emit), name
        if not np.array_equal(times, by):
            y = ops.Div(ops.Mul(y, times), by)
        if not use.all() and self._opset >= 9:
            y = ops.Where(use, y, fill)
        elif not use.all():  # there was no Where yet
            y = ops.Add(ops.Mul(y, use.astype(fill.dtype)), np.where(use, 0, fill).astype(fill.dtype))
        self.set_input(index, slot, y)
        return inserted[old:]

    def declare_shapes(self, shape_of: Callable[[str], list[Size] | None]) -> None:
        """Update the static sizes in value_info and in inputs that are initializers."""
        g = self.proto.graph
        for v in (*g.value_info, *(v for v in g.input if v.name in self.weights)):
            new = shape_of(v.name)
            dims = v.type.tensor_type.shape.dim
            if new is None or not v.type.tensor_type.HasField("shape"):
                continue
            elem = self._constant_type(v.name) or v.type.tensor_type.elem_type
            if len(dims) != len(new) or elem != v.type.tensor_type.elem_type:  # a constant that plays another part now
                v.CopyFrom(helper.make_tensor_value_info(v.name, elem, [_symbol(s) for s in new]))
                continue
            for d, size in zip(dims, new, strict=True):
                if d.HasField("dim_value") and isinstance(size, int) and d.dim_value != size:
                    d.dim_value = size

    def drop_dead(self) -> None:
        """Remove nodes and constants that the changes left without a reader; what was unread before stays."""
        if not self._touched:
            return
        before = _readers(self._source.proto)
        now = _readers(self.proto) | {x for ns in self._inserted.values() for n in ns for x in n.input}
        orphans = before - now
        while orphans:
            gone = [
                i
                for i, n in enumerate(self.nodes)
                if n.output and get_flat_id(n) is None and all(not o or o in orphans for o in n.output)
            ]
            if not gone:
                break
            dead = [n for i in gone for n in (*self._inserted.pop(i, ()), self.nodes[i])]
            for i in gone:
                self.nodes[i] = NodeProto()
            left = _inputs(n for n in self.nodes) | {x for ns in self._inserted.values() for n in ns for x in n.input}
            left |= {o.name for o in self.proto.graph.output}
            # What they only took the size of is a part of the network, read or not.
            readers = [n for n in dead if not get_record(n).traits.reads_sizes]
            orphans = {i for n in readers for i in n.input if i and i not in left}
        self._drop_constants(before)

    def _drop_constants(self, before: set[str]) -> None:
        g = self.proto.graph
        left = _inputs(self.nodes) | {x for ns in self._inserted.values() for n in ns for x in n.input}
        left |= {o.name for o in g.output}
        for name in [n for n in self._initializers if n in before | self._added and n not in left]:
            g.initializer.remove(self._initializers.pop(name))
            del self.weights[name]
            for kind in (g.input, g.value_info):
                for v in [v for v in kind if v.name == name]:
                    kind.remove(v)

    def peek(self) -> Model:
        """The model as it stands."""
        return replace(self._source, proto=self.proto, weights=self.weights)

    def finish(self) -> Model:
        """The changed model; the editor must not be used any more."""
        if self._inserted or any(not n.op_type for n in self.nodes):
            nodes = [m for i, n in enumerate(self.nodes) for m in (*self._inserted.get(i, ()), n) if m.op_type]
            copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
            del self.proto.graph.node[:]
            self.proto.graph.node.extend(copies)
        return self.peek()


def _symbol(size: Size) -> int | None:
    return size if isinstance(size, int) else None


def _inputs(nodes: Any) -> set[str]:
    return {name for n in nodes for name in list_reads(n)}


def _readers(proto: onnx.ModelProto) -> set[str]:
    return _inputs(proto.graph.node) | {o.name for o in proto.graph.output}
