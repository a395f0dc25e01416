"""The part of a model that differs from the original: what lies before it makes the same, and needs to be run once only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from onnx import helper

from onnxprune.calibration.array_store import Memory, StoredBatches
from onnxprune.calibration.sessions import open_session, run
from onnxprune.graph.model import Model
from onnxprune.graph.view import list_reads, map_makers
from onnxprune.measure import show_tensors
from onnxprune.measure.shift import Feeds
from onnxprune.repair.network import find_dependents
from onnxprune.repair.segments import cut_out


class Difference:
    """The original's tensors on some batches, at the nodes where other models begin to differ from it.

    It is kept until another place is asked for: cheapest are places in the order of the graph.
    """

    def __init__(self, original: Model, batches: Sequence[Feeds], threads: int | None, memory: Memory | None) -> None:
        self.original, self.batches, self.threads, self.memory = original, batches, threads, memory
        self._live = find_dependents(original.proto.graph.node, batches[0])
        self._known: Sequence[Feeds] = batches

    def part(self, model: Model, names: Sequence[str]) -> tuple[Model, Sequence[Feeds]]:
        """The part of a model that computes some tensors, and its inputs; the whole model if it cannot be cut there."""
        same = _find_same(self.original, model) & self._live
        nodes, fed = _find_way(model, names, same.difference(names))
        known = self._make(fed)
        if known is None:
            return show_tensors(model, names), self.batches
        return _cut(model, nodes, known[0], names), known

    def find_start(self, outputs: Collection[str]) -> Sequence[Feeds] | None:
        """The values from which all nodes can be run, from the first one on that makes any of these outputs.

        None where there is no such node, or one of the values is no tensor.
        """
        nodes = self.original.proto.graph.node
        wanted = set(outputs)
        start = next((i for i, n in enumerate(nodes) if not wanted.isdisjoint(n.output)), None)
        if start is None:
            return None
        computed = {name for n in nodes[:start] for name in n.output if name} | self.batches[0].keys()
        needed = {name for n in nodes[start:] for name in list_reads(n)} | {
            v.name for v in self.original.proto.graph.output
        }
        return self._make(needed & computed & self._live)

    def _make(self, names: Collection[str]) -> Sequence[Feeds] | None:
        """These tensors of the original, batch after batch; None where one of them is no tensor."""
        have = {**self.batches[0], **self._known[0]}
        nodes, fed = _find_way(self.original, names, have)
        missing = sorted(set(names).difference(have))
        part = _cut(self.original, nodes, {n: have[n] for n in fed}, missing)
        session = open_session(part, "original", self.threads) if missing else None
        batches = StoredBatches(self.memory)
        for feeds, known in zip(self.batches, self._known, strict=True):
            values = {**feeds, **known}
            if session is not None:
                values |= run(session, {n: values[n] for n in fed})
            if not all(isinstance(values[n], np.ndarray) for n in names):
                return None
            batches.append({n: values[n] for n in sorted(names)})
        self._known = batches
        return batches


def _find_same(original: Model, model: Model) -> set[str]:
    """The values that both models make by the same nodes of the same weights."""
    weights = model.weights.keys() | {t.name for t in model.proto.graph.initializer}
    initializers = {t.name: t for t in original.proto.graph.initializer}
    same = {v.name for v in model.proto.graph.input if v.name not in weights}
    same |= {n for n in weights if model.weights.get(n) is original.weights.get(n) and n in original.weights}
    same |= {
        t.name for t in model.proto.graph.initializer if t.name not in model.weights and t == initializers.get(t.name)
    }
    if original.proto.functions != model.proto.functions:
        return same
    theirs = {n.output[0]: n for n in original.proto.graph.node if n.output}
    for node in model.proto.graph.node:
        if node.output and node == theirs.get(node.output[0]) and same.issuperset(list_reads(node)):
            same.update(filter(None, node.output))
    return same


def _find_way(model: Model, names: Collection[str], known: Collection[str]) -> tuple[list[int], list[str]]:
    """The nodes that lead to some tensors from those that are known, and which of these they read."""
    nodes, maker = model.proto.graph.node, map_makers(model.proto.graph.node)
    inside, fed = set[int](), set[str]()
    todo = list(names)
    while todo:
        name = todo.pop()
        index = maker.get(name)
        if name in known:
            fed.add(name)
        elif index is not None and index not in inside:
            inside.add(index)
            todo.extend(list_reads(nodes[index]))
    return sorted(inside), sorted(fed)


def _cut(model: Model, nodes: Sequence[int], fed: Feeds, names: Sequence[str]) -> Model:
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), None) for n, x in fed.items()]
    return cut_out(model, nodes, inputs, names)
