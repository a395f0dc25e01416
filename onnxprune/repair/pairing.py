"""Which value of a candidate stands for which of the original's: told by names, and by the wiring where tools have renamed things.

A scale, a shift or a copy behind a value, if nothing else reads that value, is taken for a part of it: all such values are one
*line*, and the nodes that make and read lines are compared. So a BatchNormalization that one of the models has folded into
its convolution, or a bias that has become an Add, is no difference. Nor is a shape that one of them computes from sizes: only
what depends on the contents of inputs is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from onnxprune.axes import Size, pair
from onnxprune.graph.view import get_domain, list_reads
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.ops.records import SAME, get_record
from onnxprune.repair.linear_layers import FitLayer
from onnxprune.repair.network import Network


class ValueLines:
    """The values of a network in lines, and the nodes between them."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.inputs = {v.name for v in net.model.proto.graph.input}.intersection(net.live)
        self.live = set(self.inputs)  # what depends on more than the sizes of inputs
        self.start: dict[str, str] = {}  # the first value of the line that a value is in
        self.nodes: list[int] = []
        self._values: dict[str, list[str]] = {}
        self._steps: dict[str, int] = {}  # how often a value was scaled or shifted on its line; copies do not count
        for index, node in enumerate(net.nodes):
            if get_record(node).traits.reads_sizes or self.live.isdisjoint(list_reads(node)):
                continue
            self.live.update(filter(None, node.output))
            before = self._passed(index)
            if before:
                first = self.first(before)
                self.start[node.output[0]] = first
                self._values.setdefault(first, [first]).append(node.output[0])
                self._steps[node.output[0]] = self.steps(before) + (get_record(node).traits.moves != SAME)
            else:
                self.nodes.append(index)

    def first(self, name: str) -> str:
        return self.start.get(name, name)

    def values(self, first: str) -> list[str]:
        """The values of a line, in their order."""
        return self._values.get(first, [first])

    def steps(self, name: str) -> int:
        return self._steps.get(name, 0)

    def is_float(self, name: str) -> bool:
        elem = self.net.analysis.coupling.trace.dtype(name)
        return bool(elem) and is_float(dtype_of(elem))

    def names(self, index: int) -> list[str]:
        """The names that identify a node: the values of its output lines, the last ones first, and its own name."""
        outputs = [name for o in self.net.nodes[index].output if o for name in reversed(self.values(o))]
        return [*outputs, f"node {self.net.nodes[index].name}"] if self.net.nodes[index].name else outputs

    def reads(self, index: int) -> Iterator[tuple[int, str]]:
        """The lines that a node reads, by input."""
        for slot, name in enumerate(self.net.nodes[index].input):
            if name in self.live:
                yield slot, self.first(name)

    def _passed(self, index: int) -> str:
        """The input of a node that only scales, shifts or copies it and is its only reader; else ''."""
        node = self.net.nodes[index]
        live = [str(n) for n in node.input if n in self.live]
        if len(live) != 1 or len(node.output) != 1 or self.net.only_reader(live[0]) != index:
            return ""
        traits = get_record(node).traits
        if traits.moves == SAME:
            return live[0]
        site = self.net.site(index) if traits.affine else None
        line = traits.affine(site, list(node.input).index(live[0]), site.known) if traits.affine and site else None
        return live[0] if line else ""


class Pairing:
    """The candidate's lines and the original's."""

    def __init__(self, candidate: Network, original: Network) -> None:
        self.candidate, self.original = ValueLines(candidate), ValueLines(original)
        self._pairs = {name: name for name in self.candidate.inputs & self.original.inputs}
        self._named: dict[str, int] = {}
        self._wired: dict[object, list[int]] = {}
        for index in self.original.nodes:
            for name in self.original.names(index):
                self._named.setdefault(name, index)
            self._wired.setdefault((_kind(original.nodes[index]), *self.original.reads(index)), []).append(index)
        self._taken: set[int] = set()
        for index in self.candidate.nodes:
            self._pair(index)

    def _pair(self, index: int) -> None:
        match = self._by_name(index)
        match = self._by_wiring(index) if match is None else match
        if match is None:
            return
        self._taken.add(match)
        for ours, its in zip(
            self.candidate.net.nodes[index].output, self.original.net.nodes[match].output, strict=False
        ):
            if ours and its:
                self._pairs[ours] = its

    def _by_name(self, index: int) -> int | None:
        kind = _kind(self.candidate.net.nodes[index])
        matches = (self._named.get(name) for name in self.candidate.names(index))
        return next((i for i in matches if i is not None and self._is_free(i) and self._kind_of(i) == kind), None)

    def _by_wiring(self, index: int) -> int | None:
        """The next node of its kind that reads what it reads."""
        reads = [(slot, self._pairs.get(first)) for slot, first in self.candidate.reads(index)]
        matches = self._wired.get((_kind(self.candidate.net.nodes[index]), *reads), [])
        return next(filter(self._is_free, matches), None)

    def _is_free(self, index: int) -> bool:
        return index not in self._taken

    def _kind_of(self, index: int) -> str:
        return _kind(self.original.net.nodes[index])

    def counterpart(self, name: str) -> str | None:
        """The original's value for one of the candidate's; an output is an output of that name."""
        if name in self.candidate.net.outputs:
            return name
        first = self.candidate.first(name)
        if first not in self._pairs:
            return None
        ours, its = self.candidate.values(first), self.original.values(self._pairs[first])
        if len(ours) == len(its):
            return its[ours.index(name)]
        steps, last, its_last = self.candidate.steps(name), self.candidate.steps(ours[-1]), self.original.steps(its[-1])
        if steps == last:
            return its[-1]
        return next(n for n in its if self.original.steps(n) == steps) if last == its_last else None

    def explain(self, name: str, layer: FitLayer) -> str:
        """Why a value cannot be what a layer is fitted to; empty where its counterpart differs in channels at most."""
        its = self.counterpart(name)
        if its is None:
            return "no node of the original has its name, or the same inputs"
        if self.candidate.is_float(name) != self.original.is_float(its):
            return f"only one of '{name}' and the original's '{its}' is of floats"
        sizes, wanted = self.candidate.net.sizes(name), self.original.net.sizes(its)
        if sizes is None or wanted is None:
            return f"the shape of '{name}' is not known"
        axis = layer.axis % len(sizes)
        if len(sizes) != len(wanted) or not all(
            a == axis or _meet(m, w) for a, (m, w) in enumerate(zip(sizes, wanted, strict=True))
        ):
            return f"'{name}' is {list(sizes)}, the original's {list(wanted)}"
        return ""


def _kind(node: NodeProto) -> str:
    """The kind of a node; MatMul and Gemm are one kind, since tools convert one to the other."""
    product = get_record(node).product
    return product.kind if product else f"{get_domain(node)}::{node.op_type}"


def _meet(a: Size, b: Size) -> bool:
    """Can both sizes be the same? One of the models may leave open what the other one says."""
    return not set(pair(a)).isdisjoint(pair(b))
