"""Products of matrices: each row of what is read is a place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.codes import StoredCode
from onnxprune.repair.linear_layers import Change, FitLayer, PackedWeight, Site, Unfit


class MatrixProduct(FitLayer):
    """x [.., K] w [K, O] + b [O] -> y [.., O], in whatever order the node has the axes.

    The bias is the node's own, or what is added right behind it: a constant, or one that the next node has for what it reads.
    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html, https://onnx.ai/onnx/operators/onnx__Gemm.html
    """

    def __init__(self, site: Site, after: Site | None) -> None:
        weight = next((o for o in site.operands if o.slot in site.known), site.operands[-1])
        self.site, self.slot = site, weight.slot
        array, self.code = site.weight(weight)
        if len(site.operands) != 2:
            raise Unfit("its weights are packed")
        if array.ndim != 2:
            raise Unfit("its weights are no matrix")
        self._find_axes(weight.slot)
        self.matrix = PackedWeight(weight, array)
        self.scale, self.bias_scale = (float(site.attr(name, 1.0)) for name in ("alpha", "beta"))
        if not self.scale or not self.bias_scale:
            raise Unfit("it is multiplied by 0")
        if self.code is not None and self.scale != 1:
            raise Unfit("it multiplies integers by a factor")
        self.w = self.matrix.pack(array.astype(np.float64) * self.scale)
        self.bias_code: StoredCode | None = None
        self.bias = self._own_bias()
        if self.bias is None and after is not None:
            self.bias = self._constant_behind(after) or self._bias_behind(after)
        self.look_inside()

    def _find_axes(self, slot: int) -> None:
        (x,) = (o for o in self.site.operands if o.slot != slot)
        if len(x.inputs) != 1:
            raise Unfit("it sums over several axes")
        (self.x_axis,) = x.inputs
        self._order = (*x.batch, *x.outputs, *x.inputs)
        self.x, self.y = self.site.node.input[x.slot], self.site.node.output[0]
        self.axis = -2 if slot < x.slot and x.outputs else -1  # y [*batch, what a makes, what b makes]

    def _own_bias(self) -> Change | None:
        product = self.site.record.product
        slot = product.bias if product else None
        if slot is None or not (self.site.has(slot) or self.site.can_add_bias(self.slot)):
            return None
        c, self.bias_code = self.site.bias(self.code)
        c = np.zeros(0, self.matrix.weight.dtype) if c is None else c
        if c.size and not self._fits(c):
            raise Unfit("its bias is no vector of its outputs")
        self._start_bias(c)
        return Change(self.site.index, slot, c)

    def _constant_behind(self, after: Site) -> Change | None:
        """The bias that the next node adds to all rows; its sum is then the layer's output."""
        c = next(iter(after.known.items()), None)
        if not after.record.traits.sums or len(after.node.input) != 2 or c is None:
            return None
        if c[1].size != self.outputs or not self._fits(c[1]):
            return None
        self.y = after.node.output[0]
        self._start_bias(after.const(c[0]))
        return Change(after.index, c[0], c[1])

    def _bias_behind(self, after: Site) -> Change | None:
        """The bias that the next node adds to its input first: for the layer a bias of 0, which may change."""
        adds, product = after.record.traits.adds, after.record.product
        slot = adds or (product.bias if product and not after.operands else None)
        if not slot or slot not in after.known or after.known[slot].ndim != 1 or self.axis != -1:
            return None
        size, total, at = self.outputs, after.known[slot].size, list(after.node.input).index(self.y)
        start = 0 if adds else total - size if at == 2 else at * size  # an attention's: queries, keys, values
        if (adds and total != size) or start + size > total:
            return None
        self._start_bias(np.zeros(size))
        return Change(after.index, slot, after.const(slot)[start : start + size], slice(start, start + size))

    def _fits(self, c: Array) -> bool:
        """Is it one number, or one for each output along their axis?"""
        return c.size == 1 or (c.size == self.outputs and c.ndim >= -self.axis and c.shape[self.axis] == c.size)

    def _start_bias(self, c: Array) -> None:
        b = (c if c.size else np.zeros(1)).astype(np.float64).ravel() * self.bias_scale
        self.b = np.broadcast_to(b, (1, self.outputs))

    def _flat(self, y: Array) -> Array:
        y = np.moveaxis(y, self.axis, -1)
        return y.reshape(-1, y.shape[-1])

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y) // self.outputs, 1

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        x = x.transpose(self._order)
        return x.reshape(-1, x.shape[-1])[None, at]

    def take_outputs(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        outputs = self._flat(y)[None, at]
        return outputs if keep is None else outputs[..., keep]

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        out = [Change(self.site.index, self.slot, self.stored(w))]
        if b is None or self.bias is None:
            return out
        old = self.bias.array
        if self.bias_code is not None:
            return [*out, replace(self.bias, array=self.bias_code.encode(b.ravel()).reshape(old.shape))]
        if self.bias.columns is not None:
            return [*out, replace(self.bias, array=(old + b.ravel()).astype(old.dtype))]
        if old.size or b.any():
            shape = old.shape if old.size == b.size else (-1,) if self.axis == -1 else (-1, 1)
            out.append(replace(self.bias, array=(b / self.bias_scale).reshape(shape).astype(old.dtype)))
        return out


class Projection(FitLayer):
    """x [.., i] w [i, O] + b [O]: queries, keys and values of an attention, which are no tensors; a place is a row of x."""

    axis = x_axis = -1
    hidden = True

    def __init__(self, site: Site, _: Site | None = None) -> None:
        if not site.operands:
            raise Unfit("it has no weights")
        (operand,), product = site.operands, site.record.product
        self.site, self.slot = site, operand.slot
        weight, self.code = site.weight(operand)
        self.x = self.y = site.node.input[0]
        self.matrix = PackedWeight(operand, weight)
        self.w = self.matrix.pack(weight.astype(np.float64))
        self.bias = product.bias if product and product.bias and site.has(product.bias) else 0
        if self.bias:
            self.b = site.const(self.bias).astype(np.float64).reshape(len(self.w), -1)

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y[:-1]), 1

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return x.reshape(1, -1, x.shape[-1])[:, at]

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        out = [Change(self.site.index, self.slot, self.stored(w))]
        if b is not None and self.bias:
            out.append(Change(self.site.index, self.bias, b.ravel().astype(self.site.const(self.bias).dtype)))
        return out
