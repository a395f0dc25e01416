"""Productions: elementwise operators, broadcasting, norms, pooling, reductions."""

from __future__ import annotations

import numpy as np
from cases.base import DOMAIN, first_version

from fuzzing.linear import project
from fuzzing.pool import Pool, Skip, Value, divisors, each, production, static, total
from fuzzing.weights import positive, weight
from onnxprune.axes import Size

UNARY = (
    "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "Abs", "Neg", "Erf", "Exp",
    "Sqrt", "Log", "Reciprocal", "Sin", "Cos", "Atan", "Asinh", "Celu", "HardSwish", "Identity", "ThresholdedRelu", "Shrink",
    "Sign", "Floor", "Ceil", "Round", "Gelu", "Mish", "Acos", "Asin", "Atanh", "Acosh", "Cosh", "Sinh", "Tan",
)  # fmt: skip


REDUCE = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip


@production(4)
def unary(p: Pool) -> None:
    v = p.draw()
    op = p.dice.pick(*(o for o in UNARY if first_version(o) <= p.net.opset))
    if op in ("Exp", "Cosh", "Sinh"):
        v = p.like("Tanh", v)
    x = DOMAIN[op](p.net, v) if op in DOMAIN else v
    p.add(p.make(op, [x], v.shape, v.axis))


@production(6)
def binary(p: Pool) -> None:
    """Two tensors of one shape, or one and a parameter, a gate, a scalar, a mask of its tokens."""
    v = p.with_channels(least=1)
    op = p.dice.pick("Add", "Add", "Mul", "Mul", "Sub", "Max", "Min", "Div", "Sum", "Mean")
    w = _mate(p, v)
    if op == "Div":
        w = p.net.op("Add", p.net.op("Sigmoid", w), p.net.real(1.1))
        p.add(p.make(op, [v, w], v.shape, v.axis))
    else:
        p.add(p.make(op, p.dice.pick([v, w], [w, v]), v.shape, v.axis))


def _mate(p: Pool, v: Value) -> str:
    c, a = v.channels, v.axis
    assert isinstance(c, int)
    form = p.dice.pick("same", "same", "same", "branch", "column", "scalar", "gate", "full", "partner")
    if form == "same":
        return p.draw(lambda w: w.shape == v.shape)
    if form == "branch":
        w = project(p, v, c)
        if w.shape != v.shape:
            raise Skip
        return w
    if form == "scalar":
        return p.net.real(p.dice.pick(0.7, [0.7]))
    if form == "gate":
        axes = [b for b in range(1, v.rank) if b != a]
        return p.net.mean(v, axes) if axes else v
    if form == "full":
        return weight(p, *(s if isinstance(s, int) else 1 for s in v.shape))
    if form == "partner":  # anything that broadcasts into it

        def fits(w: Value) -> bool:
            return w.rank <= v.rank and all(n in (1, m) for n, m in zip(w.shape[::-1], v.shape[::-1], strict=False))

        return p.draw(fits)
    return weight(p, c, *[1] * (v.rank - a - 1))


@production(1)
def outer_sum(p: Pool) -> None:
    """Two tensors, each spread along an axis of the other."""
    v = p.draw(lambda v: v.rank in (2, 3) and static(v.shape[-1], 2))
    w = p.draw(lambda w: w.rank == v.rank and w.shape[:-1] == v.shape[:-1])
    x, y = p.net.unsqueeze(v, v.rank), p.net.unsqueeze(w, w.rank - 1)
    p.add(p.make(p.dice.pick("Add", "Mul"), [x, y], (*v.shape, w.shape[-1]), v.rank))


@production(1, since=11)
def clip(p: Pool) -> None:
    p.add(p.like("Clip", p.draw(), p.net.real(-0.5), *([p.net.real(1.5)] if p.dice.flag() else [])))


@production(1, since=9)
def prelu(p: Pool) -> None:
    v = p.with_channels(least=1)
    c = v.channels
    assert isinstance(c, int)
    slope = p.dice.pick((c, *[1] * (v.rank - v.axis - 1)), (1,))
    p.add(p.like("PRelu", v, weight(p, *slope)))


@production(1)
def compared(p: Pool) -> None:
    v = p.draw()
    w = p.draw(lambda w: w.shape == v.shape)
    other = w if w != v else p.net.real(0.2)
    p.add(Value(p.net.to_float(p.net.op(p.dice.pick("Greater", "Less"), v, other)), v.shape, v.axis))


