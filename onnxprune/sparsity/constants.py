"""Constants that the graph computes for its products, as initializers: only such can be given a pattern, or be fitted.

A weight norm, gates cut out and joined again, a part of a packed weight, a product with a mask: ONNX Runtime computes them once
here instead of whenever the model is loaded, so the results are the same to the bit. What only moves numbers is left, since
zeros can be written before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping

from onnxprune.axes import first
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.edit import Editor
from onnxprune.graph.model import Model
from onnxprune.graph.view import IN_BODY, list_reads, map_makers, map_readers
from onnxprune.graph.weights import Array, ArrayWeight
from onnxprune.groups import Analysis
from onnxprune.ops.records import get_record
from onnxprune.repair.segments import compute_constants

FEW = 1 << 16  # numbers that a constant may always have; a larger one is no larger than what it is computed from


def fold(a: Analysis, places: Collection[tuple[str, int]] | None = None) -> Model:
    """The model with an initializer for each constant that it computes for products; the model itself where there is none.

    `places` are the products that count, by an output and an input slot; all of them for None.
    """
    graph = _MainGraph(a)
    values = list(
        dict.fromkeys(name for computed in _computed(a, places) for name in graph.made_with(graph.source(computed)))
    )
    if not values:
        return a.model
    try:
        return _replaced(a.model, compute_constants(a.model, values, graph.known(graph.behind(values)[1])))
    except OnnxPruneError:  # an operator that ONNX Runtime does not know: the layer is left with that reason
        return a.model


def _computed(a: Analysis, places: Collection[tuple[str, int]] | None) -> Iterator[str]:
    """The computed constants that products read at run time."""
    nodes, computed = a.flat.proto.graph.node, a.coupling.computed
    for index, slot in a.coupling.operands:
        output = next(filter(None, nodes[index].output))
        if (
            nodes[index].input[slot] in computed
            and output not in computed
            and (places is None or (output, slot) in places)
        ):
            yield nodes[index].input[slot]


class _MainGraph:
    """The main graph of a model, and what its constants are made of."""

    def __init__(self, a: Analysis) -> None:
        self.model, self.coupling = a.model, a.coupling
        self.nodes = a.model.proto.graph.node
        self.makers = map_makers(self.nodes)
        self.outputs = {v.name for v in a.model.proto.graph.output}

    def source(self, name: str) -> str:
        """The constant before its elements are moved."""
        while (index := self.makers.get(name)) is not None and get_record(self.nodes[index]).traits.moves:
            name = self.nodes[index].input[0]
        return name

    def made_with(self, name: str) -> list[str]:
        """A constant and what the same node makes beside it; nothing where it cannot or need not be folded."""
        index = self.makers.get(name)
        outputs = [o for o in self.nodes[index].output if o] if index is not None else []
        if index is None or name in self.coupling.weights or self.outputs.intersection(outputs):
            return []
        steps, ends = self.behind([name])
        weights = [self.coupling.weights[end].shape for end in ends if end in self.coupling.weights]
        is_known = len(weights) + len(self.known(ends)) == len(ends)
        if not is_known or any(get_record(self.nodes[i]).traits.random for i in steps):
            return []
        largest = max(sum(map(math.prod, weights)), FEW)
        fits = all(math.prod(first(n) for n in self.coupling.trace.shape(o) or ()) <= largest for o in outputs)
        return outputs if fits and self.coupling.computed.issuperset(outputs) else []

    def behind(self, names: Iterable[str]) -> tuple[list[int], set[str]]:
        """The nodes that values are computed by, and what those start from."""
        steps: set[int] = set()
        ends: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            index = self.makers.get(name)
            if index is None or name in self.coupling.weights or name not in self.coupling.computed:
                ends.add(name)
            elif index not in steps:
                steps.add(index)
                todo.extend(list_reads(self.nodes[index]))
        return sorted(steps), ends

    def known(self, ends: Iterable[str]) -> dict[str, Array]:
        """Those of the values that are static sizes, not weights."""
        values = {end: self.coupling.trace.value(end) for end in ends if end not in self.coupling.weights}
        return {end: value for end, value in values.items() if value is not None}


def _replaced(model: Model, arrays: Mapping[str, Array]) -> Model:
    """The model with constants in the place of values; what only those were computed from goes."""
    editor = Editor(model)
    read = map_readers(model.proto.graph.node)
    for name, array in arrays.items():
        sites = [site for site in read.get(name, ()) if site[1] != IN_BODY]
        constant = editor.add_constant(name, ArrayWeight(array)) if sites else ""
        for index, slot in sites:
            editor.set_input(index, slot, constant)
    editor.drop_dead()
    return editor.finish()
