"""Delta debugging on the graph: the smallest that still breaks the same law in the same way.

Every step gives a graph that onnx.checker accepts and that ONNX Runtime runs with finite outputs. Widths shrink by the
tool itself: what matters is only that the result is a graph that still fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from laws import plan_of
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

import onnxprune
from fuzzing.graph import inner
from fuzzing.judge import judge, kind
from fuzzing.observe import Array, observe
from onnxprune.graph.save import build_full_proto

Feeds = list[dict[str, Any]]


@dataclass
class Shrunk:
    """A failing graph with its feeds."""

    proto: ModelProto
    feeds: Feeds
    message: str


Tell = Callable[[tuple[str, Shrunk | None]], object]


class Shrinker:
    """Tries changes on a failing graph and keeps those that fail alike."""

    def __init__(
        self,
        best: Shrunk,
        tolerance: float | None,
        attempts: int,
        poison: Iterable[str] = (),
        tell: Tell = lambda _: None,
    ) -> None:
        """`tell` hears of each graph that is tried, by its hash, and of each that is kept; those of `poison` are not tried."""
        self.best = best
        self.law = best.message.partition(" law, ")[0]
        self.kind = kind(best.message)
        self.tolerance, self.attempts, self.poison, self.tell = tolerance, attempts, set(poison), tell

    def run(self) -> Shrunk:
        """Repeat all moves until none helps, or the attempts are used up."""
        moves = (self.outputs, self.cuts, self.bypasses, self.constants, self.attributes, self.inputs, self.widths)
        size = None
        while size != (size := self.size()) and self.attempts > 0:
            for move in moves:
                self.exhaust(move)
        return self.best

    def size(self) -> tuple[int, int]:
        g = self.best.proto.graph
        return len(g.node), sum(int(np.prod(t.dims)) for t in g.initializer)

    def exhaust(self, move: Callable[[], Iterator[ModelProto | None]]) -> None:
        """Take a move's first success, then ask it again."""
        again = True
        while again and self.attempts > 0:
            again = any(p is not None and self.keep(p) for p in move())

    def keep(self, proto: ModelProto) -> bool:
        """Is the graph valid, and does it still fail? Then it is the best so far."""
        if self.attempts <= 0:
            return False
        trim(proto)
        digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
        if digest in self.poison:
            return False
        self.poison.add(digest)
        self.tell((digest, None))
        feeds = [{v.name: f[v.name] for v in proto.graph.input if v.name in f} for f in self.best.feeds]
        try:
            onnx.checker.check_model(proto)
            if not all(
                np.isfinite(x).all() for pair in observe(proto, feeds).values() for x in pair if x.dtype.kind == "f"
            ):
                return False
        except Exception:
            return False
        self.attempts -= 1
        for seed in range(2):
            message = judge(proto, feeds, [self.law] * (self.law != "analysis"), seed, self.tolerance).broken.get(
                self.law
            )
            if message and kind(message) == self.kind:
                self.best = Shrunk(proto, feeds, message)
                self.tell(("", self.best))
                return True
        return False

    def copy(self) -> ModelProto:
        proto = ModelProto()
        proto.CopyFrom(self.best.proto)
        return proto

    def seen(self) -> dict[str, tuple[Array, Array]]:
        """What every tensor holds; weights too."""
        seen = observe(self.best.proto, self.best.feeds)
        for t in self.best.proto.graph.initializer:
            array = numpy_helper.to_array(t)
            seen[t.name] = (array, array)
        return seen

    # moves: each yields graphs to try

    def outputs(self) -> Iterator[ModelProto | None]:
        """Only one output; all but one."""
        n = len(self.best.proto.graph.output)
        for keep in [[i] for i in range(n)] + [[j for j in range(n) if j != i] for i in range(n)]:
            if 0 < len(keep) < n:
                proto = self.copy()
                kept = [proto.graph.output[i] for i in keep]
                del proto.graph.output[:]
                proto.graph.output.extend(kept)
                yield proto

    def bypasses(self) -> Iterator[ModelProto | None]:
        """A node's output becomes an earlier tensor of the same shape."""
        seen = self.seen()
        nodes = self.best.proto.graph.node
        for index in range(len(nodes) - 1, -1, -1):
            for old in [o for o in nodes[index].output if o in seen]:
                near = [*nodes[index].input, *(n for node in nodes[max(0, index - 4) : index] for n in node.input)]
                for new in dict.fromkeys(n for n in near if n in seen):
                    if new != old and alike(seen[new], seen[old]):
                        proto = self.copy()
                        rename(proto, old, new)
                        yield proto

    def cuts(self) -> Iterator[ModelProto | None]:
        """A tensor inside becomes the only output, or an input; integers only where there is one among the outputs already."""
        seen = self.seen()
        kinds = {"f", *(seen[o.name][0].dtype.kind for o in self.best.proto.graph.output)}
        names = [o for node in self.best.proto.graph.node for o in node.output if o in seen]
        for name in names:
            if name not in {o.name for o in self.best.proto.graph.output} and seen[name][0].dtype.kind in kinds:
                proto = self.copy()
                del proto.graph.output[:]
                proto.graph.output.append(info(name, seen[name]))
                yield proto
        for name in reversed(names):
            proto = self.copy()
            for node in proto.graph.node:
                for i, o in enumerate(node.output):
                    if o == name:
                        node.output[i] = ""
            proto.graph.input.append(info(name, seen[name]))
            for feed, value in zip(self.best.feeds, seen[name], strict=True):
                feed[name] = value
            yield proto

    def constants(self) -> Iterator[ModelProto | None]:
        """What is computed, but is the same at both sizes, becomes an initializer."""
        seen = self.seen()
        for node in reversed(self.best.proto.graph.node):
            for name in node.output:
                if name in seen and np.array_equal(*seen[name]) and seen[name][0].size:
                    proto = self.copy()
                    for other in proto.graph.node:
                        for i, o in enumerate(other.output):
                            if o == name:
                                other.output[i] = ""
                    proto.graph.initializer.append(numpy_helper.from_array(seen[name][0], name))
                    yield proto

    def attributes(self) -> Iterator[ModelProto | None]:
        for index, node in enumerate(self.best.proto.graph.node):
            for a in node.attribute:
                if node.op_type != "Constant" and a.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                    proto = self.copy()
                    kept = [b for b in node.attribute if b.name != a.name]
                    del proto.graph.node[index].attribute[:]
                    proto.graph.node[index].attribute.extend(kept)
                    yield proto
        for clear in ("value_info", "doc_string", "name"):
            if getattr(self.best.proto.graph, clear) not in ("", "g"):
                proto = self.copy()
                proto.graph.ClearField(clear)
                proto.graph.name = proto.graph.name or "g"
                yield proto if len(self.best.proto.graph.value_info) else None

    def inputs(self) -> Iterator[ModelProto | None]:
        """Optional inputs go: those at the end of a node's list."""
        for index, node in enumerate(self.best.proto.graph.node):
            if len(node.input) > 1:
                proto = self.copy()
                del proto.graph.node[index].input[-1]
                yield proto

    def widths(self) -> Iterator[ModelProto | None]:
        """Fewer channels, by the tool itself."""
        try:
            analysis = onnxprune.analyze(onnxprune.load(self.best.proto))
        except Exception:
            return
        for g in analysis.groups:
            for k in (2, g.size // 2):
                if 1 < k < g.size:
                    try:
                        yield build_full_proto(onnxprune.apply(analysis, plan_of(analysis, {g.name: range(k)})))
                    except Exception:
                        yield None


def alike(a: tuple[Array, Array], b: tuple[Array, Array]) -> bool:
    return all(x.shape == y.shape and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def info(name: str, value: tuple[Array, Array]) -> onnx.ValueInfoProto:
    dims = [m if m == n else f"{name}_{a}" for a, (m, n) in enumerate(zip(*(v.shape for v in value), strict=True))]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value[0].dtype), dims)


