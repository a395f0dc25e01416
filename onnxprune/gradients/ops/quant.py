"""Quantizers and what computes with integers. Rounding is straight through: its gradient is that of the number itself.

Quantized tensors are carried as floats with integer values, so that gradients go through them; outputs get the file's types when
they leave as arrays.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.ops import pool
from onnxprune.gradients.ops.convolution import convolve
from onnxprune.gradients.types import RANGES, get_integer_range, round_to_type
from onnxprune.ops.records import MICROSOFT


def round_through(x: Tensor) -> Tensor:
    """To the nearest integer, ties to even; the gradient is the number's."""
    return x + (x.detach().round() - x.detach()) if x.requires_grad else x.round()


def _float(node: Node, x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(node.state.dtype)


def spread(node: Node, v: Tensor, x: Tensor, axis: int = 1, block: int = 0) -> Tensor:
    """A scale or zero point as it broadcasts: one number, one for each position of `axis`, or one for each block of it."""
    v = _float(node, v)
    if v.numel() == 1 and v.dim() <= 1:
        return v.reshape(())
    axis = axis % x.dim()
    if v.dim() == 1:
        return v.reshape(-1, *[1] * (x.dim() - axis - 1))
    if block:
        return v.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return v


def _quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, elem: int) -> Tensor:
    """To integers of a type; `scale` and `zero` broadcast already."""
    low, high = get_integer_range(elem, zero)
    y = round_through(x / scale)
    return torch.clamp(y if zero is None else y + _float(node, zero), low, high)


def _output_type(node: Node, zero: int) -> int:
    """The element type that a quantizer writes: that of its zero point, or `output_dtype`."""
    return node.elem(zero) or node.output_dtype or TensorProto.UINT8


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain=MICROSOFT)
def quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    elem = _output_type(node, 2)
    s = spread(node, scale, x, axis, block)
    z = None if zero is None else spread(node, zero, x, axis, block)
    x = _float(node, x)
    if elem not in RANGES:  # floats of 8 bits and fewer
        return round_to_type(x / s if z is None else x / s + z, elem, node.state, bool(node.get("saturate", 1)))
    return _quantize(node, x, s, z, elem)


def dequantized(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 1, block: int = 0) -> Tensor:
    """(x - zero) scale"""
    y = _float(node, x)
    if zero is not None:
        y = y - spread(node, zero, x, axis, block)
    return y * spread(node, scale, x, axis, block)


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain=MICROSOFT)
def dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return dequantized(node, x, scale, zero, node.get("axis", 1), node.get("block_size", 0))


