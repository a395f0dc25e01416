"""Operators that work position by position: unary ones keep their layout, others tie the axes that broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.axes import div
from onnxprune.layout import Dim, LayoutError, factor, find
from onnxprune.ops.chance import by_condition, by_meeting, by_rounding, by_type, never
from onnxprune.ops.records import SAME, Affine, Bounds, Line, NodeFacts, Passes
from onnxprune.ops.registry import MICROSOFT, Axes, Edits, New, Op, couple, same


def _between(low: float, high: float) -> Callable[[NodeFacts, Mapping[int, np.ndarray]], Bounds]:
    return lambda _node, _constants: (low, high)


def _read_clip(node: NodeFacts, constants: Mapping[int, np.ndarray]) -> Bounds:
    """The bounds of a Clip: attributes before opset 11, then inputs; open where a bound is computed."""
    low, high = node.attr("min", -math.inf), node.attr("max", math.inf)
    low = constants[1].min(initial=math.inf) if node.has(1) and 1 in constants else low
    high = constants[2].max(initial=-math.inf) if node.has(2) and 2 in constants else high
    return float(low), float(high)


def _add(x: int, sign: float = 1.0) -> Affine:
    """x plus `sign` times a constant, where x is in a slot up to `x`."""

    def of(node: NodeFacts, slot: int, constants: Mapping[int, np.ndarray]) -> Line | None:
        if slot > x or 1 - slot not in constants:
            return None
        return np.ones(()), sign * constants[1 - slot].astype(np.float64)

    return of


def _scale(x: int, power: float = 1.0) -> Affine:
    """x times a constant to the `power`, where x is in a slot up to `x`."""

    def of(node: NodeFacts, slot: int, constants: Mapping[int, np.ndarray]) -> Line | None:
        if slot > x or 1 - slot not in constants:
            return None
        with np.errstate(divide="ignore"):
            return constants[1 - slot].astype(np.float64) ** power, np.zeros(())

    return of


@couple("Relu", pointwise=True, bounds=_between(0, math.inf), clips=True, passes=Passes.POSITIVE)
@couple("Abs", pointwise=True, bounds=_between(0, math.inf), passes=Passes.POSITIVE)
@couple("Exp", "Softplus", "Sqrt", pointwise=True, bounds=_between(0, math.inf))
@couple("HardSigmoid", "Sigmoid", pointwise=True, bounds=_between(0, 1))
@couple("Identity", pointwise=True, moves=SAME)
@couple("MemcpyFromHost", "MemcpyToHost", pointwise=True, moves=SAME, any_opset=True)
@couple("Cast", pointwise=True, moves=SAME, changes_type=True, by_chance=by_type)
@couple("LeakyRelu", pointwise=True, passes=Passes.POSITIVE)
@couple("Neg", pointwise=True, by_chance=never, passes=Passes.LINEAR)
@couple("Affine", "ParametricSoftplus", "ScaledTanh", "ThresholdedRelu", pointwise=True, any_opset=True)
@couple(
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitCast", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf",
    "Floor", "Gelu", "HardSwish", "IsInf", "IsNaN", "Log", "Mish", "Not", "Reciprocal", "Round", "Selu",
    "Shrink", "Sign", "Sin", "Sinh", "Softsign", "Swish", "Tan", "Tanh", pointwise=True,
)  # fmt: skip
def unary(op: Op) -> list[Axes | None]:
    """y = f(x), position by position."""
    return same(op)


@couple("ImageScaler", pointwise=True, any_opset=True)
def image_scaler(op: Op) -> list[Axes | None]:
    """y = scale * x + bias, where the attribute `bias` has an entry for each channel of axis 1."""
    x = op.x(0)
    bias = op.attr("bias", [])

    def change(new: New, e: Edits) -> None:
        if new.moves(x[1]):
            e.attrs["bias"] = [bias[i] for i in new.kept(x[1])]

    if bias:
        op.edit(change)
    return [list(x)]


@couple("Gelu", "QuickGelu", "FastGelu", domain=MICROSOFT, pointwise=True, adds=1)
def fused_gelu(op: Op) -> list[Axes | None]:
    """y = gelu(x [+ bias]), the bias along the last axis."""
    return [op.broadcast(op.x(0), op.x(1))] if op.has(1) else same(op)


@couple("ScaledSiLU", domain=MICROSOFT, pointwise=True)
def scaled_silu(op: Op) -> list[Axes | None]:
    """y = s x sigmoid(s x) with one scale s."""
    return same(op)


@couple("LinearAttentionGate", domain=MICROSOFT, pointwise=True)
def decay_and_rate(op: Op) -> list[Axes | None]:
    """decay = scale * softplus(a + bias), rate = sigmoid(b); a and b [B, t, h] of one shape, bias and scale [h]."""
    if not op.has(3):
        return [op.broadcast(op.x(0), op.x(1), op.x(2)), None]
    both = op.broadcast(op.x(0), op.x(1), op.x(2), op.x(3))
    return [both, list(both)]


@couple("BiasSplitGelu", domain=MICROSOFT, pointwise=True, adds=1)
def bias_split_gelu(op: Op) -> list[Axes | None]:
    """x + bias [.., (2 d)], of which the second half gates the first -> y [.., d]."""
    x = op.broadcast(op.x(0), op.x(1))
    size = find(x[-1]).size
    half = div(size, 2)
    if half is None:
        raise LayoutError("halves of an odd size")
    two, d = factor(x[-1], half)
    op.freeze(two, "a half and its gate")
    return [[*x[:-1], d]]


@couple("BiasGelu", domain=MICROSOFT, pointwise=True, adds=1)
def bias_gelu(op: Op) -> list[Axes | None]:
    """y = gelu(x + bias), the bias along the last axis."""
    return [op.broadcast(op.x(0), op.x(1))]


@couple("CastLike", pointwise=True, moves=SAME, changes_type=True)
def cast_like(op: Op) -> list[Axes | None]:
    """y = x with the type of the second input, of which nothing else is read."""
    op.related.add(1)
    return same(op)


@couple("Clip", pointwise=True, bounds=_read_clip, clips=True)
@couple("Dropout", pointwise=True, random=True)
def first_input(op: Op) -> list[Axes | None]:
    """y = f(x, parameters that are scalars)."""
    return same(op)


def _renumber_tokens(op: Op, tokens: Dim) -> None:
    """Ids of tokens are compared with constants: these follow the vocabulary. One that is no token is none afterwards."""

    def change(new: New, e: Edits) -> None:
        kept = {int(old): at for at, old in enumerate(new.kept(tokens))}
        for slot in (0, 1):
            if new.moves(tokens) and (ids := op.value(slot)) is not None:
                renumbered = [kept.get(int(i), -1) if 0 <= i < find(tokens).size else int(i) for i in ids.ravel()]
                e.inputs[slot] = np.array(renumbered, ids.dtype).reshape(ids.shape)

    op.edit(change)


@couple("Add", pointwise=True, sums=True, affine=_add(1), by_chance=never, passes=Passes.LINEAR)
@couple("Sum", pointwise=True, sums=True, passes=Passes.LINEAR)
@couple("Sub", pointwise=True, affine=_add(0, -1.0), by_chance=never, passes=Passes.LINEAR)
@couple("Mul", pointwise=True, affine=_scale(1), by_chance=never, passes=Passes.EACH)
@couple("Div", pointwise=True, affine=_scale(0, -1.0), rounds=True, by_chance=by_rounding)
@couple("Where", pointwise=True, by_chance=by_condition)
@couple("Equal", pointwise=True, equates=True, by_chance=by_meeting)
@couple(
    "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Mod", "Or", "Pow", "SwiGLU", "Xor", pointwise=True,
)  # fmt: skip
@couple("Max", "Mean", "Min", pointwise=True, passes=Passes.POSITIVE)
@couple("BiasAdd", "GatedAdd", domain=MICROSOFT, pointwise=True)
def nary(op: Op) -> list[Axes | None]:
    """y = f(a, b, ..) with broadcasting: the aligned axes hold the same channels."""
    if op.tokens is not None:
        _renumber_tokens(op, op.tokens)
    if op.attr("broadcast") and op.attr("axis") is not None:  # opset < 7: b is aligned to a at `axis`
        a, b = op.x(0), op.x(1)
        pad = len(a) - len(b) - op.axis()
        return [op.broadcast(a, [*b, *(op.plain(1) for _ in range(pad))])]
    tensors = [op.x(i) for i in range(len(op.layouts)) if op.has(i)]
    for i, t in enumerate(tensors):
        if len(t) == 1 and op.const(i) and op.type in ("Mul", "Div"):
            op.role(i, 0, "scale")
    y = op.broadcast(*tensors)
    if op.type in ("Add", "Sum") and sum(op.has(i) and not op.const(i) for i in range(len(op.layouts))) > 1:
        for d in y:
            op.kind(d, "residual")
    return [y]


@couple("PRelu", pointwise=True)
def prelu(op: Op) -> list[Axes | None]:
    """y = x if x > 0 else slope * x; the slope broadcasts to x.

    Before opset 9 exporters also write a slope [C] that stands for axis 1.
    """
    x, slope = op.x(0), op.x(1)
    legacy = op.version < 9 and len(slope) == 1 and len(x) > 2 and find(slope[0]).size == find(x[1]).size != 1
    if legacy and find(x[-1]).size in (1, find(slope[0]).size):
        for d in (x[1], x[-1], slope[0]):
            op.freeze(d, "the slope fits axis 1 and the last axis")
        return [list(x)]
    if legacy:
        op.tie(slope[0], x[1])
        return [list(x)]
    return [op.broadcast(x, slope)]
