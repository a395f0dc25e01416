"""LSTM, GRU and RNN: what they make of a step's input, and of the hidden state of the step before, are matrix products.

Neither sum is a tensor of the graph, so the targets are computed from the original's weights. The input is fitted as the pruned
network makes it; the hidden state as the original has it, since the pruned one depends on the weights that are looked for.
Source: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.linear_layers import Change, FitLayer, PackedWeight, Site

BIAS = 3  # the input slot: those of the inputs, then those of the states


class InputProduct(FitLayer):
    """x [s, b, i] ([b, s, i] with layout 1), w [D, (g h), i], the first half of b; a place is a step of a sample."""

    axis = x_axis = -1
    slot, half = 1, 0
    hidden = True
    apart = False  # do both directions read other numbers?

    def __init__(self, site: Site) -> None:
        (operand,) = (o for o in site.operands if o.slot == self.slot)
        self.site, weight = site, site.const(self.slot)
        self.x = self.y = site.node.input[0]
        self.bias = site.const(BIAS) if site.has(BIAS) else None
        self.matrix = PackedWeight(operand, weight, apart=self.apart)
        self.w = self.matrix.pack(weight.astype(np.float64))
        if self.bias is not None:
            self.b = np.split(self.bias.astype(np.float64), 2, axis=1)[self.half].reshape(len(self.w), -1)

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        return y[0] * y[1], 1

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return x.reshape(1, -1, x.shape[-1])[:, at]

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        out = [Change(self.site.index, self.slot, self.matrix.unpack(w))]
        if b is not None and self.bias is not None:
            new = b.reshape(len(self.bias), -1).astype(self.bias.dtype)
            start = self.half * new.shape[1]
            out.append(Change(self.site.index, BIAS, new, columns=slice(start, start + new.shape[1])))
        return out


class StateProduct(InputProduct):
    """Hidden states y [s, D, b, h] ([b, s, D, h] with layout 1), r [D, (g h), h], the second half of b; directions are groups.

    A reset gate that comes before the product (GRU's default) is not seen: the states are taken as if it let all through.
    """

    slot, half = 2, 1
    apart = True

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.x = self.y = site.node.output[0]
        self.batch_first = bool(site.attr("layout", 0))

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y[:-1]) // len(self.w), 1

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        """Each state is one that the next step reads; the last is as good as any."""
        states = x.transpose(2, 1, 0, 3) if self.batch_first else x.transpose(1, 0, 2, 3)
        return states.reshape(len(states), -1, x.shape[-1])[:, at]
