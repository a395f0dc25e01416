"""Apply a plan: the only code that changes a graph.

Three steps. Weights are sliced by their layouts; one that several nodes read is copied first where their slices differ.
Constants and attributes that a rule said follow the plan are rewritten. Then the graph is traced anew: a value computed
from a size that pruning changed gets its original value back where it is not a shape that should follow, and every
tensor's shape is checked against what its layout predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Dynamic, Keep, Layout, Size
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.edit import Editor
from onnxprune.graph.facts import FLOATS, Facts
from onnxprune.graph.flat import FLAT, get_flat_id, nest, take_branches
from onnxprune.graph.model import Model
from onnxprune.graph.view import IN_BODY, Site, map_makers, map_readers, read_attribute
from onnxprune.graph.walk import Known, Told, Visitor, walk
from onnxprune.graph.weights import ArrayWeight, SlicedWeight, Weight
from onnxprune.groups import Analysis
from onnxprune.ops.records import NodeView, Values, get_record
from onnxprune.ops.registry import Edits
from onnxprune.plans import Plan, read_keep, read_units
from onnxprune.units import Unit


def apply_plan(analysis: Analysis, plan: Plan) -> Model:
    """A new model with the plan's channels gone. The original is not changed; weights are sliced when they are read."""
    return remove(analysis, read_keep(plan, analysis), read_units(plan, analysis))


def remove(analysis: Analysis, keep: Keep, units: Sequence[Unit] = ()) -> Model:
    """The same for who has looked up already what a plan names."""
    if not keep and not units:
        return Editor(analysis.model).finish()
    return skip_identities(nest(apply_flat(analysis, keep, units), analysis.model), find_bypassed(analysis, units))


def apply_flat(analysis: Analysis, keep: Keep, units: Sequence[Unit] = ()) -> Model:
    """The model that `apply_plan` makes before its bodies are put back: without bodies and calls.

    In the place of a unit there is an Identity, so that every value that stays has its name.
    """
    return _Surgeon(analysis, keep, units).run()


def skip_identities(model: Model, names: Sequence[str]) -> Model:
    """The same without the Identities that make these values, where nothing needs the values' names."""
    if not names:
        return model
    editor = Editor(model)
    editor.skip(names)
    return editor.finish()


def find_bypassed(analysis: Analysis, units: Sequence[Unit]) -> list[str]:
    """The values that an Identity makes once these units have gone.

    Where a branch goes between two activations that cut alike (Relu, say), the first of them goes too: cutting twice changes
    nothing, and the layer before it then stands before the second one.
    """
    if not units:
        return []
    nodes = analysis.flat.proto.graph.node
    gone, read, made_at = {i for u in units for i in u.goes}, map_readers(nodes), map_makers(nodes)
    outputs = {v.name for v in analysis.flat.proto.graph.output}
    names = [nodes[u.node].output[0] for u in units]
    for unit in units:
        first = made_at.get(unit.stays, -1)
        left = [at for at, _ in read[unit.stays] if at not in gone]
        after = read.get(nodes[unit.node].output[0], [])
        if first < 0 or left != [unit.node] or len(after) != 1 or outputs & {unit.stays, nodes[unit.node].output[0]}:
            continue
        if _cuts_alike(nodes[first], nodes[after[0][0]], analysis):
            names.append(unit.stays)
    return names


def _cuts_alike(first: NodeProto, second: NodeProto, analysis: Analysis) -> bool:
    """Do both nodes cut their input at the same known bounds, and do nothing else?"""

    def bounds(node: NodeProto) -> tuple[float, float] | None:
        traits = get_record(node).traits
        if not traits.clips or traits.bounds is None:
            return None
        weights = analysis.coupling.weights
        if any(n and n not in weights for n in node.input[1:]):
            return None
        return traits.bounds(NodeView(node), {i: weights[n].array() for i, n in enumerate(node.input) if n in weights})

    return (cut := bounds(first)) is not None and cut == bounds(second)


