"""The pruned network while it is repaired: who makes and reads each value, what is constant, and changes of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto

from onnxprune.axes import Axis, Keep, Size
from onnxprune.calibration.array_store import Array
from onnxprune.graph.edit import Editor
from onnxprune.graph.flat import CALL_CLOSE, CALL_OPEN, FLAT, nest
from onnxprune.graph.model import Model
from onnxprune.graph.nodes import collect_weights
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.graph.view import list_reads, map_makers, map_readers
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.graph.weights import ArrayWeight, dtype_of, is_float
from onnxprune.groups import Analysis
from onnxprune.ops.records import PERMUTE, REGROUP, SAME, get_record
from onnxprune.repair.codes import StoredCode
from onnxprune.repair.kinds import is_layer, is_recurrent
from onnxprune.repair.linear_layers import Change, FitLayer, Site, Unfit
from onnxprune.repair.segments import compute_constants
from onnxprune.repair.support import Nearest


def restore_calls(flat: Model, source: Model) -> Model:
    """A flat model that ONNX Runtime can run: bodies put back, calls of local functions left as their nodes.

    Recurrent layers make all of their hidden states, which their repair looks at.
    """
    proto = ModelProto()
    proto.CopyFrom(flat.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(
        n for n in flat.proto.graph.node if n.domain != FLAT or n.op_type not in (CALL_OPEN, CALL_CLOSE)
    )
    for node in (n for n in proto.graph.node if is_recurrent(get_record(n)) and not n.output[0]):
        node.output[0] = f"{next(filter(None, node.output))}/states"
    return nest(replace(flat, proto=proto, weights=dict(flat.weights)), source)


def find_dependents(nodes: Iterable[NodeProto], start: Iterable[str]) -> set[str]:
    """Those values, and all that are computed from them."""
    values = set(start)
    for node in nodes:
        if any(name in values for name in list_reads(node)):
            values.update(filter(None, node.output))
    return values


def pick_positions(x: Array, positions: Mapping[int, Array]) -> Array:
    """An array with those positions only, by axis."""
    for axis, keep in positions.items():
        x = np.take(x, keep, axis)
    return x


class Constants:
    """The contents of a model's constants, and of those behind nodes that only move their elements or write them as other types."""

    def __init__(self, model: Model, nodes: Sequence[NodeProto]) -> None:
        self.model, self.nodes, self.weights = model, nodes, collect_weights(model)
        self.live = find_dependents(nodes, (v.name for v in model.proto.graph.input if v.name not in self.weights))
        self._makers = {name: nodes[i] for name, i in map_makers(nodes).items()}
        self._moved: dict[str, Array] = {}

    def of(self, name: str) -> Array | None:
        """The contents of a value; None where it is no such constant."""
        if name in self.weights:
            return self.weights[name].array()
        if name in self._moved:
            return self._moved[name]
        if name in self.live or self.root(name) not in self.weights:
            return None
        self._moved.update(compute_constants(self.model, [name]))
        return self._moved[name]

    def forget(self) -> None:
        """Let go of what was read."""
        self._moved.clear()

    def route(self, name: str) -> list[NodeProto]:
        """The nodes that a constant goes through to become a value, the last one first."""
        path = list[NodeProto]()
        while (node := self._makers.get(name)) is not None and get_record(node).traits.moves:
            path.append(node)
            name = node.input[0]
        return path

    def root(self, name: str) -> str:
        """The constant that a value is made from."""
        route = self.route(name)
        return str(route[-1].input[0]) if route else name

    def is_encoded(self, name: str) -> bool:
        """Is a value stored as another type than it is read?"""
        return any(get_record(n).traits.changes_type for n in self.route(name))

    def are_integers(self, name: str) -> bool:
        """Are the numbers of a value stored as integers?"""
        root = self.weights.get(self.root(name))
        return root is not None and self.is_encoded(name) and not is_float(dtype_of(root.data_type))

    def stored(self, name: str, array: Array) -> Array:
        """Compute the root's contents that make a value `array`, or the nearest possible. Raises Unfit."""
        for node in self.route(name):
            before = self.of(node.input[0])
            assert before is not None
            array = invert_node(Site(node, -1, [before, *map(self.of, node.input[1:])]), array)
        return array

    def nearest(self, name: str, array: Array) -> Array:
        """Compute the value after its root was set to make `array`: rounded as it is stored."""
        editor = Editor(self.model)
        editor.replace_constant(self.root(name), ArrayWeight(self.stored(name, array)))
        return compute_constants(editor.peek(), [name])[name]


