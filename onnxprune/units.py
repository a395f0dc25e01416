"""Units: what a plan can remove beside channels. Residual branches, and layers that keep their layout.

They are found from the graph and its layouts, not from names. Removing a unit leaves an Identity: of the sum's other arm, or of
the layer's input. So every value keeps its name and layout, and whatever only the branch needed is dead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from onnxprune.axes import Axis, Layout, Size
from onnxprune.graph.facts import FLOATS
from onnxprune.graph.flat import get_flat_id
from onnxprune.graph.view import IN_BODY, map_makers, map_readers, read_attribute, read_opset
from onnxprune.groups import ANONYMOUS, Analysis
from onnxprune.ops.records import PERMUTE, REGROUP, SAME, get_record

BRANCH, LAYER = "residual branch", "layer"
TRY = (2, 3)  # the shape on which an operator is asked whether it keeps zeros


@dataclass(frozen=True)
class Unit:
    """Nodes that can go together, by their indices in the flat model.

    `node` becomes an Identity of its input `stays`: the sum behind a branch, or the layer. `goes` are the nodes that nobody needs
    then; `ends` those of them whose weights, once they are zero, make the branch add zero; `weights` what nobody else reads.
    """

    name: str
    kind: str
    node: int
    stays: str
    goes: frozenset[int]
    ends: tuple[int, ...]
    weights: tuple[str, ...] = ()


def find_units(a: Analysis) -> list[Unit]:
    """The units of a model, in the order of its nodes; names are unique.

    A branch is one where all that leads from its input to the sum is needed by nothing else, where it reads weights, and where
    it would add nothing if its last weights were zero. Bodies and local functions have none.
    """
    graph = _BranchFinder(a)
    units = [unit for index in range(len(graph.nodes)) if (unit := graph.branch_at(index) or graph.layer_at(index))]
    return _with_own_names(units)


def find_lost_weights(a: Analysis, units: Sequence[Unit]) -> set[str]:
    """The weights that only nodes of these units read."""
    gone = {i for u in units for i in u.goes}
    if not gone:
        return set()
    read = map_readers(a.flat.proto.graph.node)
    kept = {v.name for v in a.flat.proto.graph.output}
    return {n for n in a.coupling.weights if n in read and n not in kept and all(at in gone for at, _ in read[n])}


class _BranchFinder:
    """Who makes and reads what, in a flat model."""

    def __init__(self, a: Analysis) -> None:
        self.a, self.c = a, a.coupling
        self.nodes: Sequence[NodeProto] = a.flat.proto.graph.node
        self.makers, self.readers = map_makers(self.nodes), map_readers(self.nodes)
        self.outputs = {v.name for v in a.flat.proto.graph.output}
        self.live = {o for n in self.c.live for o in n.output if o} - self.c.computed
        self._keeps_zero: dict[object, bool] = {}

    def branch_at(self, index: int) -> Unit | None:
        """The branch that ends in a sum; of two that could go, the one with more parameters."""
        node = self.nodes[index]
        if not get_record(node).traits.sums or len(node.input) != 2 or not self._is_free(index):
            return None
        first, second = node.input
        if first == second or not self._is_alike(first, second, node.output[0]):
            return None
        sides = [
            (goes, arm, stays)
            for arm, stays in ((second, first), (first, second))
            if (goes := self._needed_only_by(arm, index))
        ]
        whole = [(goes, arm, stays) for goes, arm, stays in sides if self._leads_from_one(goes, stays)]
        for goes, arm, stays in sorted(whole, key=lambda x: -self._params(x[0])):
            ends = self._ends(arm, goes)
            if ends and self._params(goes):
                return self._unit(BRANCH, index, stays, goes, ends)
        return None

    def layer_at(self, index: int) -> Unit | None:
        """A layer with weights whose output has the layout of its input."""
        node = self.nodes[index]
        record = get_record(node)
        if record.product is None or not self._is_free(index) or node.input[0] not in self.live:
            return None
        weights = [n for n in node.input[1:] if n in self.c.weights and self.c.has_parameters(n)]
        reads = [n for n in node.input if n in self.live]
        if not weights or len(reads) != 1 or not self._is_alike(node.input[0], node.output[0]):
            return None
        # Without strides a size changes by the same number whatever it is; with them, one pixel may stay one pixel.
        if any(step != 1 for step in read_attribute(node, "strides", ())):
            return None
        return self._unit(LAYER, index, node.input[0], frozenset({index}), ())

    def _unit(self, kind: str, index: int, stays: str, goes: frozenset[int], ends: tuple[int, ...]) -> Unit:
        read = dict.fromkeys(n for i in sorted(goes) for n in self.nodes[i].input if n in self.c.weights)
        own = [n for n in read if n not in self.outputs and all(at in goes for at, _ in self.readers[n])]
        return Unit(self._name(own, self.nodes[index]), kind, index, stays, goes, ends, tuple(own))

    def _is_free(self, index: int) -> bool:
        """Does a node stand outside bodies and local functions, with a single output of known layout?"""
        node = self.nodes[index]
        outs = [o for o in node.output if o]
        return (
            get_flat_id(node) is None
            and len(outs) == 1
            and outs[0] in self.live
            and outs[0] in self.a.outside
            and index not in self.c.guarded
        )

    def _is_alike(self, *names: str) -> bool:
        """Are these activations of one layout, and of one type?"""
        layouts = {_forget_frozen(self.c.layouts.get(n)) for n in names}
        types = {self.c.trace.dtype(n) for n in names}
        return len(layouts) == 1 and None not in layouts and len(types) == 1 and all(n in self.live for n in names)

    def _needed_only_by(self, arm: str, index: int) -> frozenset[int]:
        """The nodes that nobody needs once the node `index` does not read `arm`; none where its maker stays."""
        gone, unread = set[int](), Counter[str]()
        todo = [(arm, index)]
        while todo:
            name, reader = todo.pop()
            sites = self.readers.get(name, [])
            unread[name] += sum(at == reader for at, _ in sites)
            maker = self.makers.get(name)
            if maker is None or maker in gone or not self._may_go(maker):
                continue
            if all(unread[o] == len(self.readers.get(o, [])) for o in self.nodes[maker].output if o):
                gone.add(maker)
                todo += [(n, maker) for n in dict.fromkeys(filter(None, self.nodes[maker].input))]
        return frozenset(gone) if self.makers.get(arm) in gone else frozenset()

    def _may_go(self, index: int) -> bool:
        node = self.nodes[index]
        inside = any(slot == IN_BODY for o in node.output if o for _, slot in self.readers.get(o, []))
        results = [o for o in node.output if o]
        return (
            get_flat_id(node) is None
            and not inside
            and self.outputs.isdisjoint(results)
            and all(o in self.a.outside for o in results)
        )

    def _leads_from_one(self, goes: frozenset[int], stays: str) -> bool:
        """Does the branch begin at activations that the other arm also comes from, and is nothing of the way between them kept?"""
        before = self._before(stays)
        fed = {n for i in goes for n in self.nodes[i].input if n in self.live and self.makers.get(n) not in goes}
        begin = fed & before
        return bool(begin) and not any(self._comes_from(n, begin) for n in fed - before if not self._is_size(n))

    def _comes_from(self, name: str, sources: set[str]) -> bool:
        """Is a value computed from one of those? Nodes before all of them are not looked at."""
        first = min(self.makers.get(n, -1) for n in sources)
        todo, seen = [name], set[str]()
        while todo:
            at = todo.pop()
            if at in sources:
                return True
            maker = self.makers.get(at, -1)
            if at not in seen and maker > first and not get_record(self.nodes[maker]).traits.reads_sizes:
                todo.extend(self.nodes[maker].input)
            seen.add(at)
        return False

    def _is_size(self, name: str) -> bool:
        """Is a value small and computed from sizes?"""
        return name in self.c.trace.from_shapes or self.c.trace.values(name) is not None

    def _before(self, name: str) -> set[str]:
        """A value, and what it is computed from; as far as the next value that a sum makes of others."""
        sources, todo = set[str](), [name]
        while todo:
            at = todo.pop()
            if at in sources:
                continue
            sources.add(at)
            maker = self.makers.get(at)
            if maker is not None and (at == name or not get_record(self.nodes[maker]).traits.sums):
                todo.extend(n for n in self.nodes[maker].input if n in self.live or n in self.c.layouts)
        return sources

    def _ends(self, arm: str, goes: frozenset[int]) -> tuple[int, ...]:
        """The nodes whose weights have to be zero for the branch to add zero; none where that does not do it."""
        ends, todo, seen = set[int](), [arm], set[str]()
        while todo:
            name = todo.pop()
            index = self.makers.get(name)
            if name in seen:
                continue
            seen.add(name)
            if index is None or index not in goes:
                return ()
            node = self.nodes[index]
            record = get_record(node)
            weights = any(map(self._is_parameter, node.input))
            if weights and (record.product is not None or record.traits.statistics):
                ends.add(index)
                continue
            way = next((ns for ns in self._ways(node) if self._zero_stays_zero(node, ns)), None)
            if way is None:
                return ()
            ends.update([index] if weights else ())  # a bias
            todo.extend(way)
        return tuple(sorted(ends))

    def _is_parameter(self, name: str) -> bool:
        """Is a value a weight, or made of weights alone?"""
        if name in self.c.weights:
            return self.c.has_parameters(name)
        return name in self.c.computed and self.c.trace.dtype(name) in FLOATS

    def _ways(self, node: NodeProto) -> Iterator[list[str]]:
        """Inputs that might have to be zero for a node to make zero: one of them, or all."""
        live = [n for n in node.input if n in self.live]
        if get_record(node).traits.moves:
            yield live[:1]
            return
        yield from ([n] for n in live)
        yield live

    def _zero_stays_zero(self, node: NodeProto, zeros: Sequence[str]) -> bool:
        """Does a node make zero where these inputs and its parameters are zero?"""
        traits = get_record(node).traits
        if traits.moves in (SAME, REGROUP, PERMUTE):
            return not traits.changes_type or traits.encoding is None
        if not traits.pointwise or len(node.output) != 1 or not zeros:
            return False
        kinds = tuple("zero" if n in zeros else "live" if n in self.live else n for n in node.input)
        key = (node.op_type, node.domain, str(node.attribute), kinds)
        if key not in self._keeps_zero:
            self._keeps_zero[key] = self._makes_zero(node, zeros)
        return self._keeps_zero[key]

    def _makes_zero(self, node: NodeProto, zeros: Sequence[str]) -> bool:
        rng = np.random.default_rng(0)
        feeds = dict[str, np.ndarray]()
        for name in filter(None, node.input):
            weight = self.c.weights.get(name)
            if name in zeros:
                feeds[name] = np.zeros(TRY, np.float32)
            elif name in self.live:
                feeds[name] = rng.standard_normal(TRY).astype(np.float32)
            elif weight is not None and math.prod(weight.shape) == 1:
                feeds[name] = weight.array().astype(np.float32).reshape(())
            else:
                feeds[name] = np.zeros((), np.float32)
        try:
            (result,) = _run_alone(node, feeds, read_opset(self.a.flat.proto))
        except Exception:  # the reference evaluator does not have it, or not for these inputs: nothing is known of it
            return False
        return bool(np.all(np.asarray(result) == 0))

    def _params(self, goes: frozenset[int]) -> int:
        names = {n for i in goes for n in self.nodes[i].input if n in self.c.weights}
        return sum(self.a.param_count(n) for n in names)

    def _name(self, own: Sequence[str], node: NodeProto) -> str:
        """What the names of its own weights have in common, up to a dot or slash; else the node's name, or what it makes."""
        named = [n for n in own if self.a.param_count(n) and not ANONYMOUS.match(n)]
        paths = [n.replace("/", ".").split(".")[:-1] for n in named]
        common = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
        return ".".join(parts[0] for parts in common).strip(".") or node.name or node.output[0]


def _forget_frozen(axes: Layout | None) -> tuple[Axis | Size, ...] | None:
    """A layout in which axes without channels are alike where they are of one size."""
    return None if axes is None else tuple(axis if axis.leaves else axis.size for axis in axes)


def _run_alone(node: NodeProto, feeds: Mapping[str, np.ndarray], version: int) -> Sequence[np.ndarray]:
    """What the reference evaluator makes of one node."""
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(node.output[0])]
    graph = helper.make_graph([node], "alone", inputs, outputs)
    imports = [helper.make_opsetid("", version)]
    model: ModelProto = helper.make_model(graph, opset_imports=imports)
    return list(ReferenceEvaluator(model).run(None, dict(feeds)))


def _with_own_names(units: Sequence[Unit]) -> list[Unit]:
    """Names that no two units share: the second one of a name has a number."""
    seen = Counter[str]()
    renamed = []
    for unit in units:
        seen[unit.name] += 1
        name = unit.name if seen[unit.name] == 1 else f"{unit.name}#{seen[unit.name]}"
        renamed.append(replace(unit, name=name))
    return renamed
