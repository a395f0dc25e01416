"""Calls of local functions: what they are called by, and how many nodes they come to."""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, NodeProto

from onnxprune.errors import ModelError
from onnxprune.graph.view import get_domain, list_bodies

MAX_NODES = 1 << 15  # that calls may come to: each function may double what the one before it does
MAX_DEPTH = 100  # of calls within calls

Key = tuple[str, str, str]  # domain, name, overload


def make_key(node: NodeProto | FunctionProto) -> Key:
    """A local function and its calls."""
    name = node.op_type if isinstance(node, NodeProto) else node.name
    return get_domain(node), name, node.overload


def check_calls(proto: ModelProto, where: str) -> None:
    """Refuse functions that call themselves, and calls that come to more nodes than can be looked at. Raises ModelError."""
    functions = {make_key(f): f for f in proto.functions}
    sizes: dict[Key, int] = {}

    def size_of(nodes: list[NodeProto], within: tuple[Key, ...]) -> int:
        return sum(size_of_call(make_key(n), within) if make_key(n) in functions else 1 for n in nodes)

    def size_of_call(key: Key, within: tuple[Key, ...]) -> int:
        if key in within:
            raise ModelError(f"{where}: function {key[1]!r} calls itself; ONNX has no recursion, export it again")
        if len(within) == MAX_DEPTH:
            raise ModelError(
                f"{where}: more than {MAX_DEPTH} functions call each other in a row; inline some and export again"
            )
        if key not in sizes:
            nodes = [*functions[key].node]
            sizes[key] = size_of([*nodes, *_inner(nodes)], (*within, key))
        return sizes[key]

    nodes = [*proto.graph.node]
    called = [n for n in (*nodes, *_inner(nodes)) if make_key(n) in functions]
    total = size_of(called, ())
    if total > MAX_NODES:
        raise ModelError(
            f"{where}: its calls of local functions come to {total:,} nodes, more than {MAX_NODES:,}; "
            "inline and simplify them before, for example with onnx.inliner"
        )


def _inner(nodes: list[NodeProto]) -> list[NodeProto]:
    return [m for n in nodes for body in list_bodies(n) for m in body.node]
