"""Multiply-accumulates of a graph: one a multiplication of a weight or of two activations, at the first sample size.

Each operator's record says how it multiplies (`Product.macs` in ops/records.py); here the shapes are looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto

from onnxprune.axes import first
from onnxprune.errors import is_guarded
from onnxprune.graph.facts import Facts
from onnxprune.graph.unsettled import find_unsettled
from onnxprune.ops.records import NodeView, Shape, UnknownShape, get_record

InputShape = Callable[[NodeProto, int], Shape | None]
OutputShape = Callable[[str], Shape | None]


@dataclass
class Shapes(NodeView):
    """A node with the shapes of its inputs and outputs."""

    of_input: InputShape
    of_output: OutputShape

    def rank(self, i: int = 0) -> int:
        return len(self.x(i))

    def x(self, i: int) -> Shape:
        return self._known(self.of_input(self.node, i) if self.has(i) else None)

    def y(self, j: int = 0) -> Shape:
        name = self.node.output[j] if j < len(self.node.output) else ""
        return self._known(self.of_output(name) if name else None)

    def _known(self, shape: Shape | None) -> Shape:
        if shape is None:
            raise UnknownShape(self.node.name)
        return shape


def sum_macs(nodes: Iterable[NodeProto], trace: Facts) -> int | None:
    """Sum over the nodes, those of a loop's body once; None where the shapes of an operator that multiplies are unknown."""
    nodes = list(nodes)
    unknown = find_unsettled(nodes, trace)

    def shape_of(name: str) -> Shape | None:
        shape = None if name in unknown else trace.shape(name)
        return None if shape is None else tuple(map(first, shape))

    total: int | None = count_macs(nodes, lambda node, slot: shape_of(node.input[slot]), shape_of)
    return total


def count_macs(nodes: Iterable[NodeProto], of_input: InputShape, of_output: OutputShape) -> Any:
    """The same where shapes come from elsewhere: of a node's input slot, of an output's name."""
    counts = list[Any]()
    for node in nodes:
        product = get_record(node).product
        if product is None:
            continue
        try:
            counts.append(product.macs(Shapes(node, of_input, of_output)))
        except (UnknownShape, IndexError, ArithmeticError):  # unknown, or not what the operator asks for
            return None
        except Exception:
            if not is_guarded():
                raise
            return None
    return add_up(counts)


def add_up(numbers: Sequence[Any]) -> Any:
    """The sum, of halves first: polynomials that grow one by one would be copied each time."""
    if len(numbers) < 3:
        return sum(numbers)
    middle = len(numbers) // 2
    return add_up(numbers[:middle]) + add_up(numbers[middle:])