@dataclass
class _Surgeon(Visitor):
    analysis: Analysis
    keep: Keep
    units: Sequence[Unit] = ()
    edits: dict[int, Edits] = field(default_factory=dict)
    tainted: set[str] = field(default_factory=set)

    def run(self) -> Model:
        self.c = self.analysis.coupling
        self.editor = Editor(self.analysis.flat)
        self.nodes = self.editor.nodes
        self._collect_edits()
        self._remove_units()
        self._rewrite_constants()
        walk(self.editor.peek(), self, self.c.trace.sizes, varying=self.c.trace.varying)
        self._declare_shapes()
        self.editor.remove({i for unit in self.units for i in unit.goes} - {unit.node for unit in self.units})
        self.editor.drop_dead()
        return take_branches(self.editor.finish(), self.c.trace.taken, set(self.c.unread))

    def _moved(self, axes: Layout) -> bool:
        return any(axis.moves(self.keep) for axis in axes)

    def _collect_edits(self) -> None:
        for index, changes in self.c.edits.items():
            if changes:
                e = self.c.change(index, self.keep)
                if e.reshape is not None:
                    e.inputs[1] = np.array([s if isinstance(s, int) else -1 for s in e.reshape], np.int64)
                    self.editor.become(index, "Reshape")
                for name, value in e.attrs.items():
                    self.editor.set_attr(index, name, value)
                self.edits[index] = e

    def _remove_units(self) -> None:
        if not self.units:
            return
        stays = {self.nodes[u.node].output[0]: u.stays for u in self.units}
        made_at = map_makers(self.nodes)
        for name in find_bypassed(self.analysis, self.units):
            index = made_at[name]
            self.editor.pass_on(index, stays.get(name, self.nodes[index].input[0]))
            self.edits.pop(index, None)

    # constants: slices, and values that follow the plan

    def _rewrite_constants(self) -> None:
        """Give every use of a constant its new content; uses that agree go on sharing."""
        outputs = {v.name for v in self.editor.proto.graph.output}
        gone = {i for unit in self.units for i in unit.goes}
        for name, sites in map_readers(self.nodes).items():
            if name not in self.c.weights:
                continue
            slots = [at for at in sites if at[1] != IN_BODY]
            contents: dict[object, tuple[Weight | None, list[Site]]] = {}
            if name in outputs or len(slots) < len(sites):  # a body or the caller reads it whole, under its own name
                contents["same"] = (None, [])
            for at in slots:
                key, weight = self._content(name, at)
                contents.setdefault(key, (weight, []))[1].append(at)
            # Whoever stays keeps the name; the copies of those that go are dropped with them.
            self._store(name, sorted(contents.values(), key=lambda c: bool(c[1]) and all(i in gone for i, _ in c[1])))
        for index, e in self.edits.items():
            for slot, array in e.inputs.items():
                node = self.nodes[index]
                name = node.input[slot] if slot < len(node.input) else ""
                if name not in self.c.weights:
                    base = name or f"{node.output[0]}_in{slot}"
                    self.editor.set_input(index, slot, self.editor.add_constant(base, ArrayWeight(array)))

    def _content(self, name: str, at: Site) -> tuple[object, Weight | None]:
        """The weight of one use after the plan: a hashable key, and the weight (None if it is unchanged)."""
        index, slot = at
        e = self.edits.get(index)
        if e and slot in e.inputs:
            array = e.inputs[slot]
            return ("value", array.tobytes(), array.shape), ArrayWeight(array)
        if e and slot in e.entries:
            old = self.c.weights[name].array()
            array = np.array([s if isinstance(s, int) else -1 for s in e.entries[slot]], old.dtype).reshape(old.shape)
            return ("value", array.tobytes(), array.shape), ArrayWeight(array)
        axes = self.c.use(name, index, slot) or ()
        if not self._moved(axes):
            return "same", None
        cuts = [(a, axis.kept(self.keep)) for a, axis in enumerate(axes) if axis.moves(self.keep)]
        key = tuple((a, k.tobytes()) for a, k in cuts)
        return key, SlicedWeight(self.c.weights[name], cuts)

    def _store(self, name: str, contents: list[tuple[Weight | None, list[Site]]]) -> None:
        (first, _), *others = contents
        for weight, slots in others:
            weight = weight or self.c.weights[name]
            copy = self.editor.add_constant(name, weight)
            for index, slot in slots:
                self.editor.set_input(index, slot, copy)
        if first is not None:
            self.editor.replace_constant(name, first)

    # computed values, and the check of every shape

    def place(self, index: int, node: NodeProto, facts: Facts) -> list[NodeProto]:
        edge = index in self.edits or _is_edge(node, self.c.trace)
        return [*self._restore_values(index, node, facts), node] if edge else [node]

    def again(self, index: int, node: NodeProto, facts: Facts) -> list[NodeProto] | None:
        """A Range or the like has to be put right by its values: its shape is made from them."""
        missed = any(self._misses(name, facts) for name in node.output if name)
        return [*self._restore_values(index, node, facts), node] if missed else None

    def after(self, index: int, node: NodeProto, facts: Facts) -> Told:
        self._taint(index, node)
        return Told(self._check_shapes(node, facts))

    def _taint(self, index: int, node: NodeProto) -> None:
        """Remember what weights that lost channels have a part in: such a value changes, and means to."""
        if get_record(node).traits.reads_sizes:
            return
        moved = (n in self.c.weights and self._moved(self.c.use(n, index, i) or ()) for i, n in enumerate(node.input))
        if any(n in self.tainted for n in node.input) or any(moved):
            self.tainted.update(node.output)

    def _restore_values(self, index: int, node: NodeProto, trace: Facts) -> list[NodeProto]:
        """Where a node reads a small computed value: let it follow the plan, or keep what it was. Returns the nodes added."""
        added: list[NodeProto] = []
        e = self.edits.get(index) or Edits()
        original = self.analysis.flat.proto.graph.node[index]
        for slot, name in enumerate(original.input):
            if not name or slot in e.inputs or name in self.c.weights or name in self.tainted:
                continue
            old = self.c.trace.values(name)
            axes = self.c.layouts.get(name)
            follows = slot in e.entries
            if old is None or (axes and self._moved(axes)) or not (follows or name in self.c.trace.from_shapes):
                continue
            now = trace.values(node.input[slot])
            if old[0].shape != old[1].shape:  # as long as a dynamic size: nothing that a channel count gives
                continue
            want = _target(old, e.entries.get(slot))
            if now is not None and _matches(want, now):
                continue
            if now is None and not follows:
                continue
            added += self._patch(index, slot, want, old, now, trace)
        return added

    def _patch(
        self, index: int, slot: int, want: list[Size | float], old: Values, now: Values | None, trace: Facts
    ) -> list[NodeProto]:
        node = self.nodes[index]
        name = node.input[slot]
        dtype = old[0].dtype
        free = self._reshape_marks(node, want, trace)
        if free is not None:
            weight = ArrayWeight(np.array(free, dtype).reshape(old[0].shape))
            self.editor.set_input(index, slot, self.editor.add_constant(name, weight))
            return []
        factors = [_ratio(w, _entry(now, i) if now is not None else 0) for i, w in enumerate(want)]
        if any(f is None for f in factors):
            raise OnnxPruneError(
                f"{node.op_type} '{node.name or node.output[0]}': a dynamic size depends on a pruned channel count in a way "
                "that cannot be rewritten; exclude its group with --exclude and report the model"
            )
        times, by = (np.array([f[k] for f in factors if f], dtype).reshape(old[0].shape) for k in (0, 1))
        fill = np.array([0 if isinstance(w, Dynamic) else w for w in want], dtype).reshape(old[0].shape)
        use = np.array([isinstance(w, Dynamic) for w in want]).reshape(old[0].shape)
        return self.editor.rescale(index, slot, times, by, use, fill)

    def _reshape_marks(self, node: NodeProto, want: list[Size | float], trace: Facts) -> list[Size | float] | None:
        """A target without dynamic sizes: of a Reshape, 0 copies an input size and one -1 stands for what is left."""
        if all(not isinstance(w, Dynamic) for w in want):
            return want
        if node.op_type != "Reshape" or read_attribute(node, "allowzero"):
            return None
        shape = trace.shape(node.input[0]) or ()
        out: list[Size | float] = []
        for i, w in enumerate(want):
            copied = i < len(shape) and shape[i] == w
            out.append((0 if copied else -1) if isinstance(w, Dynamic) else w)
        return out if out.count(-1) <= 1 else None

    def _want(self, name: str) -> tuple[Size, ...] | None:
        axes = self.c.layouts.get(name)
        return None if axes is None else tuple(axis.size_after(self.keep) for axis in axes)

    def _misses(self, name: str, trace: Facts) -> bool:
        """Does a tensor come out in another shape than its layout predicts?"""
        want, got = self._want(name), trace.shape(name)
        return want is not None and got is not None and got != want

    def _check_shapes(self, node: NodeProto, trace: Facts) -> dict[str, Known]:
        """Returns the shapes that only the layouts tell."""
        known: dict[str, Known] = {}
        for name in node.output:
            want = self._want(name) if name else None
            if want is not None and trace.shape(name) is None:
                known[name] = (self.c.trace.dtype(name), want)
            elif name and self._misses(name, trace):
                raise OnnxPruneError(
                    f"{node.op_type} '{node.name or node.output[0]}': the plan predicts shape {list(want or ())}, "
                    f"shape inference says {list(trace.shape(name) or ())}; this is a defect of onnxprune, "
                    "please report the model"
                )
        return known

    def _declare_shapes(self) -> None:
        """Bring the shapes that the file declares of its values up to date."""

        def new_shape(name: str) -> list[Size] | None:
            if name in self.c.weights:
                shape = self.editor.constant_shape(name)
                return None if shape is None else [*shape]
            axes = self.c.layouts.get(name)
            return [axis.size_after(self.keep) for axis in axes] if axes is not None else None

        self.editor.declare_shapes(new_shape)


