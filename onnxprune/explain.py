"""The cause of a frozen weight axis, and the route to it through the graph.

Layouts that are tied become one, and keep the reason that froze them, but not the route it took. So the route is found
afterwards: breadth first over the graph, from what froze (an operator, a graph input, a graph output) through tensors
that have an axis frozen for the same reason, to the nodes that read weights. A search looks at nothing but the tensors
that carry its reason, so that all of them together are linear in the axes of the graph.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from onnx import NodeProto

from onnxprune.axes import Layout, Reason
from onnxprune.coupling import SHARED, Coupling, Use
from onnxprune.graph.flat import CLOSE, FLAT
from onnxprune.graph.view import list_reads
from onnxprune.groups import Analysis, Frozen
from onnxprune.report.types import Stop

FIRST, LAST = 8, 4  # the stops to tell of where a route is longer than both
QUOTED = re.compile(r"'[^']*'")
Tensor = str | Use  # an activation, or one use of a weight
Vertex = Tensor | int  # .. or the index of a node


@dataclass(frozen=True)
class Route:
    """From the node that reads a weight to what freezes it. No stops: nothing in the graph could be named."""

    stops: tuple[Stop, ...] = ()
    left_out: int = 0  # stops after the first `FIRST`


def explain(a: Analysis) -> dict[tuple[str, int], Route]:
    """The route of every frozen weight axis, by tensor and axis. Kernel positions and the like have none."""
    asked: dict[Reason, list[Frozen]] = defaultdict(list)
    for f in a.frozen:
        if not f.reason.structural:
            asked[f.reason].append(f)
    wires = _Wires(a)
    carriers = _carriers(a.coupling, asked)
    routes: dict[tuple[str, int], Route] = {}
    for reason, frozen in asked.items():
        search = _search(wires, reason, carriers[reason])
        for f in frozen:
            start = next((t for t in wires.uses[f.tensor] if t in search.toward), None)
            routes[f.tensor, f.axis] = Route() if start is None else search.route(wires, start)
    return routes


def find_whole_weights(a: Analysis) -> dict[str, int]:
    """The parameters of each weight that no group reaches; scalars, which nothing could shrink, left out."""
    reached = {m.tensor for g in a.groups for m in g.members}
    return {n: a.param_count(n) for n in a.coupling.weights if n not in reached and a.param_count(n) > 1}


def generalize(reason: str, operator: str) -> str:
    """A reason without the names in it: what axes that froze in the same manner have in common.

    Graph inputs and outputs keep their names, there are few of them.
    """
    return f"{operator}: {QUOTED.sub('..', reason)}" if operator else reason


def _carriers(c: Coupling, wanted: Collection[Reason]) -> dict[Reason, list[Tensor]]:
    """The tensors that have an axis frozen for each of the wanted reasons."""
    out: dict[Reason, list[Tensor]] = defaultdict(list)
    tensors: Iterable[tuple[Tensor, Layout | None]] = chain(c.layouts.items(), c.uses.items())
    for tensor, axes in tensors:
        for r in {r for axis in axes or () for r in axis.reasons if r in wanted}:
            out[r].append(tensor)
    return out


class _Wires:
    """The nodes that touch a tensor, and the names of nodes."""

    def __init__(self, a: Analysis) -> None:
        graph, c = a.flat.proto.graph, a.coupling
        self.nodes = graph.node
        self.inputs = {v.name for v in graph.input} - set(c.weights)
        self.outputs = {v.name for v in graph.output}
        self.touching: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(graph.node):
            for name in {*list_reads(node), *node.output}:
                self.touching[name].append(i)
        self.uses: dict[str, list[Use]] = defaultdict(list)
        for use in c.uses:
            self.uses[use[0]].append(use)

    def ends(self, tensor: Tensor) -> Sequence[int]:
        """The nodes that read or write a tensor; of a weight with a layout for each use, the node of that use."""
        if isinstance(tensor, str):
            return self.touching[tensor]
        return self.touching[tensor[0]] if tensor[1:] == SHARED else tensor[1:2]

    def sources(self, reason: Reason, nodes: Iterable[int]) -> list[Vertex]:
        """The source of a reason: the node that it names, else the graph inputs and outputs in its words."""
        if reason.node:
            return [i for i in nodes if self.nodes[i].op_type == reason.op and _label(self.nodes[i]) == reason.node]
        named = (n for n in (*self.inputs, *self.outputs) if reason.text.endswith(f" '{n}'"))
        return [t for n in named for t in (*self.uses.get(n, ()), n)]

    def stop(self, v: Vertex, is_source: bool) -> Stop | None:
        """The name of a vertex on a route; None between two nodes."""
        if isinstance(v, int):
            node = self.nodes[v]
            if node.domain == FLAT and node.op_type == CLOSE:
                return None
            return Stop(node.op_type.removesuffix("Open") if node.domain == FLAT else node.op_type, _label(node))
        name = v if isinstance(v, str) else v[0]
        if is_source:
            return Stop("graph output" if name in self.outputs else "graph input", name)
        return None if isinstance(v, str) else Stop("weight", name)


def _label(node: NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "")


@dataclass
class _RouteTree:
    """A tree of shortest routes to what froze."""

    toward: dict[Vertex, Vertex | None] = field(default_factory=dict)  # the next vertex; None at a source
    stops: dict[Vertex, int] = field(default_factory=dict)  # how many there are from a vertex on, itself included
    near: dict[Vertex, Vertex] = field(default_factory=dict)  # the vertex on the route from which `LAST` stops are left

    def reach(self, v: Vertex, by: Vertex | None) -> None:
        is_stop = not isinstance(v, str) or by is None
        self.toward[v] = by
        self.stops[v] = is_stop + (0 if by is None else self.stops[by])
        self.near[v] = v if by is None or self.stops[v] <= LAST else self.near[by]

    def route(self, wires: _Wires, start: Vertex) -> Route:
        left_out = 0
        stops: list[Stop] = []
        v: Vertex | None = start if self.toward[start] is None else self.toward[start]
        while v is not None:
            if len(stops) == FIRST and not left_out and self.stops[v] > LAST:
                left_out = self.stops[v] - LAST
                v = self.near[v]
            by = self.toward[v]
            stop = wires.stop(v, by is None)
            stops += [stop] if stop and stop not in stops[-1:] else []
            v = by
        return Route(tuple(stops), left_out)


def _search(wires: _Wires, reason: Reason, carriers: Sequence[Tensor]) -> _RouteTree:
    """Breadth first from what froze, over the tensors that carry the reason and the nodes between them."""
    beside: Mapping[int, list[Tensor]] = defaultdict(list)
    for t in carriers:
        for i in wires.ends(t):
            beside[i].append(t)
    search, queue = _RouteTree(), deque[Vertex]()
    inside = set(carriers)
    for v in wires.sources(reason, beside):
        if isinstance(v, int) or v in inside:
            search.reach(v, None)
            queue.append(v)
    while queue:
        v = queue.popleft()
        for w in beside[v] if isinstance(v, int) else wires.ends(v):
            if w not in search.toward:
                search.reach(w, v)
                queue.append(w)
    return search
