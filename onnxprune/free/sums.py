"""The output channels of a product: equal for equal weights, zero for zeros, constant for constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto

from onnxprune.axes import Axis, Var
from onnxprune.free.multiples import number_rows
from onnxprune.free.slices import Slices, combine, multiply
from onnxprune.free.substitution import fold_operand, keeps_constants, take_channel_rows
from onnxprune.graph.view import read_attribute
from onnxprune.graph.weights import Array, is_float
from onnxprune.ops.linear import CONVOLUTION, TRANSPOSED
from onnxprune.ops.records import NodeView, Operand, Passes, Product, get_record

if TYPE_CHECKING:
    from onnxprune.free.values import Values

MATRIX = "matrix product"


class ProductNode:
    """A product of one constant and what the network makes, or of two activations."""

    def __init__(self, values: Values, index: int, node: NodeProto, product: Product) -> None:
        self.values, self.index, self.node, self.product = values, index, node, product
        c = values.c
        self.operands = {i: c.operands[index, i] for i in range(len(node.input)) if (index, i) in c.operands}

    def make(self, v: Var) -> Slices | None:
        weights = [i for i in self.operands if self.values.contents.is_constant(self.node.input[i])]
        if not self._is_plain():
            return None
        if not weights and self.product.kind == MATRIX:
            operands = self.values.operands(self.index, self.node, v)
            return multiply([*operands.values()]) if operands else None
        array = self.values.contents.read(self.node.input[weights[0]]) if len(weights) == 1 else None
        if array is None or not is_float(array.dtype):
            return None
        sums = self._sums(v, weights[0], array)
        return None if sums is None or sums[0].is_unknown else self._with_bias(v, weights[0], *sums)

    def _is_plain(self) -> bool:
        """Does it multiply floats, and add nothing but a bias?"""
        traits = get_record(self.node).traits
        added = traits.residual and traits.residual < len(self.node.input) and self.node.input[traits.residual]
        cut = traits.inside is not None and traits.inside(NodeView(self.node)) is not None
        plain = self.product in (CONVOLUTION, TRANSPOSED) or self.product.kind == MATRIX
        return plain and not (added or cut or self.product.read or any(o.encoding for o in self.operands.values()))

    def _sums(self, v: Var, slot: int, array: Array) -> tuple[Slices, Array | None] | None:
        """The sums before the bias, and what moves into it from constant inputs (by position of the outputs)."""
        operand, x_slot = self.operands[slot], next((i for i in self.operands if i != slot), 0)
        layout, x_layout = (self.values.layout(self.index, i, self.node.input[i]) for i in (slot, x_slot))
        axes = [a for a in (*operand.outputs, *operand.batch) if v in layout[a].leaves]
        x = self._read(v, x_slot, x_layout, operand, array)
        if len(axes) > 1 or x is False:
            return None
        if isinstance(x, Slices):
            rows = take_channel_rows(array, axes[0], layout[axes[0]], v) if axes else None
            return self._scaled(x, rows, array, operand), None
        more = None
        known = {u: s for u, s in self.values.known.get(self.node.input[x_slot], {}).items() if operand.groups == 1}
        if known and (len(operand.inputs), len(operand.outputs), operand.batch) == (1, 1, ()):
            inside = layout[operand.inputs[0]]
            shifts = keeps_constants(self.node, self.product, _kernel(array, operand))
            array, more = fold_operand(
                array, operand, inside, {u: s for u, s in known.items() if u in inside.leaves}, shifts
            )
            more = more * read_attribute(self.node, "alpha", 1.0)
        return (_rows_alone(take_channel_rows(array, axes[0], layout[axes[0]], v)), more) if axes else None

    def _scaled(self, x: Slices, rows: Array | None, array: Array, operand: Operand) -> Slices:
        """Multiply channels by a weight, each by its own row, or all alike (`rows` None)."""
        if rows is None:
            return combine([x], Passes.LINEAR)
        scaled = multiply([x, _rows_alone(rows)])
        whole = keeps_constants(self.node, self.product, _kernel(array, operand))
        if operand.groups > 1 and len(rows) == len(array) and whole:  # one output for each input
            where = np.flatnonzero(x.constant)
            scaled = scaled.with_constants(where, x.shifts[where] * rows[where].sum(axis=1, dtype=np.float64))
        return scaled

    def _read(self, v: Var, slot: int, layout: Sequence[Axis], w: Operand, array: Array) -> Slices | bool | None:
        """The channels of v that come through from the input; None where there are none, False where nobody can tell."""
        at = [i for i, a in enumerate(layout) if v in a.leaves]
        if self.product.kind == MATRIX:
            at = [i for i in at if slot not in self.operands or i not in self.operands[slot].inputs]
        elif w.groups == 1:
            at = [i for i in at if i != 1]
        elif at and (self.product is TRANSPOSED or array.shape[1] != 1):
            return False
        if not at:
            return None
        return self.values.slices(self.node.input[slot], v) if len(at) == 1 else False

    def _with_bias(self, v: Var, weight: int, sums: Slices, more: Array | None) -> Slices | None:
        """The sums with what is added to them."""
        slot, shift = self.product.bias or 0, np.zeros((v.size, 1))
        if slot and slot < len(self.node.input) and self.node.input[slot]:
            name = self.node.input[slot]
            array, axes = self.values.contents.read(name), self.values.layout(self.index, slot, name)
            at = [i for i, a in enumerate(axes) if v in a.leaves]
            if array is None or len(at) > 1 or (not at and array.size != 1):
                return None
            rows = take_channel_rows(array, at[0], axes[at[0]], v) if at else array.reshape(1, 1)
            shift = shift + rows.astype(np.float64) * read_attribute(self.node, "beta", 1.0)
        if more is not None:
            (axis,) = self.operands[weight].outputs
            shift = shift + take_channel_rows(
                more, 0, self.values.layout(self.index, weight, self.node.input[weight])[axis], v
            )
        if (shift == shift[:, :1]).all():
            return sums.line(np.ones(v.size), shift[:, 0])
        return combine([sums, Slices.of_rows(shift)], Passes.LINEAR)


def _kernel(array: Array, operand: Operand) -> int:
    return math.prod(array.shape[k] for k in operand.kernel)


def _rows_alone(rows: Array) -> Slices:
    """The sums of weights that read the same inputs: equal for equal rows, zero for zero rows."""
    factors, numbers = number_rows(rows)
    return Slices(factors, numbers, np.zeros(len(rows)))
