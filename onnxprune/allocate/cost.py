"""The remaining multiply-accumulates, parameters and bytes under a plan, counted from layouts without applying it.

The size of every axis is a polynomial in the sizes of the groups, and so is the sum over all nodes and weights. Worked
out once, it is evaluated thousands of times a second. What sizes alone do not tell is kept apart: a vector that nodes of
different groups share is stored once for each of its contents, and elements narrower than a byte are packed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

from onnx import NodeProto

from onnxprune.allocate.polynomial import Compiled, Ints, Poly, Values
from onnxprune.axes import Axis, Fixed, Keep, Layout, Prod, first
from onnxprune.coupling import Use
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.graph.view import map_makers
from onnxprune.graph.weights import BITS, dtype_of
from onnxprune.groups import Analysis, Group
from onnxprune.macs import add_up, count_macs
from onnxprune.ops.records import get_record
from onnxprune.plans import Plan, map_vars
from onnxprune.units import Unit, find_lost_weights

COSTS = ("macs", "params", "bytes")
Number = Poly | int
Indices = Sequence[int] | Ints
Keeps = Mapping[str, Indices]  # group -> the channels that stay; groups that are not named stay whole
KeepOf = Callable[[Group, int], Indices]  # the channels of a group that stay where so many do
Content = tuple[int, bytes]


@dataclass
class Cost:
    """One number of a model as a function of what its groups keep."""

    analysis: Analysis
    total: Compiled
    packed: list[tuple[Compiled, int]] = field(default_factory=list)  # elements of a weight, bits of one
    parted: list[tuple[list[Layout], int]] = field(
        default_factory=list
    )  # layouts of a shared vector, bits of an element

    def at(self, counts: Values) -> Values:
        """The cost where the groups keep `counts [.., groups]` channels, [..]; of their type.

        Exact but for vectors that unrelated nodes share (a bias of zeros, say), which are left out: what is stored of
        those depends on which channels stay.
        """
        out: Values = self.total(counts)
        for elements, bits in self.packed:
            out = out + -(-elements(counts) * bits // 8)
        return out

    def exact(self, keep_of: KeepOf) -> Callable[[Ints], int]:
        """The exact cost as a function of `counts [groups]`, which remembers what shared vectors hold."""
        content_of = cache(partial(self._content, keep_of))

        def of(counts: Ints) -> int:
            total, numbers = int(self.at(counts)), counts.tolist() if self.parted else ()
            for vectors, bits in self._shared:
                contents = {content_of(axes, tuple((i, numbers[i]) for i in groups)) for axes, groups in vectors}
                total += sum(-(-math.prod(n for n, _ in c) * bits // 8) for c in contents)
            return total

        return of

    def of(self, keeps: Keeps) -> int:
        """The cost of what stays, exactly."""
        counts = self.analysis.sizes.copy()
        for name, keep in keeps.items():
            counts[self.analysis.at_of[name]] = len(keep)
        return self.exact(lambda g, count: keeps.get(g.name, range(count)))(counts)

    def of_plan(self, plan: Plan) -> int:
        """The cost of what a plan leaves of groups; that of units that it removes has to be left out from the start."""
        return self.of({name: choice.keep for name, choice in plan.groups.items()})

    @property
    def whole(self) -> int:
        """The cost of the model as it is."""
        return self.of({})

    @cached_property
    def _shared(self) -> list[tuple[list[tuple[Layout, list[int]]], int]]:
        """Of each layout of a shared vector also the groups that it depends on."""
        group_of = {v: i for i, g in enumerate(self.analysis.groups) for v in g.vars}

        def groups(axes: Layout) -> list[int]:
            return list(dict.fromkeys(group_of[v] for d in axes for v in d.leaves if v in group_of))

        return [([(axes, groups(axes)) for axes in layouts], bits) for layouts, bits in self.parted]

    def _content(self, keep_of: KeepOf, axes: Layout, counts: tuple[tuple[int, int], ...]) -> tuple[Content, ...]:
        """The remaining length of the axes of a shared vector for given counts of its groups."""
        groups = [(self.analysis.groups[i], count) for i, count in counts]
        keep = {v: k for g, count in groups for v, k in map_vars(g, keep_of(g, count)).items()}
        return tuple(_content(d, keep) for d in axes)


def _content(axis: Axis, keep: Keep) -> Content:
    """The length of an axis after a plan, and what tells its content from others."""
    if axis.moves(keep):
        stay = axis.kept(keep)
        return len(stay), stay.tobytes()
    return axis.length, b"whole"


def make_cost(analysis: Analysis, kind: str, units: Sequence[Unit] = ()) -> Cost | None:
    """The cost of a `kind` (macs, params or bytes) as a function of the groups' counts; None if the model's own cost is unknown.

    What goes with `units` is not counted.
    """
    sizes = Sizes(analysis, units)
    if kind == "macs":
        macs = sizes.macs()
        return None if macs is None else Cost(analysis, Compiled(macs, len(analysis.groups)))
    return sizes.stored(in_bytes=kind == "bytes")


class Sizes:
    """The sizes of axes as polynomials in the sizes of the groups."""

    def __init__(self, analysis: Analysis, units: Sequence[Unit] = ()) -> None:
        """The removed `units` are not counted."""
        self.analysis, self.c = analysis, analysis.coupling
        self.gone, self._lost = {i for u in units for i in u.goes}, find_lost_weights(analysis, units)
        # The channels of a group have one footprint, so its first Var may stand for all of them.
        self.unknown: dict[Axis, Number] = {v: 0 for g in analysis.groups for v in g.vars}
        self.unknown |= {g.vars[0]: Poly({(i,): 1}) for i, g in enumerate(analysis.groups)}
        self.known: dict[Axis, Number] = {}

    def size(self, axis: Axis) -> Number:
        """The size of an axis; that at the first sample where it is dynamic."""
        if axis not in self.known:
            if axis in self.unknown:
                self.known[axis] = self.unknown[axis]
            elif axis.parts:
                parts = [self.size(p) for p in axis.parts]
                self.known[axis] = math.prod(parts) if isinstance(axis, Prod) else sum(parts)
            else:
                self.known[axis] = first(axis.size)
        return self.known[axis]

    def shape(self, axes: Layout | None) -> tuple[Number, ...] | None:
        return None if axes is None else tuple(self.size(d) for d in axes)

    def macs(self) -> Number | None:
        return None if self.analysis.uncounted else self._macs_of(self._stays)

    @property
    def _stays(self) -> Sequence[NodeProto]:
        """The nodes that count."""
        nodes = self.analysis.flat.proto.graph.node
        outs = {o for i in self.gone for o in nodes[i].output if o}
        return [n for n in self.c.live if outs.isdisjoint(n.output)] if outs else self.c.live

    def of_node(self, index: int) -> tuple[Number, Number, Number]:
        """The multiply-accumulates of a node, the elements of the activations that it reads, and of those that it writes.

        What is unknown counts as nothing.
        """
        node = self.analysis.flat.proto.graph.node[index]
        read = (n for n in node.input if n and n not in self.c.weights)
        sums = (sum(self._elements(n) for n in names) for names in (read, filter(None, node.output)))
        return self._macs_of([node]) or 0, *sums  # type: ignore[return-value]

    def _elements(self, name: str) -> Number:
        shape = None if name in self._unknown else self.shape(self.c.layouts.get(name))
        return 0 if shape is None else math.prod(shape)

    def _macs_of(self, nodes: Iterable[NodeProto]) -> Number | None:
        def input_shape(node: NodeProto, slot: int) -> tuple[Number, ...] | None:
            name = node.input[slot]
            made_at = self._made_at[next(o for o in node.output if o)]
            return self.shape(None if name in self._unknown else self.c.use(name, made_at, slot))

        macs: Number | None = count_macs(
            nodes, input_shape, lambda name: self.shape(None if name in self._unknown else self.c.layouts.get(name))
        )
        return macs

    @cached_property
    def _unknown(self) -> set[str]:
        return find_unsettled(self.c.live, self.c.trace)

    @cached_property
    def _made_at(self) -> Mapping[str, int]:
        return map_makers(self.analysis.flat.proto.graph.node)

    def stored(self, in_bytes: bool) -> Cost:
        """Elements (of parameters) or bytes (of running statistics too) of all weights of the types that count."""
        whole = list[Number]()
        packed: list[tuple[Number, int]] = []
        parted: list[tuple[list[Layout], int]] = []
        for name, bits, layouts in self._weights(in_bytes):
            if len(layouts) > 1:
                parted.append((layouts, bits))
                continue
            shape = self.shape(layouts[0]) if layouts else self.c.weights[name].shape
            elements: Number = math.prod(shape or ())
            if bits % 8:
                packed.append((elements, bits))
            else:
                whole.append(elements * (bits // 8))
        n = len(self.analysis.groups)
        return Cost(self.analysis, Compiled(add_up(whole), n), [(Compiled(p, n), bits) for p, bits in packed], parted)

    def _weights(self, in_bytes: bool) -> Iterator[tuple[str, int, list[Layout]]]:
        """Each weight that counts, the bits of an element (8 where elements are counted), and its different layouts."""
        uses: dict[str, dict[object, Layout]] = defaultdict(dict)
        for use, axes in self.c.uses.items():
            if use[1] not in self.gone and (in_bytes or not self._is_statistic(use)):
                uses[use[0]].setdefault(tuple(_term(d) for d in axes), axes)
        for name, w in self.c.weights.items():
            if name in self._lost:
                continue
            counts = self.c.has_parameters(name) and (in_bytes or (w.shape and name not in self.analysis.statistics))
            if counts:
                bits = (BITS.get(w.data_type) or dtype_of(w.data_type).itemsize * 8) if in_bytes else 8
                yield name, bits, list(uses[name].values())

    def _is_statistic(self, use: Use) -> bool:
        """Does this use read a running mean or variance?"""
        _, index, slot = use
        return index >= 0 and slot in get_record(self.analysis.flat.proto.graph.node[index]).traits.statistics


def _term(axis: Axis) -> object:
    """The key of an axis; equal for axes that hold the same channels at the same positions."""
    if axis.parts:
        return type(axis), *map(_term, axis.parts)
    return axis.size if isinstance(axis, Fixed) else axis


__all__ = ["COSTS", "Cost", "Keeps", "make_cost"]
