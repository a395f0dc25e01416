"""LSTM, GRU and RNN: what they make of a step's input, and of the hidden state of the step before, are matrix products.

Neither sum is a tensor of the graph, so the targets are computed from the original's weights. The input is fitted as the pruned
network makes it; the hidden state as the original has it, since the pruned one depends on the weights that are looked for.
Source: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.repair.layers import Change, Layer, Site
from onnxprune.repair.store import Array

RECURRENT = ("LSTM", "GRU", "RNN")


class Inputs(Layer):
    """x [s, b, i] ([b, s, i] with layout 1), w [D, (g h), i], the first half of b; a place is a step of a sample."""

    axis = -1
    slot, half = 1, 0

    def __init__(self, site: Site) -> None:
        self.site, self.weight = site, site.const(self.slot)
        self.x, self.y = site.node.input[0], ""
        self.bias = site.const(3) if site.has(3) else None
        self.w = self._pack(self.weight.astype(np.float64))
        if self.bias is not None:
            self.b = np.split(self.bias.astype(np.float64), 2, axis=1)[self.half].reshape(len(self.w), -1)

    def _pack(self, w: Array) -> Array:
        return np.swapaxes(w.reshape(1, -1, w.shape[2]), 1, 2)

    def _unpack(self, w: Array) -> Array:
        return np.swapaxes(w, 1, 2).reshape(self.weight.shape)

    def places(self, y: Sequence[int]) -> tuple[int, int]:
        return y[0] * y[1], 1

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return x.reshape(1, -1, x.shape[-1])[:, at]

    def product(self, rows: Array) -> Array:
        """What the layer makes of rows."""
        made: Array = rows @ self.w.astype(np.float32)
        return made if self.b is None else made + self.b[:, None].astype(np.float32)

    def changes(self, w: Array, b: Array | None) -> list[Change]:
        out = [Change(self.site.index, self.slot, self._unpack(w).astype(self.weight.dtype))]
        if b is not None and self.bias is not None:
            new = b.reshape(len(self.bias), -1).astype(self.bias.dtype)
            start = self.half * new.shape[1]
            out.append(Change(self.site.index, 3, new, columns=slice(start, start + new.shape[1])))
        return out


class State(Inputs):
    """Hidden states y [s, D, b, h] ([b, s, D, h] with layout 1), r [D, (g h), h], the second half of b; directions are groups.

    A reset gate that comes before the product (GRU's default) is not seen: the states are taken as if it let all through.
    """

    slot, half = 2, 1

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.x = site.node.output[0]
        self.batch_first = bool(site.attr("layout", 0))

    def _pack(self, w: Array) -> Array:
        return w.transpose(0, 2, 1)

    def _unpack(self, w: Array) -> Array:
        return w.transpose(0, 2, 1)

    def places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y[:-1]) // len(self.w), 1

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        """Each state is one that the next step reads; the last is as good as any."""
        states = x.transpose(2, 1, 0, 3) if self.batch_first else x.transpose(1, 0, 2, 3)
        return states.reshape(len(states), -1, x.shape[-1])[:, at]
