"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.types import cast
from onnxprune.ops.records import MICROSOFT


def _copy(x: Any) -> Any:
    """Where gradients are wanted, a value of its own: its gradient is that of what reads the copy."""
    return x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal,
    "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan,
    "Sinh": torch.sinh, "Cosh": torch.cosh, "Tanh": torch.tanh, "Asinh": torch.asinh, "Acosh": torch.acosh,
    "Atanh": torch.atanh, "Erf": torch.erf, "Sign": torch.sign, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Softplus": F.softplus, "Softsign": F.softsign, "HardSwish": F.hardswish,
    "Mish": F.mish, "IsNaN": torch.isnan, "Not": torch.logical_not, "BitwiseNot": torch.bitwise_not, "Identity": _copy,
    "MemcpyFromHost": lambda x: x, "MemcpyToHost": lambda x: x,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "And": torch.logical_and, "Or": torch.logical_or,
    "Xor": torch.logical_xor, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt,
    "LessOrEqual": torch.le, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def aligned(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The second operand as it broadcasts; below opset 7 it was aligned to the first at `axis`."""
    if node.version < 7 and node.broadcast and node.axis is not None:
        axis = node.axis % a.dim()
        return b.reshape(*b.shape, *[1] * (a.dim() - axis - b.dim()))
    return b


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    return lambda _node, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node, Tensor, Tensor], Tensor]:
    return lambda node, a, b: function(a, b if node.version >= 7 else aligned(node, a, b))


for _name, _one in UNARY.items():
    operator(_name)(_unary(_one))
for _name, _two in BINARY.items():
    operator(_name)(_binary(_two))


@operator("Div")
def divide(node: Node, a: Tensor, b: Tensor) -> Tensor:
    b = aligned(node, a, b)
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.fmod else torch.remainder(a, b)


@operator("Pow")
def power(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The base's type is the result's. A constant exponent goes to torch as a number, which is faster and has no gradient."""
    b = aligned(node, a, b)
    if b.numel() == 1 and not b.requires_grad and b.dim() <= a.dim() and b.device.type == "cpu":
        exponent = b.item()
        if not a.is_floating_point() and (exponent < 0 or isinstance(exponent, float)):
            return torch.pow(a.double(), exponent).to(a.dtype)
        return torch.pow(a, exponent)
    return torch.pow(a, b).to(a.dtype)


@operator("BitShift")
def shift_bits(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a << b if node.direction == "LEFT" else a >> b


@operator("Sum")
def add_all(node: Node, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs)


@operator("Mean")
def average(node: Node, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.add, xs) / len(xs)


@operator("Max")
def maximum(node: Node, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, xs)


@operator("Min")
def minimum(node: Node, *xs: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, xs)


@operator("Where")
def choose(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("IsInf")
def is_infinite(node: Node, x: Tensor) -> Tensor:
    if not node.detect_positive:
        return torch.isneginf(x) if node.detect_negative else torch.zeros_like(x, dtype=torch.bool)
    return torch.isinf(x) if node.detect_negative else torch.isposinf(x)


@operator("Cast")
def convert(node: Node, x: Tensor) -> Tensor:
    return cast(x, node.to, node.state, bool(node.get("saturate", 1)))


@operator("CastLike")
def convert_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return cast(x, node.elem(1), node.state, bool(node.get("saturate", 1))) if node.elem(1) else x.to(like.dtype)


@operator("Dropout")
def drop_out(node: Node, x: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    """What it does at inference: nothing."""
    return x, torch.ones_like(x, dtype=torch.bool) if len(node.outputs) > 1 else x


@operator("Clip", host=(1, 2))
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Where the bounds cross, the upper one holds. Bounds are numbers to torch, unless they are to have gradients."""
    if any(b is not None and b.requires_grad for b in (low, high)):
        return torch.clamp(x, low, high)
    least = node.min if low is None else low.item()
    most = node.max if high is None else high.item()
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.alpha)


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """A slope [C] stands for axis 1 in old files, where it does not broadcast."""
    if slope.dim() == 1 and x.dim() > 1 and slope.shape[0] not in (1, x.shape[-1]) and node.version < 9:
        slope = slope.reshape(-1, *[1] * (x.dim() - 2))
    channels = slope.dim() == x.dim() - 1 and slope.numel() == slope.shape[0] == x.shape[1] if slope.dim() else False
    if x.is_floating_point() and (channels or slope.numel() == 1):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, slope * x)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.alpha)


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.alpha)


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    return node.gamma * F.elu(x, node.alpha)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -node.lambd, x + node.bias, torch.where(x > node.lambd, x - node.bias, zero)).to(x.dtype)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.alpha * x + node.beta, 0, 1)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.approximate)


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.alpha * x)


@operator("SwiGLU")
def swiglu(node: Node, x: Tensor, gate: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x) * gate


@operator("ScaledTanh")
def scaled_tanh(node: Node, x: Tensor) -> Tensor:
    return node.get("alpha", 1.0) * torch.tanh(node.get("beta", 1.0) * x)


@operator("ParametricSoftplus")
def parametric_softplus(node: Node, x: Tensor) -> Tensor:
    return node.get("alpha", 1.0) * F.softplus(node.get("beta", 1.0) * x)


@operator("Affine")
def affine(node: Node, x: Tensor) -> Tensor:
    return node.get("alpha", 1.0) * x + node.get("beta", 0.0)


@operator("ImageScaler")
def scale_image(node: Node, x: Tensor) -> Tensor:
    """x [N, C, h, w] times `scale`, plus a bias a channel."""
    bias = torch.tensor(node.get("bias", [0.0]), dtype=x.dtype, device=x.device)
    return x * node.get("scale", 1.0) + bias.reshape(-1, 1, 1)


@operator("BiasAdd", domain=MICROSOFT)
def add_bias(node: Node, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


@operator("GatedAdd", domain=MICROSOFT)
def add_gated(node: Node, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return x + gate * y


@operator("BiasGelu", "Gelu", domain=MICROSOFT)
def bias_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=MICROSOFT)
def quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


@operator("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(node: Node, x: Tensor, bias: Tensor) -> Tensor:
    value, gate = (x + bias).chunk(2, dim=-1)
    return value * gate * torch.sigmoid(1.702 * gate)


@operator("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(node: Node, x: Tensor, scale: Tensor | None = None) -> Tensor:
    return F.silu(x if scale is None else scale * x)


@operator("LinearAttentionGate", domain=MICROSOFT)
def decay_and_rate(node: Node, a: Tensor, bias: Tensor, scale: Tensor, b: Tensor | None = None) -> Any:
    """scale softplus(a + bias), and sigmoid(b)"""
    decay = scale * F.softplus(a + bias)
    return decay if b is None else (decay, torch.sigmoid(b))


def activation(name: str, parameters: Any = None) -> Callable[[Tensor], Tensor]:
    """The activation that a fused operator ends with, by its name."""
    values = list(parameters or [])
    if name == "Clip":
        return lambda x: torch.clamp(x, *values[:2])
    if name == "LeakyRelu":
        return lambda x: F.leaky_relu(x, values[0] if values else 0.01)
    if name == "HardSigmoid":
        alpha, beta = values or (0.2, 0.5)
        return lambda x: torch.clamp(alpha * x + beta, 0, 1)
    return UNARY[name] if name else UNARY["Identity"]