@production(1)
def power(p: Pool) -> None:
    v = p.like("Tanh", p.draw())
    p.add(p.like("Pow", v, p.net.real(p.dice.pick(2.0, 3.0))) if p.dice.flag() else p.like("Mul", v, v))


@production(1, since=13)
def dropout(p: Pool) -> None:
    p.add(p.like("Dropout", p.draw(), p.net.real(0.3)))


@production(1, since=13)
def quantized_activation(p: Pool) -> None:
    v = p.draw()
    scale, zero = p.net.real(0.05), p.net.const(p.dice.pick(0, 3), np.int8)
    q = p.net.op("QuantizeLinear", v, scale, zero)
    p.tolerance = 2e-2
    p.add(p.make("DequantizeLinear", [q, scale, zero], v.shape, v.axis))


@production(1, ms=True)
def fused_activation(p: Pool) -> None:
    v = p.draw(lambda v: static(v.shape[-1]))
    op = p.dice.pick("Gelu", "QuickGelu", "FastGelu", "BiasGelu")
    n = int(v.shape[-1])  # type: ignore[arg-type]
    p.add(p.like(op, v, *([weight(p, n)] if op == "BiasGelu" else []), domain="com.microsoft"))


# norms


@production(3)
def batch_norm(p: Pool) -> None:
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[1]))
    c = int(v.shape[1])  # type: ignore[arg-type]
    p.add(p.like("BatchNormalization", v, positive(p, c), weight(p, c), weight(p, c), positive(p, c)))


@production(1)
def instance_norm(p: Pool) -> None:
    v = p.draw(lambda v: v.rank >= 3 and static(v.shape[1]) and total(v.shape[2:]) != 1)
    c = int(v.shape[1])  # type: ignore[arg-type]
    p.add(p.like("InstanceNormalization", v, positive(p, c), weight(p, c), epsilon=1e-2))