def _is_edge(node: NodeProto, old: Facts) -> bool:
    """Does the node use small values rather than compute one more?

    A size becomes a number where integers make floats, as in Cast and Expand, and where a dynamic one is divided: what an
    integer division drops cannot be brought back behind it.
    """
    if get_flat_id(node) is not None:
        return node.domain == FLAT
    traits = get_record(node).traits
    if old.dtype(node.output[0]) in FLOATS and any(i and old.dtype(i) not in FLOATS for i in node.input):
        return True
    if traits.rounds and old.values(node.input[0]) is not None and old.value(node.input[0]) is None:
        return True
    return any(o and old.values(o) is None for o in node.output)


def _target(old: Values, entries: list[Size] | None) -> list[Size | float]:
    if entries is not None:
        return list(entries)
    return [_entry(old, i) for i in range(old[0].size)]


def _entry(v: Values, i: int) -> Size | float:
    if v[0].size <= i or v[1].size <= i:
        return float("nan")
    a, b = v[0].ravel()[i].item(), v[1].ravel()[i].item()
    return a if a == b or a != a else Dynamic(a, b)


def _ratio(want: Size | float, now: Size | float) -> tuple[float, float] | None:
    """(p, q) such that a dynamic entry becomes what it should be as now * p / q; (1, 1) for a static entry."""
    if not isinstance(want, Dynamic):
        return 1, 1
    if not isinstance(now, Dynamic) or not now.first or want.first * now.second != want.second * now.first:
        return None
    if all(isinstance(n, int) for n in (want.first, now.first)):  # entries of floats are floats
        exact = Fraction(want.first, now.first)
        return exact.numerator, exact.denominator
    return want.first, now.first


def _matches(want: list[Size | float], now: Values) -> bool:
    if len(want) != now[0].size:
        return False
    first = [w.first if isinstance(w, Dynamic) else w for w in want]
    second = [w.second if isinstance(w, Dynamic) else w for w in want]
    return np.array_equal(first, now[0].ravel(), equal_nan=now[0].dtype.kind == "f") and np.array_equal(
        second, now[1].ravel(), equal_nan=now[1].dtype.kind == "f"
    )
