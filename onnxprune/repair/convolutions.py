"""Layers that slide over pictures: each position of the output, in every sample, is a place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.repair.linear_layers import Change, FitLayer, PackedWeight, Site, Unfit


class Spatial(FitLayer):
    """y [N, (g o), *t]"""

    axis = x_axis = 1
    groups: int

    def count_places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y[2:]), y[0]

    def take_outputs(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        picked = y.reshape(*y.shape[:2], -1)[:, :, at]
        picked = picked if keep is None else picked[:, keep]
        split = picked.reshape(len(y), self.groups, -1, len(at))
        return split.transpose(1, 0, 3, 2).reshape(self.groups, len(y) * len(at), -1)


class Convolution(Spatial):
    """x [N, (g i), *s], w [(g o), i, *k] -> y [N, (g o), *t].

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """

    by_inputs = False

    def __init__(self, site: Site) -> None:
        (operand,) = site.operands
        self.site, self.slot = site, operand.slot
        weight, self.code = site.weight(operand)
        self.x, self.y = site.node.input[0], site.node.output[0]
        self.kernel = weight.shape[2:]
        rank = len(self.kernel)
        self.strides = list(site.attr("strides", [1] * rank))
        self.dilations = list(site.attr("dilations", [1] * rank))
        self.matrix = PackedWeight(operand, weight, self.by_inputs)
        self.groups = self.matrix.groups
        self.w = self.matrix.pack(weight.astype(np.float64))
        bias, self.bias_code = site.bias(self.code)
        if bias is None and site.can_add_bias(self.slot):
            bias = np.zeros(self.outputs)
        if bias is not None:
            self.b = bias.astype(np.float64).reshape(self.groups, -1)
        self.mixes = self.groups == 1 or self.w.shape[1] > math.prod(self.kernel)
        self.look_inside()

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        n, c, size = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        taps = self._taps(x.shape[2:], y[2:], at)
        last = x.reshape(n, c, size).transpose(0, 2, 1)  # channels last: one tap is one piece of memory
        if (taps == size).any():
            last = np.concatenate([last, np.zeros((n, 1, c), x.dtype)], axis=1)
        patches = np.ascontiguousarray(last)[:, taps]  # [N, P, k, (g i)]
        split = patches.reshape(n * len(at), taps.shape[1], self.groups, -1).transpose(2, 0, 1, 3)
        return split.reshape(self.groups, n * len(at), -1)

    def _taps(self, s: Sequence[int], t: Sequence[int], at: Array) -> Array:
        """The flat input positions under each kernel position, [P, k]; one past the end where the kernel meets padding."""
        out = np.stack(np.unravel_index(at, t))[:, :, None]
        kernel = np.indices(self.kernel).reshape(len(self.kernel), 1, -1)
        sizes, strides, dilations = (np.reshape(v, (-1, 1, 1)) for v in (s, self.strides, self.dilations))
        begin = np.reshape(self._begin(s, t), (-1, 1, 1))
        where, valid = self._under(out, kernel * dilations, begin, strides)
        valid &= (where >= 0) & (where < sizes)
        flat = np.ravel_multi_index(tuple(np.where(valid, where, 0)), tuple(s))
        return np.where(valid.all(axis=0), flat, math.prod(s))

    def _under(self, out: Array, kernel: Array, begin: Array, strides: Array) -> tuple[Array, Array]:
        where = out * strides + kernel - begin
        return where, np.ones(where.shape, bool)

    def _begin(self, s: Sequence[int], t: Sequence[int]) -> list[int]:
        auto = self.site.attr("auto_pad", "NOTSET")
        rank = len(self.kernel)
        if not auto.startswith("SAME"):
            return [0] * rank if auto == "VALID" else list(self.site.attr("pads", [0] * 2 * rank))[:rank]
        spans = [
            (t[a] - 1) * self.strides[a] + (self.kernel[a] - 1) * self.dilations[a] + 1 - s[a] for a in range(rank)
        ]
        return [(max(n, 0) + (auto == "SAME_LOWER")) // 2 for n in spans]

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        out, product = [Change(self.site.index, self.slot, self.stored(w))], self.site.record.product
        if b is not None and product and product.bias and (self.site.has(product.bias) or b.any()):
            bias = (
                b.ravel().astype(self.matrix.weight.dtype)
                if self.bias_code is None
                else self.bias_code.encode(b.ravel())
            )
            out.append(Change(self.site.index, product.bias, bias))
        return out


class Transposed(Convolution):
    """x [N, (g i), *s], w [(g i), o, *k] -> y [N, (g o), *t]; the strides count positions of the output.

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """

    by_inputs = True

    def _under(self, out: Array, kernel: Array, begin: Array, strides: Array) -> tuple[Array, Array]:
        where = out + begin - kernel
        return where // strides, where % strides == 0

    def _begin(self, s: Sequence[int], t: Sequence[int]) -> list[int]:
        auto = self.site.attr("auto_pad", "NOTSET")
        rank = len(self.kernel)
        if auto == "VALID" or (auto == "NOTSET" and self.site.attr("output_shape") is None):
            return super()._begin(s, t)
        more = self.site.attr("output_padding", [0] * rank)
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        spans = [self.strides[a] * (s[a] - 1) + more[a] + reach[a] - t[a] for a in range(rank)]
        return [max(n, 0) // 2 if auto == "SAME_UPPER" else max(n, 0) - max(n, 0) // 2 for n in spans]


class Scale(Spatial):
    """A scale and a shift behind running statistics: each channel is a group of one input and one output.

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """

    def __init__(self, site: Site) -> None:
        self.site, self.x, self.y = site, site.node.input[0], site.node.output[0]
        self.old = site.const(1), site.const(2)
        gamma, beta, self.mean, var = (site.const(i).astype(np.float64) for i in range(1, 5))
        if len(site.node.output) > 1:
            raise Unfit("it takes its statistics from the batch")
        self.deviation = np.sqrt(var + site.attr("epsilon", 1e-5))
        self.groups = len(gamma)
        self.w = (gamma / self.deviation).reshape(-1, 1, 1)
        self.b = (beta - self.mean * gamma / self.deviation).reshape(-1, 1)

    def lighten(self) -> None:
        """Nothing is large in it."""

    def take_rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return self.take_outputs(x, at)

    def list_changes(self, w: Array, b: Array | None) -> list[Change]:
        assert b is not None
        new = w.ravel() * self.deviation, b.ravel() + self.mean * w.ravel()
        return [Change(self.site.index, i + 1, new[i].astype(self.old[i].dtype)) for i in (0, 1)]