@production(2)
def group_norm_as_exported(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4) and static(v.shape[1], 4) and bool(divisors(v.shape[1])))  # type: ignore[arg-type]
    c = int(v.shape[1])  # type: ignore[arg-type]
    g = p.dice.pick(*divisors(c))
    y = p.reshape(v, (v.shape[0], g, total((c // g, *v.shape[2:]))), 1)
    y = p.like(
        "InstanceNormalization", y, p.net.init(p.net.name("one"), np.ones(g, np.float32)), weight(p, g), epsilon=1e-2
    )
    y = p.make("Reshape", [y, p.net.op("Shape", v)], v.shape, 1) if p.dice.flag() else p.reshape(y, v.shape, 1)
    p.add(p.like("Mul", y, weight(p, c, *[1] * (v.rank - 2))))


@production(2, since=21)
def group_norm(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4) and static(v.shape[1], 4) and bool(divisors(v.shape[1])))  # type: ignore[arg-type]
    c = int(v.shape[1])  # type: ignore[arg-type]
    g = p.dice.pick(*divisors(c), c)
    p.add(p.like("GroupNormalization", v, positive(p, c), weight(p, c), num_groups=g, epsilon=1e-2))


@production(3)
def layer_norm(p: Pool) -> None:
    """LayerNorm or RMSNorm over the last axis, fused or written out."""
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[-1], 2))
    c, last = int(v.shape[-1]), v.rank - 1  # type: ignore[arg-type]
    scale = positive(p, c)
    form = p.dice.pick("fused", "written", "rms")
    if form == "fused" and p.net.opset >= 17:
        bias = [weight(p, c)] if p.dice.flag() else []
        p.add(p.like("LayerNormalization", v, scale, *bias, axis=p.dice.pick(-1, last), epsilon=1e-2))
        return
    x: str = (
        v
        if form == "rms"
        else p.net.op("Sub", v, p.net.mean(v, [p.dice.pick(-1, last) if p.net.opset >= 11 else last]))
    )
    square = p.net.op("Mul", x, x) if p.dice.flag() else p.net.op("Pow", x, p.net.real(2.0))
    sigma = p.net.op("Sqrt", p.net.op("Add", p.net.mean(square, [last]), p.net.real(1e-2)))
    y = p.net.op("Mul", p.net.op("Div", x, sigma), scale)
    p.add(p.make("Add", [y, weight(p, c)], v.shape, v.axis) if p.dice.flag() else Value(y, v.shape, v.axis))


@production(1, since=17)
def layer_norm_of_two_axes(p: Pool) -> None:
    v = p.draw(lambda v: v.rank >= 3 and static(v.shape[-1], 2) and static(v.shape[-2]))
    t, c = (int(n) for n in v.shape[-2:])  # type: ignore[arg-type]
    p.add(
        p.like(
            "LayerNormalization", v, positive(p, t, c), weight(p, t, c), axis=p.dice.pick(-2, v.rank - 2), epsilon=1e-2
        )
    )


@production(2)
def softmax(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 1)
    a = p.dice.int(0, v.rank - 1) if p.net.opset >= 13 else v.rank - 1
    p.add(p.like(p.dice.pick("Softmax", "Softmax", "LogSoftmax"), v, axis=a))


@production(1)
def other_norm(p: Pool) -> None:
    v = p.with_channels()
    op = p.dice.pick("LpNormalization", "LRN", "MeanVarianceNormalization")
    if op == "LpNormalization":
        v = p.like("Add", v, p.net.real(0.3))
        p.add(p.like(op, v, axis=p.dice.int(0, v.rank - 1), p=p.dice.pick(1, 2)))
    elif op == "LRN" and v.rank == 4:
        p.add(p.like(op, v, size=3))
    elif v.rank == 4 and p.net.opset >= 9:
        p.add(p.like("Mul", v, p.net.op("Sigmoid", p.net.op(op, v, axes=p.dice.pick([0, 2, 3], [1, 2, 3])))))
    else:
        raise Skip


# pooling and reductions


@production(2)
def pool(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4))
    op, k = p.dice.pick("MaxPool", "AveragePool", "LpPool"), p.dice.pick(2, 3)
    s = p.dice.pick(1, 2)
    size = [each(lambda n: (n - k) // s + 1, n) for n in v.shape[2:]]
    p.add(p.make(op, [v], (*v.shape[:2], *size), v.axis, kernel_shape=[k] * len(size), strides=[s] * len(size)))


@production(2)
def global_pool(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4))
    op = p.dice.pick("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
    p.add(p.make(op, [v], (*v.shape[:2], *[1] * (v.rank - 2)), v.axis))


@production(3)
def reduce(p: Pool) -> None:
    v = p.draw(lambda v: v.rank > 1)
    axes = sorted(p.dice.rng.sample(range(v.rank), p.dice.int(1, v.rank - 1)))
    keep = p.dice.int(0, 1) if v.rank - len(axes) >= 2 else 1
    op = p.dice.pick(*REDUCE)
    shape: list[Size] = [1 if a in axes else s for a, s in enumerate(v.shape) if keep or a not in axes]
    signed = [a - v.rank for a in axes] if p.net.opset >= 11 and p.dice.chance(0.3) else axes
    y = p.net.axes_op(op, v, signed, 13 if op == "ReduceSum" else 18, keepdims=keep)
    left = [a for a in range(v.rank) if keep or a not in axes]
    axis = left.index(v.axis) if v.axis in left else len(left) - 1
    p.add(p.like("Tanh", Value(y, shape, axis)) if "Sum" in op else Value(y, shape, axis))


@production(1, since=13)
def resize(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4)
    n, c, h, w = v.shape
    mode = p.dice.pick("nearest", "linear")
    shape = (n, c, total((h, 2)), total((w, 2)))
    if p.dice.flag():
        where = [p.net.op("Constant", value_floats=[1.0, 1.0, 2.0, 2.0])]
        ins = [v, "", *where]
    else:
        sizes = p.net.op("Mul", p.net.op("Shape", v), p.net.const([1, 1, 2, 2]))
        ins = [v, "", "", sizes]
    p.add(
        p.make(
            "Resize", ins, shape, v.axis, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    )


@production(1, since=16)
def grid_sample(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4 and static(v.shape[0]))
    n = int(v.shape[0])  # type: ignore[arg-type]
    grid = p.net.op("Tanh", weight(p, n, 3, 4, 2))
    p.add(p.make("GridSample", [v, grid], (n, v.shape[1], 3, 4), v.axis))