def invert_node(site: Site, array: Array) -> Array:
    """Invert a node that moves elements: compute the input that makes `array`, or the nearest possible. Raises Unfit."""
    traits, before = site.record.traits, site.consts[0]
    assert before is not None
    if traits.moves == PERMUTE:
        return array.transpose(np.argsort(site.attr("perm", range(array.ndim)[::-1])))
    if traits.moves == REGROUP:
        return array.reshape(before.shape)
    if traits.encoding is not None:
        code = StoredCode.of(traits.encoding(site), site.known, array.shape, before.dtype)
        quantizes = is_float(before.dtype) and not is_float(array.dtype)
        return code.decode(array).astype(before.dtype) if quantizes else code.encode(array)
    if traits.changes_type and not is_float(before.dtype):
        raise Unfit(f"its weights are {before.dtype.name} of an unknown scale")
    return array.astype(before.dtype)


class Network:
    """A pruned model in the form of `restore_calls`, open for changes of its weights."""

    def __init__(
        self,
        analysis: Analysis,
        keep: Keep,
        original: Model,
        pruned: Model,
        thinned: Collection[tuple[str, int]] = (),
        changed: Iterable[str] = (),
        bypassed: Sequence[str] = (),
    ) -> None:
        """`thinned` are weights that are to become sparse: an output of the node, and which of its inputs.

        All that is made of the values `changed` is taken to differ from the original, too. Those of `bypassed`, which an
        Identity makes in the place of a unit, differ as well, and the layers just before them are to make up for it.
        """
        self.analysis, self.keep, self.original = analysis, keep, original
        self.editor = Editor(pruned)
        self.model = self.editor.peek()
        self.nodes = self.editor.nodes
        self.tokens = find_vocabulary_size(analysis.flat.proto)
        self._flat = map_makers(analysis.flat.proto.graph.node)
        self._inputs = [list(n.input) for n in self.nodes]  # as they were
        self.readers = map_readers(self.nodes)
        self.outputs = [v.name for v in pruned.proto.graph.output]
        self._constants = Constants(self.model, self.nodes)
        self.live = self._constants.live
        self._made_at = made_at = map_makers(self.nodes)
        self.thinned = {(made_at[o], slot) for o, slot in thinned if o in made_at}
        self.redirected = self._layers_before(bypassed)
        moved = [*changed, *bypassed, *(n for n in self.live if self.moves(n))]
        self.touched = find_dependents(
            self.nodes, [*moved, *(o for i, _ in self.thinned for o in self.nodes[i].output if o)]
        )

    def _layers_before(self, names: Iterable[str]) -> set[int]:
        """The nodes whose weights make these values, with nothing but sums and Identities in between."""
        made_at, todo, seen, layers = map_makers(self.nodes), list(names), set[str](), set[int]()
        while todo:
            name = todo.pop()
            index = made_at.get(name)
            if index is None or name in seen or name not in self.live:
                continue
            seen.add(name)
            record = get_record(self.nodes[index])
            if is_layer(record) and record.product:
                layers.add(index)
            elif record.traits.sums or record.traits.affine or record.traits.moves == SAME:
                todo.extend(self.nodes[index].input)
        return layers

    @cached_property
    def unsettled(self) -> set[str]:
        """The values that may have another length than the original's: the data decide it, and what is pruned has a say."""
        c = self.analysis.coupling
        return find_unsettled(c.live, c.trace, c.trace.guesses & self.touched)

    @cached_property
    def _originals(self) -> Constants:
        return Constants(self.original, self.original.proto.graph.node)

    def moves(self, name: str) -> bool:
        """Did a value lose channels, or get them in another order?"""
        axes = self.analysis.coupling.layouts.get(name) or ()
        return any(axis.moves(self.keep) for axis in axes)

    def stays(self, name: str) -> dict[int, np.ndarray]:
        """Of the original's value, the positions that the pruned one has, by axis; without axes that have all of them."""
        return self._stays(self.analysis.coupling.layouts.get(name) or ())

    def stays_of(self, index: int, slot: int) -> dict[int, np.ndarray]:
        """The same for the weight that a node reads."""
        at = self._flat[self.output_of(index)]
        name = self.analysis.flat.proto.graph.node[at].input[slot]
        return self._stays(self.analysis.coupling.use(name, at, slot) or ())

    def _stays(self, axes: Iterable[Axis]) -> dict[int, np.ndarray]:
        return {a: axis.kept(self.keep) for a, axis in enumerate(axes) if axis.moves(self.keep)}

    def output_of(self, index: int) -> str:
        """An output of a node by which the original's node is known."""
        output: str = next(o for o in self.nodes[index].output if o in self._flat)
        return output

    def in_original(self, index: int) -> int | None:
        """The original's node that a node comes from."""
        return next((self._flat[o] for o in self.nodes[index].output if o in self._flat), None)

    def original_site(self, index: int) -> Site:
        node = self.analysis.flat.proto.graph.node[self._flat[self.output_of(index)]]
        named = NodeProto()
        named.CopyFrom(node)
        named.output[0] = self.nodes[index].output[0]
        return Site(named, -1, [self._originals.of(n) if n else None for n in node.input], self.rank)

    def sizes(self, name: str) -> tuple[Size, ...] | None:
        """The sizes of a value in the original."""
        axes = self.analysis.coupling.layouts.get(name)
        return None if axes is None else tuple(axis.size for axis in axes)

    def const(self, name: str) -> Array | None:
        """The contents of a constant, and of one behind nodes that only move its elements."""
        return self._constants.of(name)

    def site(self, index: int) -> Site:
        node = self.nodes[index]
        return Site(
            node, index, [self.const(n) if n else None for n in node.input], self.rank, self._constants.are_integers
        )

    def current_site(self, index: int) -> Site:
        """The same with the weights that it has by now."""
        node, constants = self.nodes[index], Constants(self.model, self.nodes)
        consts = [constants.of(n) if n else None for n in node.input]
        return Site(node, index, consts, self.rank, constants.are_integers)

    def maker(self, name: str) -> int | None:
        """The node that makes a value."""
        return self._made_at.get(name)

    def rank(self, name: str) -> int | None:
        axes = self.analysis.coupling.layouts.get(name)
        return None if axes is None else len(axes)

    def only_reader(self, name: str) -> int | None:
        """The node that reads a value, if it is the only one and the value is no output."""
        readers = self.readers.get(name, [])
        return readers[0][0] if len(readers) == 1 and name not in self.outputs else None

    def check(self, change: Change) -> None:
        """Raises Unfit for a weight that others read too, where they would need another one, and for one that cannot be written."""
        name, array = self._name(change), change.array
        encoded = bool(name) and self._constants.is_encoded(name)
        if self.is_shared(change) and (encoded or array.size > max(array.shape, default=1)):
            raise Unfit("its weight is shared with other nodes")
        if encoded:
            self._constants.stored(name, array)

    def stores_all(self, change: Change) -> bool:
        """Is a weight stored in the type in which the node reads it, so that it may have any contents?"""
        name = self._name(change)
        return not name or not self._constants.is_encoded(name)

    def nearest(self, layer: FitLayer) -> Nearest | None:
        """A function to the nearest weights [g, K, O] that can be stored; None if all can."""
        name, code = self.nodes[layer.site.index].input[layer.slot], layer.code
        if code is not None:
            return lambda w: layer.matrix.pack(code.decode(code.encode(layer.matrix.unpack(w))).astype(np.float64))
        if name in self._constants.weights or not self._constants.is_encoded(name):
            return None

        def nearest(w: Array) -> Array:
            stored = self._constants.nearest(name, layer.matrix.unpack(w / layer.scale))
            return layer.matrix.pack(stored.astype(np.float64)) * layer.scale

        return nearest

    def _name(self, change: Change) -> str:
        """The input that a change replaces, as it was; '' where there was none."""
        ins = self._inputs[change.node]
        return ins[change.slot] if change.slot < len(ins) else ""

    def is_shared(self, change: Change) -> bool:
        """Do others read the constant that a change would replace?"""
        name = self._name(change)
        route = [name, *(n.input[0] for n in self._constants.route(name))]
        return bool(name) and any(self.only_reader(n) is None for n in route)

    def written(self, flat: Model, changes: Iterable[Change]) -> Model:
        """The changes, which name nodes of this network, made in the flat model that it comes from."""
        editor = Editor(flat)
        at = map_makers(editor.nodes)
        for change in changes:
            self._put(editor, change, next(at[o] for o in self.nodes[change.node].output if o in at))
        editor.drop_dead()
        return editor.finish()

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._put(self.editor, change, change.node)

    def thin(self, places: Iterable[tuple[int, int]], sparse: Model) -> None:
        """Take the weights that nodes read in those slots from a model that has them sparse."""
        for index, slot in places:
            name = self._constants.root(self.nodes[index].input[slot])
            old, new = self.model.weights.get(name), sparse.weights.get(name)
            if old is not None and new is not None and old.shape == new.shape:
                self.editor.replace_constant(name, new)

    def _put(self, editor: Editor, change: Change, index: int) -> None:
        """Give a node's input new contents; a name of its own where it had none, others read it, or it is moved."""
        node, slot = editor.nodes[index], change.slot
        name = node.input[slot] if slot < len(node.input) else ""
        known, array = collect_weights(editor.peek()), change.array
        if change.columns is not None:
            old = known[name].array() if name in known else self.const(name)
            assert old is not None
            array = old.copy()
            array[..., change.columns] = change.array
        shared = name == self._name(change) and self.is_shared(change)
        if name and name not in known and self._constants.is_encoded(name):
            root = self._constants.root(name)
            editor.replace_constant(root, ArrayWeight(self._constants.stored(name, array)))
        elif name in known and not shared:
            editor.replace_constant(name, ArrayWeight(array))
        else:
            base = name or f"{node.output[0]}_bias"
            editor.set_input(index, slot, editor.add_constant(base, ArrayWeight(array)))
