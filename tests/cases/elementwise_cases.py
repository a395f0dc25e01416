"""Cases: Elementwise operators and broadcasting."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from cases.base import DIMS, DOMAIN, MS, Built, Draw, Mid, Net, _above_one, any_mid, case, first_version, opset_from


@case(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
    examples=2,
)  # fmt: skip
def unary(d: Draw, op: str) -> Built:
    first = 7 if op == "ThresholdedRelu" else max(first_version(op), 9)  # ONNX Runtime has that one before ONNX has it
    net = Net(d, opset_from(d, first, 13, 17))
    m = any_mid(net)
    return m.end(net.op(op, DOMAIN.get(op, lambda _, x: x)(net, m.x)), exact=True)


@case("Gelu", examples=3)
def gelu(d: Draw, op: str) -> Built:
    net = Net(d, 20)
    m = any_mid(net)
    return m.end(net.op(op, m.x, approximate=d.pick("none", "tanh")))


@case("Mish", examples=2)
def mish(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net)
    return m.end(net.op(op, m.x))


@case("Swish", examples=2, reference=True)
def swish(d: Draw, op: str) -> Built:
    net = Net(d, 24)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, alpha=d.pick(1.0, 1.702)))


@case("Affine", "ScaledTanh", "ParametricSoftplus", examples=2)
def before_onnx_1(d: Draw, op: str) -> Built:
    net = Net(d, 8)
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, alpha=0.5, beta=0.25))


@case("Cast", examples=4)
def cast(d: Draw, op: str) -> Built:
    net = Net(d, opset_from(d, 9, 13, 19))
    m = any_mid(net)
    to = d.pick(TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32)
    return m.end(net.to_float(net.op(op, m.x, to=to)), tolerance=5e-3)


@case("IsNaN", "IsInf", "Not", "BitwiseNot", examples=2)
def unary_other(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net)
    x = {
        "IsNaN": lambda: net.op("Sqrt", m.x),
        "IsInf": lambda: net.op("Reciprocal", net.op("Relu", m.x)),
        "Not": lambda: net.op("Greater", m.x, net.real(0.0)),
        "BitwiseNot": lambda: net.op("Cast", net.op("Mul", m.x, net.real(9.0)), to=TensorProto.INT32),
    }[op]()
    return m.end(net.to_float(net.op(op, x)))


@case("Clip", examples=5)
def clip(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 11, 13))
    m = any_mid(net)
    if net.opset < 11:
        return m.end(net.op(op, m.x, min=-0.5, max=0.5))
    low, high = net.real(-0.5), net.real(0.5)
    return m.end(net.op(op, m.x, *d.pick((low, high), ("", high), (low,))))


@case("Dropout", examples=4)
def dropout(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 10, 13))
    m = any_mid(net)
    if net.opset < 12:
        return m.end(net.op(op, m.x, ratio=0.3))
    if d.flag():
        y, mask = net.ops(op, m.x, outs=2)
        return m.end(net.op("Mul", y, net.to_float(mask)))
    return m.end(net.op(op, m.x, net.real(0.3), net.const(False, np.bool_)))


@case("CastLike", examples=3)
def cast_like(d: Draw, op: str) -> Built:
    net = Net(d, 15)
    m = any_mid(net)
    like = d.pick(m.x, net.weight("pattern", 4, 7), net.input("like", d.pick(1, 4)))
    return m.end(net.op(op, net.op("Cast", m.x, to=TensorProto.DOUBLE), like))


def _partner(net: Net, m: Mid, form: str) -> str:
    """The second operand of a broadcasting operator."""
    if form == "branch":
        return m.again("b")
    if form == "scalar":
        return net.real(0.7)
    if form == "gate":
        g = m.again("b")
        axes = [a for a in range(1, m.rank) if a != m.axis]
        return net.mean(g, axes) if axes else g
    if form == "full":  # as many axes as x, the others of size 1
        shape = [1] * m.rank
        shape[m.axis] = m.c
        return net.weight("p", *shape)
    if form == "input":  # another input without channels
        return net.input("other", *(1 if a == m.axis else s for a, s in enumerate(DIMS[m.kind])))
    return net.weight("p", *m.column())


FORMS = ("branch", "scalar", "gate", "full", "column", "input")


def _binary(d: Draw, opset: int) -> tuple[Net, Mid, str, bool]:
    net = Net(d, opset)
    m = any_mid(net)
    form = d.pick(*FORMS)
    return net, m, _partner(net, m, form), d.flag()


@case("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", examples=8)
def arithmetic(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, d.pick(8, 13, 17))
    return m.end(net.op(op, *((b, m.x) if swap else (m.x, b))), exact=True)


@case("Div", "Pow", "Mod", examples=5)
def partial_arithmetic(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 13)
    b = _above_one(net, b)
    x = net.op("Abs", m.x) if op == "Pow" else _above_one(net, m.x) if swap else m.x
    x = _above_one(net, x) if op == "Pow" and swap else x
    ins = (b, x) if swap else (x, b)
    return m.end(net.op(op, *ins, fmod=1 if op == "Mod" else None))


@case("Sum", "Max", "Mean", examples=4)
def variadic(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net)
    others = [_partner(net, m, f) for f in d.pick((), ("branch", "column"), ("full", "gate"), ("scalar", "branch"))]
    return m.end(net.op(op, *others, m.x))


@case("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", examples=3)
def comparison(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 16)
    return m.end(net.to_float(net.op(op, *((b, m.x) if swap else (m.x, b)))))


@case("And", "Or", "Xor", examples=3)
def logical(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 16)
    x, y = net.op("Greater", m.x, net.real(0.1)), net.op("Greater", b, net.real(0.2))
    return m.end(net.to_float(net.op(op, *((y, x) if swap else (x, y)))))


@case("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", examples=3)
def bitwise(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, 18)
    to = TensorProto.UINT32 if op == "BitShift" else TensorProto.INT32

    def whole(x: str) -> str:
        return net.op("Cast", net.op("Mul", net.op("Sigmoid", x), net.real(9.0)), to=to)

    x, y = whole(m.x), whole(b)
    attrs = {"direction": d.pick("LEFT", "RIGHT")} if op == "BitShift" else {}
    return m.end(net.to_float(net.op(op, *((y, x) if swap else (x, y)), **attrs)))


@case("Where", examples=10)
def where(d: Draw, op: str) -> Built:
    net, m, b, swap = _binary(d, d.pick(9, 16))
    form = d.pick("branch", "column", "scalar", "input")
    if form == "branch":
        cond = net.op("Greater", m.again("c"), net.real(0.0))
    elif form == "column":
        cond = net.init("cond", net.rng.integers(0, 2, m.column()).astype(bool))
    elif form == "scalar":
        cond = net.init("cond", np.array(True))
    else:
        cond = net.op("Greater", _partner(net, m, "input") if "other" not in net.feeds[0] else "other", net.real(0.0))
    return m.end(net.op(op, cond, *((b, m.x) if swap else (m.x, b))))


@case("PRelu", examples=8)
def prelu(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 9, 16))
    m = any_mid(net)
    shape = d.pick(m.column(), (1,), (1,) * (m.rank - 1))
    return m.end(net.op(op, m.x, net.weight("slope", *shape, scale=0.3)), exact=True)


@case("Gelu", "QuickGelu", "FastGelu", domain=MS, examples=3)
def ms_gelu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    bias = [net.weight("p", m.c)] if op == "FastGelu" and d.flag() else []
    return m.end(net.op(op, m.x, *bias, domain=MS))


@case("BiasGelu", domain=MS, examples=3)
def ms_bias_gelu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, net.weight("p", m.c), domain=MS))


@case("ImageScaler", examples=2)
def image_scaler(d: Draw, op: str) -> Built:
    net = Net(d, 8)
    m = any_mid(net, "image", c=3)
    return m.end(net.op(op, m.x, scale=0.5, bias=[0.1, 0.7, -0.4]))


@case("Mul", examples=5)
def squeeze_and_excite(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 18))
    m = any_mid(net, "image")
    g = net.op("GlobalAveragePool", m.x) if d.flag() else net.mean(m.x, [2, 3])
    g = net.op("Relu", net.conv(g, "s", (4, m.c, 1, 1)))
    g = net.op(d.pick("Sigmoid", "HardSigmoid"), net.conv(g, "e", (m.c, 4, 1, 1)))
    m.close(net.op(op, m.x, g))
    return net.done(m.made, ("s.weight", 0), ("s.weight", 1), ("e.weight", 0), m.used, groups=2, exact=True)


@case("Add", examples=6)
def residual_stream(d: Draw, op: str) -> Built:
    """Two blocks on one width; equal biases are one shared initializer."""
    net = Net(d)
    m = any_mid(net, "tokens", "image")
    shared = net.weight("shared.bias", 4)
    x = m.x
    for i in range(2):
        if m.kind == "tokens":
            y = net.op("Add", net.op("MatMul", x, net.init(f"up{i}", net.matrix(m.c, 4))), shared)
            y = net.op("MatMul", net.op("Relu", y), net.init(f"down{i}", net.matrix(4, m.c)))
        else:
            y = net.op("Conv", x, net.weight(f"up{i}", 4, m.c, 1, 1), shared)
            y = net.op("Conv", net.op("Relu", y), net.weight(f"down{i}", m.c, 4, 1, 1))
        x = net.op(op, x, y) if d.flag() else net.op(op, y, x)
    m.close(x)
    made, used = (1, 0) if m.kind == "tokens" else (0, 1)
    return net.done(
        m.made, ("up0", made), ("up1", made), ("down0", used), ("shared.bias", 0), m.used, groups=3, exact=True
    )


@case("Identity", "Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Concat", "Slice", "Mul", examples=4)
def weights_behind(d: Draw, op: str) -> Built:
    """The weights of two products come through an operator, as exporters write them."""
    net = Net(d)
    c = d.pick(4, 6)

    def behind(name: str, i: int, o: int) -> str:
        w = net.matrix(i, o)
        if op == "Transpose":
            return net.op(op, net.init(name, w.T), perm=d.pick([1, 0], None))
        if op == "Cast":
            return net.op(op, net.init(name, w.astype(np.float64)), to=TensorProto.FLOAT)
        if op == "Reshape":
            return net.op(op, net.init(name, w.reshape(i, o, 1)), net.const([i, o]))
        if op == "Unsqueeze":
            return net.op("Squeeze", net.op(op, net.init(name, w), net.const([0])), net.const([0]))
        if op == "Squeeze":
            return net.op(op, net.init(name, w[None]), net.const([0]))
        if op == "Concat":
            k = i // 2
            return net.op(op, net.init(name, w[:k]), net.init(f"{name}.rest", w[k:]), axis=0)
        if op == "Slice":
            return net.op(op, net.init(name, np.concatenate([w, w])), net.const([0]), net.const([i]), net.const([0]))
        if op == "Mul":
            return net.op(op, net.init(name, w), net.real(0.5))
        return net.op(op, net.init(name, w))

    x = net.op("Relu", net.op("MatMul", net.input("input", "N", "T", 6), behind("a.weight", 6, c)))
    net.out(net.op("MatMul", x, behind("z.weight", c, 4)))
    t = op == "Transpose"
    z = 2 if op == "Squeeze" else 1
    prunable = [("a.weight", 0 if t else z), ("z.weight", 1 if t else z - 1)]
    return net.done(*prunable)


@case("Relu", examples=3)
def hidden_layer_as_output(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net)
    net.out(net.op(op, m.x))
    y = net.conv(m.x, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(m.x, "b", m.c, 4)
    m.close(net.op(op, y), 4)
    return net.done(("b.weight", 0 if m.kind == "image" else 1), m.used, frozen=[m.made])


@case("Mul", examples=2)
def layer_scale(d: Draw, op: str) -> Built:
    """ConvNeXt: depthwise, to NHWC, norm, two layers, a gamma, back, and the sum."""
    net = Net(d)
    m = any_mid(net, "image", c=4)
    y = net.op("Transpose", net.conv(m.x, "dw", (4, 1, 3, 3), group=4), perm=[0, 2, 3, 1])
    y = net.op("LayerNormalization", y, net.weight("ln.scale", 4), net.weight("ln.bias", 4))
    y = net.linear(net.op("Relu", net.linear(y, "up", 4, 6)), "down", 6, 4)
    y = net.op("Transpose", net.op(op, net.weight("gamma", 4), y), perm=[0, 3, 1, 2])
    m.close(net.op("Add", y, m.x))
    return net.done(m.made, ("dw.weight", 0), ("up.weight", 0), ("up.weight", 1), ("gamma", 0), m.used, groups=2)


@case("SwiGLU", examples=2, reference=True)
def swiglu(d: Draw, op: str) -> Built:
    net = Net(d, 28)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, m.again("b")), exact=True)


@case("BitCast", examples=2, reference=True)
def bit_cast(d: Draw, op: str) -> Built:
    net = Net(d, 26)
    m = any_mid(net)
    return m.end(net.op(op, net.op(op, m.x, to=TensorProto.INT32), to=TensorProto.FLOAT), exact=True)


@case("ScaledSiLU", domain=MS, examples=2)
def scaled_silu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", "flat")
    return m.end(net.op(op, m.x, *([net.real(1.7)] if d.flag() else []), domain=MS), exact=True)


@case("GatedAdd", domain=MS, examples=2)
def gated_add(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    return m.end(net.op(op, m.x, m.again("b"), net.linear("input", "gate", 6, 1), domain=MS), exact=True)


@case("BiasAdd", domain=MS, examples=2, reference=True)
def bias_add(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    y = net.op(op, m.x, net.weight("b", m.c), m.again("skip"), domain=MS)
    return m.end(y, exact=True)


@case("BiasSplitGelu", domain=MS, examples=2, reference=True)
def bias_split_gelu(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", c=d.pick(6, 8))
    return m.end(net.op(op, m.x, net.weight("b", m.c), domain=MS), m.c // 2, exact=True)


@case("LinearAttentionGate", domain=MS, examples=2)
def linear_attention_gate(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    ins = [net.weight("dt", m.c), net.weight("decay", m.c)]
    if d.flag():
        return m.end(net.op(op, m.x, *ins, domain=MS), exact=True)
    decay, rate = net.ops(op, m.x, *ins, m.again("b"), outs=2, domain=MS)
    return m.end(net.op("Mul", decay, rate), exact=True)
