"""Queries on nodes: attributes, domains, opsets, bodies, the producer and the readers of a value, unused names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, count
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, helper

Site = tuple[int, int]  # node index, input slot
IN_BODY = -1  # the slot of a value that a body of the node reads


class NodeBuilder:
    """Makes nodes by the names of their operators: `ops.Mul(x, y)` is `emit("Mul", x, y)`."""

    def __init__(self, emit: Callable[..., str]) -> None:
        self._emit = emit

    def __getattr__(self, op: str) -> Callable[..., str]:
        return partial(self._emit, op)


def find_attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """The attribute of that name; None where the node has none."""
    a: AttributeProto
    for a in node.attribute:
        if a.name == name:
            return a
    return None


def read_attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, text as a str; `default` where the node has none."""
    node_attribute = find_attribute(node, name)
    value = default if node_attribute is None else helper.get_attribute_value(node_attribute)
    return value.decode() if isinstance(value, bytes) else value


def get_domain(item: NodeProto | FunctionProto | OperatorSetIdProto) -> str:
    """The domain of a node, a function or an import; '' is ONNX's own, under both of its names."""
    return "" if item.domain == "ai.onnx" else item.domain


def read_opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """The version that each domain is imported in."""
    return {get_domain(o): o.version for o in imports}


def read_opset(proto: ModelProto) -> int:
    """The version of ONNX's own operators; 1 where the model does not say."""
    return read_opsets(proto.opset_import).get("", 1)


def is_constant(node: NodeProto) -> bool:
    """Is it a Constant node?"""
    return node.op_type == "Constant" and not get_domain(node)


def list_subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a node."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def list_bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a node, and those of the nodes inside them."""
    todo = list(list_subgraphs(node))
    while todo:
        g = todo.pop()
        yield g
        todo.extend(body for n in g.node for body in list_subgraphs(n))


def list_defined(graph: GraphProto) -> list[str]:
    """The names that a graph gives a meaning: inputs, initializers, and what its nodes make."""
    return [
        *(v.name for v in graph.input),
        *(t.name for t in graph.initializer),
        *(o for n in graph.node for o in n.output),
    ]


def find_captured(node: NodeProto) -> set[str]:
    """Names of outer values that the bodies of a node read."""
    names: set[str] = set()
    for g in list_subgraphs(node):
        names |= {name for n in g.node for name in list_reads(n)}.union(o.name for o in g.output).difference(
            list_defined(g)
        )
    return names


def list_reads(node: NodeProto) -> list[str]:
    """The values that a node reads, its bodies included."""
    return [*filter(None, node.input), *sorted(find_captured(node))]


def map_makers(nodes: Iterable[NodeProto]) -> dict[str, int]:
    """For each value the index of the node that makes it."""
    return {name: index for index, node in enumerate(nodes) for name in node.output if name}


def map_readers(nodes: Iterable[NodeProto]) -> dict[str, list[Site]]:
    """For each value the nodes and slots that read it, in order; the slot is IN_BODY where a body does."""
    sites: dict[str, list[Site]] = {}
    for index, node in enumerate(nodes):
        inside = ((IN_BODY, name) for name in sorted(find_captured(node)))
        for slot, name in chain(enumerate(node.input), inside):
            if name:
                sites.setdefault(name, []).append((index, slot))
    return sites


def list_value_names(proto: ModelProto) -> set[str]:
    """Every name that a value of the model has, in bodies too."""
    g = proto.graph
    names = {x for n in g.node for x in (*n.input, *n.output)} | {v.name for v in (*g.input, *g.output, *g.value_info)}
    inside = (m for n in g.node for body in list_bodies(n) for m in body.node)
    return names | {t.name for t in g.initializer} | {x for m in inside for x in (*m.input, *m.output)}


class Names:
    """The names that are taken, to claim free ones."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._counts: dict[str, Iterator[int]] = {}  # which number is next for a stem

    def claim(self, name: str, stem: str) -> str:
        """The name if it is free, else the first of `stem`2, `stem`3, .. that is."""
        numbers = self._counts.setdefault(stem, count(2))
        free = next(n for n in chain([name], (f"{stem}{k}" for k in numbers)) if n not in self._taken)
        self._taken.add(free)
        return free
