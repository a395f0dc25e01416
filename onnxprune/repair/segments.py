"""Run a model in pieces over all calibration batches, so that weights can be changed between one piece and the next.

A *stop* is a set of tensors that somebody wants to see. The piece that leads to a stop has the nodes that these tensors
depend on and that no earlier piece has run: over all stops each node runs once a batch. What a later piece reads is
kept in a `ArrayStore` until its last reader has run. Nodes that depend on no input (constants that the graph computes) belong to
no piece; they are repeated in each one that reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from onnxprune.calibration.array_store import Array, ArrayStore
from onnxprune.calibration.sessions import open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.view import list_reads, map_makers

__all__ = ["Walk", "compute_constants", "cut_out", "open_session", "run"]


class Walk:
    """A model on its way from stop to stop. Its nodes and weights are looked up when a piece is run.

    `feeds` are known: the inputs, or values on the way that all stops can be reached from.
    """

    def __init__(self, model: Model, stops: Sequence[Collection[str]], feeds: Collection[str], batches: int) -> None:
        self.model, self.stops, self.batches = model, stops, batches
        self._maker = {name: i for name, i in map_makers(model.proto.graph.node).items() if name not in feeds}
        self._live = self._depends_on(feeds)
        self._piece: dict[int, int] = {}  # node -> the piece that runs it
        self._last: dict[str, int] = {}  # tensor -> the last piece that reads it
        for at, stop in enumerate(stops):
            self._assign(at, stop)
        self._reads = self._readers()

    def _depends_on(self, feeds: Collection[str]) -> set[str]:
        """The tensors that depend on an input."""
        live = set(feeds)
        for node in self.model.proto.graph.node:
            if any(name in live for name in list_reads(node)):
                live.update(filter(None, node.output))
        return live

    def _assign(self, at: int, stop: Collection[str]) -> None:
        todo = [name for name in stop if name in self._live]
        for name in todo:
            self._last[name] = at
        while todo:
            index = self._maker.get(todo.pop())
            if index is None or index in self._piece:
                continue
            self._piece[index] = at
            todo.extend(name for name in list_reads(self.model.proto.graph.node[index]) if name in self._live)

    def _readers(self) -> list[set[str]]:
        """For each piece what it reads of others; `_last` learns of it."""
        out: list[set[str]] = [set() for _ in self.stops]
        for index, at in self._piece.items():
            for name in list_reads(self.model.proto.graph.node[index]):
                if name in self._live and self._piece.get(self._maker.get(name, -1)) != at:
                    out[at].add(name)
                    self._last[name] = max(at, self._last.get(name, 0))
        return out

    def run(self, at: int, store: ArrayStore, threads: int | None = None) -> Iterator[Mapping[str, Array]]:
        """Run the piece that leads to stop `at`, and hand out the stop's tensors, batch after batch."""
        computed = self._made(at)
        wanted = {n for n in computed if n in self.stops[at] or self._last.get(n, -1) > at}
        session = open_session(self._cut(at, wanted, store), "calibration", threads) if wanted else None
        for batch in range(self.batches):
            feeds = {n: store.get(n, batch) for n in self._reads[at]}
            outputs = run(session, feeds) if session is not None else {}
            for name, value in outputs.items():
                if not isinstance(value, np.ndarray):
                    raise OnnxPruneError(f"'{name}' is not a tensor, so the model cannot be cut there")
                if self._last.get(name, -1) > at:
                    store.put(name, batch, value)
            yield {n: outputs[n] if n in outputs else store.get(n, batch) for n in self.stops[at] if n in self._live}
            for name in [n for n in {*self._reads[at], *self.stops[at]} - wanted if self._last.get(n) == at]:
                store.drop(name, batch)

    def _made(self, at: int) -> list[str]:
        nodes = self.model.proto.graph.node
        return [o for index in sorted(i for i, p in self._piece.items() if p == at) for o in nodes[index].output if o]

    def run_again(self, nodes: Collection[int], feeds: Collection[str], name: str, store: ArrayStore) -> None:
        """Run nodes whose weights have changed, and keep what they make now under that name instead of what they made."""
        session = open_session(self.cut(nodes, {n: store.dtype(n) for n in feeds}, [name]), "calibration")
        for batch in range(self.batches):
            (output,) = run(session, {n: store.get(n, batch) for n in feeds}).values()
            store.drop(name, batch)
            store.put(name, batch, output)

    def _cut(self, at: int, wanted: Collection[str], store: ArrayStore) -> Model:
        inside = {i for i, p in self._piece.items() if p == at}
        return self.cut(inside, {n: store.dtype(n) for n in self._reads[at]}, wanted)

    def cut(self, nodes: Collection[int], feeds: Mapping[str, np.dtype[Any]], wanted: Collection[str]) -> Model:
        """Nodes as a model that reads values of those types, with the constants that the graph computes."""
        inside = set(nodes)
        todo = [name for i in inside for name in list_reads(self.model.proto.graph.node[i])]
        while todo:  # the constants that the graph computes
            name = todo.pop()
            index = self._maker.get(name)
            if index is not None and index not in inside and name not in self._live:
                inside.add(index)
                todo.extend(list_reads(self.model.proto.graph.node[index]))
        inputs = [  # without shapes: what is dynamic in the whole model must not become static in a piece
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(feeds[n]), None) for n in sorted(feeds)
        ]
        return cut_out(self.model, sorted(inside), inputs, sorted(wanted))


def cut_out(model: Model, nodes: Sequence[int], inputs: Sequence[ValueInfoProto], outputs: Sequence[str]) -> Model:
    """Some of a model's nodes as a model of their own."""
    graph = model.proto.graph
    proto = ModelProto(ir_version=max(model.proto.ir_version, 4))  # before 4, initializers are inputs
    proto.opset_import.extend(model.proto.opset_import)
    proto.functions.extend(model.proto.functions)
    proto.graph.name = "piece"
    proto.graph.node.extend(graph.node[i] for i in nodes)
    read = {name for n in proto.graph.node for name in list_reads(n)}.union(outputs)
    proto.graph.initializer.extend(t for t in graph.initializer if t.name in read)
    proto.graph.input.extend(inputs)
    proto.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    kept = {t.name for t in proto.graph.initializer}
    return replace(model, proto=proto, weights={n: w for n, w in model.weights.items() if n in kept})


def compute_constants(
    model: Model, names: Sequence[str], known: Mapping[str, Array] = MappingProxyType({})
) -> dict[str, Array]:
    """Values that a model computes from its weights alone, and from values that are known."""
    maker = map_makers(model.proto.graph.node)
    inside: set[int] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        index = maker.get(name) if name not in known else None
        if index is not None and index not in inside:
            inside.add(index)
            todo.extend(list_reads(model.proto.graph.node[index]))
    fed = {name: known[name] for i in sorted(inside) for name in list_reads(model.proto.graph.node[i]) if name in known}
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in fed.items()
    ]
    return run(open_session(cut_out(model, sorted(inside), inputs, names), "calibration"), fed)
