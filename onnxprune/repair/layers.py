"""Layers as matrix products: rows of what a layer reads, times its weights, are rows of what it makes.

A layer of g groups (1 for most) has rows x [g, n, K], a matrix w [g, K, O] and a bias b [g, O]. `LAYERS` has a function for
each operator that can be written so; whatever it cannot take is said in words (`Unfit`) and left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxprune.graph.view import attribute
from onnxprune.repair.store import Array


class Unfit(Exception):
    """Why a layer is left as it is, for the report."""


@dataclass(frozen=True)
class Change:
    """New contents of a node's input, or of some columns of it."""

    node: int
    slot: int
    array: Array
    columns: slice | None = None


@dataclass
class Site:
    """A node and its constants: the array in each input slot, None where an activation is read or nothing."""

    index: int
    node: NodeProto
    consts: Sequence[Array | None]

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def has(self, slot: int) -> bool:
        return slot < len(self.node.input) and bool(self.node.input[slot])

    def const(self, slot: int) -> Array:
        """A float constant. Raises Unfit."""
        array = self.consts[slot] if self.has(slot) else None
        if array is None:
            raise Unfit(f"input {slot} is computed, no weight of its own")
        if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise Unfit(f"its weights are {array.dtype.name}")
        return array


class Layer:
    """One of those matrix products. `x` and `y` name the tensors it reads and makes; the weights are the node's input `slot`."""

    x: str
    y: str
    axis: int  # of its outputs in y
    slot: int = 1
    w: Array
    b: Array | None = None  # None: there is none, and none can be added

    @property
    def outputs(self) -> int:
        return int(self.w.shape[0] * self.w.shape[2])

    def places(self, y: Sequence[int]) -> tuple[int, int]:
        """For an output of shape `y` how many places there are to sample, and how many rows each gives."""
        raise NotImplementedError

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        """What the layer reads to make its output (of shape `y`) at the places `at`: [g, n, K]."""
        raise NotImplementedError

    def made(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        """The output, or any tensor of its shape, at the places `at`: [g, n, O]; `keep` picks from more outputs."""
        raise NotImplementedError

    def changes(self, w: Array, b: Array | None) -> list[Change]:
        """What to write where for the layer to have other weights."""
        raise NotImplementedError


Make = Callable[["Site", "Site | None"], Layer]
LAYERS: dict[str, Make] = {}


def layer(op: str) -> Callable[[Make], Make]:
    """Register how an operator of the default domain is a matrix product."""

    def register(make: Make) -> Make:
        LAYERS[op] = make
        return make

    return register


class Spatial(Layer):
    """y [N, (g o), *t]; a place is a position of the output, in every sample."""

    axis = 1
    groups: int

    def places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y[2:]), y[0]

    def made(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        found = y.reshape(*y.shape[:2], -1)[:, :, at]
        found = found if keep is None else found[:, keep]
        split = found.reshape(len(y), self.groups, -1, len(at))
        return split.transpose(1, 0, 3, 2).reshape(self.groups, len(y) * len(at), -1)


class Convolution(Spatial):
    """x [N, (g i), *s], w [(g o), i, *k] -> y [N, (g o), *t].

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """

    def __init__(self, site: Site) -> None:
        self.site, self.weight = site, site.const(1)
        self.x, self.y = site.node.input[0], site.node.output[0]
        self.groups = int(site.attr("group", 1))
        self.kernel = self.weight.shape[2:]
        rank = len(self.kernel)
        self.strides = list(site.attr("strides", [1] * rank))
        self.dilations = list(site.attr("dilations", [1] * rank))
        self.w = self._pack(self.weight.astype(np.float64))
        bias = site.const(2) if site.has(2) else np.zeros(self.w.shape[0] * self.w.shape[2])
        self.b = bias.astype(np.float64).reshape(self.groups, -1)

    def _pack(self, w: Array) -> Array:
        """[(g o), i, *k] -> [g, (k i), o]"""
        w = w.reshape(self.groups, -1, w.shape[1], math.prod(self.kernel))
        return w.transpose(0, 3, 2, 1).reshape(self.groups, -1, w.shape[1])

    def _unpack(self, w: Array) -> Array:
        g, _, o = w.shape
        return w.reshape(g, math.prod(self.kernel), -1, o).transpose(0, 3, 2, 1).reshape(self.weight.shape)

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        n, c, size = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        taps = self._taps(x.shape[2:], y[2:], at)
        last = x.reshape(n, c, size).transpose(0, 2, 1)  # channels last: one tap is one piece of memory
        if (taps == size).any():
            last = np.concatenate([last, np.zeros((n, 1, c), x.dtype)], axis=1)
        found = np.ascontiguousarray(last)[:, taps]  # [N, P, k, (g i)]
        split = found.reshape(n * len(at), taps.shape[1], self.groups, -1).transpose(2, 0, 1, 3)
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

    def changes(self, w: Array, b: Array | None) -> list[Change]:
        out = [Change(self.site.index, 1, self._unpack(w).astype(self.weight.dtype))]
        if b is not None and (self.site.has(2) or b.any()):
            out.append(Change(self.site.index, 2, b.ravel().astype(self.weight.dtype)))
        return out


class Transposed(Convolution):
    """x [N, (g i), *s], w [(g i), o, *k] -> y [N, (g o), *t]; the strides count positions of the output.

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """

    def _pack(self, w: Array) -> Array:
        """[(g i), o, *k] -> [g, (k i), o]"""
        w = w.reshape(self.groups, -1, w.shape[1], math.prod(self.kernel))
        return w.transpose(0, 3, 1, 2).reshape(self.groups, -1, w.shape[2])

    def _unpack(self, w: Array) -> Array:
        g, _, o = w.shape
        return w.reshape(g, math.prod(self.kernel), -1, o).transpose(0, 2, 3, 1).reshape(self.weight.shape)

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


@layer("Conv")
def conv(site: Site, _: Site | None) -> Layer:
    return Convolution(site)


@layer("ConvTranspose")
def conv_transpose(site: Site, _: Site | None) -> Layer:
    return Transposed(site)


class Scale(Spatial):
    """BatchNormalization, a scale and a shift: each channel is a group of one input and one output.

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

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return self.made(x, at)

    def changes(self, w: Array, b: Array | None) -> list[Change]:
        assert b is not None
        new = w.ravel() * self.deviation, b.ravel() + self.mean * w.ravel()
        return [Change(self.site.index, i + 1, new[i].astype(self.old[i].dtype)) for i in (0, 1)]


@layer("BatchNormalization")
def batch_norm(site: Site, _: Site | None) -> Layer:
    return Scale(site)


@dataclass
class Product(Layer):
    """x [.., K] @ w [K, O] + b [O] -> y [.., O]; a place is a row.

    `columns`: the constant is the left operand, w [O, K] @ x [.., K, n] -> y [.., O, n]. `turned`: the constant is stored
    as [O, K]. It is multiplied by `scale`, the bias by `bias_scale`.
    """

    x: str
    y: str
    axis: int
    site: Site
    slot: int
    turned: bool = False
    columns: bool = False
    scale: float = 1.0
    bias: Change | None = None  # where the bias is, or can be, and what it is
    bias_scale: float = 1.0

    def __post_init__(self) -> None:
        self.weight = self.site.const(self.slot)
        if self.weight.ndim != 2:
            raise Unfit("its weights have batch axes")
        w = self.weight.astype(np.float64) * self.scale
        self.w = (w.T if self.turned else w)[None]
        if self.bias is not None:
            b = (self.bias.array if self.bias.array.size else np.zeros(1)).astype(np.float64).ravel() * self.bias_scale
            self.b = np.broadcast_to(b, (1, self.w.shape[2]))

    def _flat(self, x: Array) -> Array:
        x = np.swapaxes(x, -1, -2) if self.columns else x
        return x.reshape(-1, x.shape[-1])

    def places(self, y: Sequence[int]) -> tuple[int, int]:
        return math.prod(y) // self.w.shape[2], 1

    def rows(self, x: Array, y: Sequence[int], at: Array) -> Array:
        return self._flat(x)[None, at]

    def made(self, y: Array, at: Array, keep: Array | None = None) -> Array:
        found = self._flat(y)[None, at]
        return found if keep is None else found[..., keep]

    def changes(self, w: Array, b: Array | None) -> list[Change]:
        new = (w[0].T if self.turned else w[0]) / self.scale
        out = [Change(self.site.index, self.slot, np.ascontiguousarray(new, self.weight.dtype))]
        if b is not None and self.bias is not None and (self.bias.array.size or b.any()):
            old = self.bias.array
            shape = old.shape if old.size == b.size else (b.size,)
            out.append(replace(self.bias, array=(b / self.bias_scale).reshape(shape).astype(old.dtype)))
        return out


@layer("MatMul")
def matmul(site: Site, after: Site | None) -> Layer:
    """a [.., m, k] @ b [.., k, n] with one constant side; a constant that is added right behind it is its bias.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    columns = site.consts[0] is not None
    slot = 0 if columns else 1
    size = site.const(slot).shape[0 if columns else -1]
    bias, y = None, site.node.output[0]
    if after is not None and after.node.op_type == "Add":
        at = next(i for i in (0, 1) if after.node.input[i] != y)
        c = after.consts[at]
        if c is not None and c.size == size and (c.shape[-2:] == (size, 1) if columns else c.shape[-1] == size):
            bias, y = Change(after.index, at, after.const(at)), after.node.output[0]
    return Product(site.node.input[1 - slot], y, -2 if columns else -1, site, slot, columns, columns, bias=bias)


@layer("Gemm")
def gemm(site: Site, _: Site | None) -> Layer:
    """y [m, n] = alpha a [m, k] b [k, n] + beta c.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    if site.attr("transA", 0) or site.consts[0] is not None:
        raise Unfit("its left operand is a constant or transposed")
    turned = bool(site.attr("transB", 0))
    alpha, beta = (float(site.attr(name, 1.0)) for name in ("alpha", "beta"))
    weight = site.const(1)
    size = weight.shape[0 if turned else -1]
    c = site.const(2) if site.has(2) else np.zeros(0, weight.dtype)
    if not alpha or not beta or c.size not in (0, 1, size) or (c.size == size > 1 and c.shape[-1] != size):
        raise Unfit("a scale of 0, or a bias that is no vector of its outputs")
    bias = Change(site.index, 2, c)
    return Product(site.node.input[0], site.node.output[0], 1, site, 1, turned, False, alpha, bias, beta)
