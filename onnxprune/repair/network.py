"""The pruned network while it is repaired: who makes and reads each value, what is constant, and changes of weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto

from onnxprune.graph.edit import Editor
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, FLAT, nest
from onnxprune.graph.io import Model
from onnxprune.graph.nodes import all_weights
from onnxprune.graph.weights import ArrayWeight
from onnxprune.groups import Analysis
from onnxprune.layout import Dim, Size, find, kept, leaves
from onnxprune.repair.layers import Change, Site, Unfit
from onnxprune.repair.segments import reads
from onnxprune.repair.store import Array


def called(flat: Model, source: Model) -> Model:
    """A flat model that ONNX Runtime can run: bodies put back, calls of local functions left as their nodes."""
    proto = ModelProto()
    proto.CopyFrom(flat.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(
        n for n in flat.proto.graph.node if n.domain != FLAT or n.op_type not in (CALL_OPEN, CALL_CLOSE)
    )
    return nest(Model(proto, dict(flat.weights), flat.path, flat.size_bytes, flat.external, flat.data_files), source)


class Network:
    """A pruned model in the form of `called`, open for changes of its weights."""

    def __init__(self, analysis: Analysis, keep: Mapping[Dim, np.ndarray], pruned: Model) -> None:
        self.analysis, self.keep = analysis, keep
        self.editor = Editor(pruned)
        self.model = self.editor.peek()
        self.nodes = self.editor.nodes
        self.weights = all_weights(pruned)
        self._inputs = [list(n.input) for n in self.nodes]  # as they were
        self.makers = {o: i for i, n in enumerate(self.nodes) for o in n.output if o}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for name in reads(node):
                self.readers[name].append(i)
        self.outputs = [v.name for v in pruned.proto.graph.output]
        self.live = self._after(v.name for v in pruned.proto.graph.input if v.name not in self.weights)
        self.touched = self._after(n for n in self.live if self.moves(n))

    def _after(self, start: Iterable[str]) -> set[str]:
        """Those values, and all that are computed from them."""
        found = set(start)
        for node in self.nodes:
            if any(name in found for name in reads(node)):
                found.update(filter(None, node.output))
        return found

    def moves(self, name: str) -> bool:
        """Did a value lose channels, or get them in another order?"""
        axes = self.analysis.coupling.layouts.get(name) or ()
        return any(v in self.keep for d in axes for v in leaves(d))

    def stays(self, name: str) -> list[tuple[int, np.ndarray]]:
        """Of the original's value, the positions that the pruned one has: (axis, positions) where not all of them."""
        axes = self.analysis.coupling.layouts.get(name) or ()
        return [(a, kept(d, self.keep)) for a, d in enumerate(axes) if any(v in self.keep for v in leaves(d))]

    def sizes(self, name: str) -> tuple[Size, ...] | None:
        """The sizes of a value in the original."""
        axes = self.analysis.coupling.layouts.get(name)
        return None if axes is None else tuple(find(d).size for d in axes)

    def const(self, name: str) -> Array | None:
        return self.weights[name].array() if name in self.weights else None

    def site(self, index: int) -> Site:
        node = self.nodes[index]
        return Site(index, node, [self.const(n) if n else None for n in node.input])

    def only_reader(self, name: str) -> int | None:
        """The node that reads a value, if it is the only one and the value is no output."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def check(self, change: Change) -> None:
        """Raises Unfit for a weight that others read too: they would need another one."""
        if self.is_shared(change) and change.array.size > max(change.array.shape, default=1):
            raise Unfit("its weight is shared with other nodes")

    def is_shared(self, change: Change) -> bool:
        """Do others read the constant that a change would replace?"""
        ins = self._inputs[change.node]
        name = ins[change.slot] if change.slot < len(ins) else ""
        return len(self.readers.get(name, ())) > 1 or name in self.outputs

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            put(self.editor, change, self.is_shared(change))


def put(editor: Editor, change: Change, shared: bool) -> None:
    """Give a node's input new contents; a name of its own where it had none or others read it."""
    node, weight = editor.nodes[change.node], ArrayWeight(change.array)
    name = node.input[change.slot] if change.slot < len(node.input) else ""
    if name and not shared:
        editor.replace_constant(name, weight)
    else:
        base = name or f"{node.output[0]}_bias"
        editor.set_input(change.node, change.slot, editor.add_constant(base, weight))