def rename(proto: ModelProto, old: str, new: str) -> None:
    """Every reader of `old` reads `new`; an output of that name becomes an Identity's."""

    def walk(nodes: Any) -> None:
        node: NodeProto
        for node in nodes:
            for i, n in enumerate(node.input):
                if n == old:
                    node.input[i] = new
            for a in node.attribute:
                for g in (a.g, *a.graphs):
                    walk(g.node)

    walk(proto.graph.node)
    if any(o.name == old for o in proto.graph.output):
        made = {o for node in proto.graph.node for o in node.output}
        for node in proto.graph.node:
            for i, o in enumerate(node.output):
                if o == old:
                    node.output[i] = ""
        for o in proto.graph.output:
            if o.name == old and new in made:
                o.name = new
            elif o.name == old:
                proto.graph.node.append(helper.make_node("Identity", [new], [old]))


def trim(proto: ModelProto) -> None:
    """Drop what no output needs."""
    graph = proto.graph
    needed, nodes = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed & set(node.output) - {""}:
            nodes.append(node)
            needed |= {*node.input, *inner(node)}
    for field, kept in (
        ("node", nodes[::-1]),
        ("initializer", [t for t in graph.initializer if t.name in needed]),
        ("input", [v for v in graph.input if v.name in needed]),
    ):
        kept = [type(k).FromString(k.SerializeToString()) for k in kept]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    alive = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
    shapes = [v for v in graph.value_info if v.name in alive]
    graph.ClearField("value_info")
    graph.value_info.extend(shapes)