@operator("DynamicQuantizeLinear")
def quantize_dynamically(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To uint8, by the range that the tensor has, zero included."""
    low, high = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(round_through(x / scale) + zero, 0, 255), scale, zero


@operator("Quant", domain="onnx.brevitas")
@operator("Quant", domain="qonnx.custom_op.general")
def fake_quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor, bits: Tensor) -> Tensor:
    """Rounded to integers of so many bits, and back."""
    width, narrow = float(bits.item()), node.get("narrow", 0)
    if node.get("signed", 1):
        low, high = -(2.0 ** (width - 1)) + narrow, 2.0 ** (width - 1) - 1
    else:
        low, high = 0.0, 2.0**width - 1 - narrow
    return (torch.clamp(round_through(x / scale + zero), low, high) - zero) * scale


# Products of integers


def _centered(node: Node, x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    x = _float(node, x)
    return x if zero is None else x - spread(node, zero, x, axis)


@operator("MatMulInteger")
def integer_matrix_product(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return _centered(node, a, a_zero, -2) @ _centered(node, b, b_zero, -1)


@operator("ConvInteger")
def integer_convolution(
    node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    return convolve(node, _centered(node, x, x_zero, 1), _centered(node, w, w_zero, 0))


@operator("QLinearConv")
@operator("QLinearConv", domain=MICROSOFT)
def quantized_convolution(
    node: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, b: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Sums of integers, exactly, times one factor for each output."""
    last = bool(node.get("channels_last", 0))
    x = x.movedim(-1, 1) if last else x
    y = convolve(
        node, _centered(node, x, x_zero, 1), _centered(node, w, w_zero, 0), None if b is None else _float(node, b)
    )
    factor = _float(node, x_scale) * _float(node, w_scale) / _float(node, y_scale)
    y = _quantize(node, y * spread(node, factor.reshape(-1), y, 1), torch.ones(()), y_zero, node.elem(7))
    return y.movedim(1, -1) if last else y


@operator("QLinearMatMul")
def quantized_matrix_product(
    node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    y = _centered(node, a, a_zero, -2) @ _centered(node, b, b_zero, -1)
    y = y * spread(node, a_scale, y, -2) * spread(node, b_scale, y, -1)
    return _quantize(node, y, spread(node, y_scale, y, -2), spread(node, y_zero, y, -2), node.elem(7))


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def integer_product_to_float(
    node: Node, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None,
    b_zero: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    y = (_centered(node, a, a_zero, -2) @ _centered(node, b, b_zero, -1)) * spread(node, a_scale, a, -2)
    y = y * spread(node, b_scale, y, -1)
    return y if bias is None else y + bias


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_product(
    node: Node, a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    codes, scale, zero = quantize_dynamically(node, a)
    return integer_product_to_float(node, codes, b, scale, b_scale, zero, b_zero, bias)


@operator("QGemm", domain=MICROSOFT)
def quantized_general_product(
    node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    c: Tensor | None = None, y_scale: Tensor | None = None, y_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """alpha a b + c, c in the integers of the product; quantized where there is a scale for that."""
    p = _centered(node, a, a_zero, 0)
    q = _centered(node, b, b_zero, 0 if node.transB else 1)
    y = (p.t() if node.transA else p) @ (q.t() if node.transB else q) * node.get("alpha", 1.0)
    y = y if c is None else y + _float(node, c)
    y = y * _float(node, a_scale) * spread(node, b_scale, y, -1)
    return y if y_scale is None else _quantize(node, y, _float(node, y_scale), y_zero, node.elem(8))


@operator("MatMulNBits", domain=MICROSOFT)
def blockwise_product(
    node: Node, a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor | None = None, order: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """a [.., K] times codes [N, blocks, bytes] of a few bits each, two to a byte where they are of four."""
    bits, k, n, size = node.get("bits", 4), node.K, node.N, node.block_size
    codes = _unpack(b.reshape(n, -1), bits).reshape(n, -1, size)
    blocks = codes.shape[1]
    if zeros is None:
        center = torch.full((n, blocks), float(2 ** (bits - 1)), device=a.device)
    elif zeros.is_floating_point():
        center = zeros.reshape(n, blocks)
    else:
        center = _unpack(zeros.reshape(n, -1), bits)[:, :blocks]
    w = (codes.to(a.dtype) - center.to(a.dtype).unsqueeze(-1)) * scales.reshape(n, blocks, 1).to(a.dtype)
    y = a @ w.reshape(n, -1)[:, :k].t()
    return y if bias is None else y + bias


def _unpack(x: Tensor, bits: int) -> Tensor:
    """The numbers in each byte, the lowest bits first."""
    parts = [(x.to(torch.int32) >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(parts, -1).flatten(-2)


# Operators on quantized tensors: the plain operator between a dequantizer and a quantizer


@operator("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def quantized_pair(
    node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor | None, b: Tensor, b_scale: Tensor, b_zero: Tensor | None,
    y_scale: Tensor, y_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    p, q = dequantized(node, a, a_scale, a_zero), dequantized(node, b, b_scale, b_zero)
    y = p + q if node.op_type == "QLinearAdd" else p * q
    return _quantize(node, y, _float(node, y_scale), y_zero, node.elem(7))


@operator(
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    "QLinearSoftmax",
    domain=MICROSOFT,
)
def quantized_single(
    node: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None
) -> Tensor:
    last = bool(node.get("channels_last", 0))
    y = dequantized(node, x, x_scale, x_zero)
    y = y.movedim(-1, 1) if last else y
    y = PLAIN[node.op_type](node, y)
    y = y.movedim(1, -1) if last else y
    return _quantize(node, y, _float(node, y_scale), y_zero, node.elem(4))


def _softmax(node: Node, x: Tensor) -> Tensor:
    if node.get("opset", 13) >= 13:
        return torch.softmax(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.dim()
    return torch.softmax(x.flatten(axis), axis).reshape(x.shape)


PLAIN: dict[str, Any] = {
    "QLinearAveragePool": pool.average_pool,
    "QLinearGlobalAveragePool": pool.global_average_pool,
    "QLinearLeakyRelu": lambda node, x: torch.nn.functional.leaky_relu(x, node.get("alpha", 0.01)),
    "QLinearSigmoid": lambda _node, x: torch.sigmoid(x),
    "QLinearSoftmax": _softmax,
}


@operator("QLinearConcat", domain=MICROSOFT)
def quantized_concatenation(node: Node, y_scale: Tensor, y_zero: Tensor, *parts: Tensor) -> Tensor:
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    y = torch.cat([dequantized(node, x, s, z) for x, s, z in triples], node.get("axis", 1))
    return _quantize(node, y, _float(node, y_scale), y_zero, node.elem(1))


@operator("QLinearWhere", domain=MICROSOFT)
def quantized_choice(
    node: Node, condition: Tensor, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    y = torch.where(condition, dequantized(node, a, a_scale, a_zero), dequantized(node, b, b_scale, b_zero))
    return _quantize(node, y, _float(node, y_scale), y_zero, node.elem(8))
