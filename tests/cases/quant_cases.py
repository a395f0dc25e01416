"""Cases: Quantization."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from cases.base import F32, MS, Built, Draw, Mid, Net, _integers, any_mid, case


@case("QuantizeLinear", examples=6)
def activation_qdq(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 13, 19))
    m = any_mid(net, "image", "tokens")
    zero = net.init("zp", np.array(3, np.uint8))
    if net.opset >= 13 and d.flag():  # per channel
        s = net.init("s", (np.abs(net.rng.standard_normal(m.c)) * 0.01 + 0.02).astype(F32))
        zero = net.init("zps", np.full(m.c, 120, np.uint8))
        axis = d.pick(m.axis, m.axis - m.rank)
        return m.end(net.op("DequantizeLinear", net.op(op, m.x, s, zero, axis=axis), s, zero, axis=axis))
    s = net.real(0.02)
    return m.end(net.op("DequantizeLinear", net.op(op, m.x, s, zero), s, zero))


@case("DequantizeLinear", examples=10)
def weight_qdq(d: Draw, op: str) -> Built:
    """int8 weights behind DequantizeLinear, one scale or a scale for each output (or input) channel."""
    net = Net(d, d.pick(13, 17, 21))
    x = net.input("input", "N", 3, "H", "W")
    c, form = d.int(3, 6), d.pick("tensor", "channel", "negative", "input")

    def weight(name: str, *shape: int) -> str:
        q = net.init(f"{name}.weight", net.rng.integers(-100, 100, shape).astype(np.int8))
        axis = {"tensor": None, "channel": 0, "negative": -4, "input": 1}[form]
        n = 1 if axis is None else shape[axis]
        s = net.init(
            f"{name}.scale",
            (np.abs(net.rng.standard_normal(n)) * 0.01 + 0.002).astype(F32).reshape(() if axis is None else -1),
        )
        zero = [] if d.flag() else [net.init(f"{name}.zero", np.zeros(() if axis is None else n, np.int8))]
        return net.op(op, q, s, *zero, axis=axis)

    y = net.op("Conv", x, weight("a", c, 3, 3, 3), net.weight("a.bias", c), pads=[1, 1, 1, 1])
    net.out(net.op("Conv", net.op("Relu", y), weight("z", 4, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("DequantizeLinear", examples=4)
def block_qdq(d: Draw, op: str) -> Built:
    """Blocks of two inputs share a scale: that axis is frozen or whole blocks go; the other follows."""
    net = Net(d, 21)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 8)
    q = net.init("b.weight", net.rng.integers(-100, 100, (8, 5)).astype(np.int8))
    s = net.init("b.scale", (np.abs(net.rng.standard_normal((4, 5))) * 0.01 + 0.002).astype(F32))
    y = net.op("MatMul", x, net.op(op, q, s, axis=0, block_size=2))
    net.out(net.linear(net.op("Relu", y), "z", 5, 3))
    return net.done(("b.weight", 1), ("b.scale", 1), ("z.weight", 0))


@case("DynamicQuantizeLinear", "ConvInteger", examples=3)
def dynamic_convolution(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    m = any_mid(net, "image")
    q, s, zero = net.ops("DynamicQuantizeLinear", m.x, outs=3)
    w = _integers(net, "b.weight", 4, m.c, 3, 3, dtype=np.uint8)
    y = net.to_float(
        net.op("ConvInteger", q, w, zero, *([net.init("b.zero", np.array(0, np.uint8))] if d.flag() else []))
    )
    m.close(net.op("Mul", y, net.op("Mul", s, net.real(0.01))), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2)


def _q(net: Net, x: str, zero: int = 120) -> list[str]:
    """A tensor as uint8, with its scale and zero point."""
    s, z = net.real(0.03), net.init(net.name("zero"), np.array(zero, np.uint8))
    return [net.op("QuantizeLinear", x, s, z), s, z]


def _dq(net: Net, y: str, q: list[str]) -> str:
    return net.op("DequantizeLinear", y, *q[1:])


def _weight(net: Net, name: str, *shape: int, per: int = 0) -> tuple[str, str, str]:
    """An int8 weight with one scale and zero point, or with `per` of them."""
    zero = np.full((per,) if per else (), net.d.pick(0, 3), np.int8)
    return _integers(net, f"{name}.weight", *shape), _scales(net, f"{name}.scale", per), net.init(f"{name}.zero", zero)


def _scales(net: Net, name: str, *shape: int) -> str:
    shape = shape if any(shape) else ()
    return net.init(name, (np.abs(net.rng.standard_normal(shape)) * 0.01 + 0.002).astype(F32))


@case("QLinearAdd", "QLinearMul", domain=MS, examples=3)
def two_integer_operands(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image", "tokens")
    a = _q(net, m.x)
    b = _q(net, m.again("b"), 100) if d.flag() else [_integers(net, "b.weight", *m.column(), dtype=np.uint8), *a[1:]]
    return m.end(_dq(net, net.op(op, *a, *b, *a[1:], domain=MS), a), exact=True)


@case("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearGlobalAveragePool", domain=MS, examples=2)
def one_integer_operand(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image")
    q = _q(net, m.x)
    more = {"QLinearSoftmax": {"axis": 3, "opset": 13}, "QLinearGlobalAveragePool": {"channels_last": 0}}
    return m.end(_dq(net, net.op(op, *q, *q[1:], domain=MS, **more.get(op, {})), q), exact=True)


@case("QLinearSoftmax", domain=MS, examples=2)
def integer_softmax_over_channels(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image")
    q = _q(net, m.x)
    y = _dq(net, net.op(op, *q, *q[1:], domain=MS, axis=d.pick(1, -3), opset=13), q)
    m.close(net.op("Relu", net.conv(y, "b", (4, m.c, 1, 1))), 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made])


@case("QLinearWhere", domain=MS, examples=2)
def integer_where(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image", "tokens")
    a, b = _q(net, m.x), _q(net, m.again("b"))
    return m.end(_dq(net, net.op(op, net.op("Less", m.x, net.real(0.1)), *a, *b, *a[1:], domain=MS), a), exact=True)


@case("QLinearConcat", domain=MS, examples=3)
def integer_concat(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image", "tokens")
    a, b = _q(net, m.x), _q(net, m.again("b"))
    m.close(_dq(net, net.op(op, *a[1:], *a, *b, domain=MS, axis=m.axis), a), 2 * m.c)
    return net.done(m.made, ("b.weight", m.made[1]), m.used, exact=True)


@case("QLinearConv", "QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool", domain=MS, examples=3)
def channels_last(d: Draw, op: str) -> Built:
    """Integer convolutions and pools between two Transposes, or not."""
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image", c=4)
    q, c = _q(net, m.x), 4
    last = op == "NhwcMaxPool" or d.flag()
    x = net.op("Transpose", q[0], perm=[0, 2, 3, 1]) if last else q[0]
    attrs = {} if op == "NhwcMaxPool" else {"channels_last": int(last)}
    if op == "QLinearConv":
        c, group = d.pick((5, 1), (4, 4), (6, 2))
        w = _weight(net, "b", c, 4 // group, 3, 3, per=c if d.flag() else 0)
        bias = [_integers(net, "b.bias", c, dtype=np.int32)] if d.flag() else []
        y = net.op(op, x, *q[1:], *w, *q[1:], *bias, domain=MS, pads=[1, 1, 1, 1], group=group, **attrs)
    elif op == "NhwcMaxPool":
        y = net.op(op, x, domain=MS, kernel_shape=[3, 3], strides=[2, 2])
    else:
        kernel = {} if "Global" in op else {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 0, 1]}
        y = net.op(op, x, *q[1:], *q[1:], domain=MS, **kernel, **attrs)
    y = net.op("Transpose", y, perm=[0, 3, 1, 2]) if last else y
    m.close(_dq(net, y, q), c)
    return net.done(m.made, m.used, exact=True)


@case("NhwcConv", "NhwcFusedConv", domain=MS, examples=3, reference=True)
def convolution_of_channels_last(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "image", c=4)
    x = net.op("Transpose", m.x, perm=[0, 2, 3, 1])
    c, group = d.pick((5, 1), (4, 4), (6, 2))
    ins = [net.weight("b.weight", c, 4 // group, 3, 3), net.weight("b.bias", c)]
    if op == "NhwcFusedConv" and d.flag():
        ins.append(net.linear(x, "s", 4, c))
    y = net.op(op, x, *ins, domain=MS, pads=[1, 1, 1, 1], group=group, kernel_shape=[3, 3])
    net.out(net.linear(net.op("Relu", y), "z", c, 3))
    return net.done(m.made, ("b.weight", 0), ("b.bias", 0), ("z.weight", 0), exact=True)


@case("QGemm", domain=MS, examples=4)
def integer_gemm(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "flat")
    q, n, transposed = _q(net, m.x), d.int(3, 5), d.int(0, 1)
    w = _weight(net, "b", *((n, m.c) if transposed else (m.c, n)), per=n if d.flag() else 0)
    bias = _integers(net, "b.bias", n, dtype=np.int32) if d.flag() else ""
    y = net.op(op, *q, *w, bias, *(q[1:] if d.flag() else []), domain=MS, transB=transposed)
    m.close(_dq(net, y, q) if len(net.nodes[-1].input) > 7 else y, n)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2, exact=True)


@case("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MS, examples=3)
def integer_product_to_float(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "tokens", "flat")
    n = d.int(3, 5)
    w, scale, zero = _weight(net, "b", m.c, n, per=n if d.flag() else 0)
    bias = net.weight("b.bias", n) if d.flag() else ""
    if op == "DynamicQuantizeMatMul":
        m.close(net.op("Relu", net.op(op, m.x, w, scale, d.pick("", zero), bias, domain=MS)), n)
    else:
        q = _q(net, m.x)
        m.close(net.op("Relu", net.op(op, q[0], w, q[1], scale, q[2], zero, bias, domain=MS)), n)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2)


@case("DequantizeLinear", "QuantizeLinear", domain=MS, examples=2)
def wide_integers(d: Draw, op: str) -> Built:
    """16-bit tensors, which the standard operators have only since opset 21."""
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image", "tokens")
    s, zero = net.real(0.0002), net.init("zero", np.array(30000, np.uint16))
    return m.end(net.op("DequantizeLinear", net.op("QuantizeLinear", m.x, s, zero, domain=MS), s, zero, domain=MS))


def _packed(net: Net, name: str, *shape: int) -> str:
    return net.init(name, net.rng.integers(0, 256, shape).astype(np.uint8))


@case("MatMulNBits", domain=MS, examples=6)
def matmul_in_blocks(d: Draw, op: str) -> Built:
    """Blocks of 16 inputs go as a whole; two zero points share a byte; a count that blocks do not divide is frozen."""
    net = Net(d, 17, ms=True)
    bits, blocks, n, whole = d.pick(4, 8), d.int(1, 4), d.int(3, 5), d.pick(True, True, False)
    k = 16 * blocks if whole else 16 * blocks - 4
    m: Mid = any_mid(net, "tokens", c=k)
    w, s = _packed(net, "b.weight", n, blocks, 2 * bits), _scales(net, "b.scale", n, blocks)
    form = d.pick("none", "packed", *(["float"] if bits == 4 else []))
    zero = {
        "none": lambda: "",
        "packed": lambda: _packed(net, "b.zero", n, (blocks * bits + 7) // 8),
        "float": lambda: net.weight("b.zero", n, blocks, scale=2.0, offset=8.0),
    }[form]()
    bias = net.weight("b.bias", n) if d.flag() else ""
    m.close(net.op("Relu", net.op(op, m.x, w, s, zero, "", bias, domain=MS, K=k, N=n, bits=bits, block_size=16)), n)
    pairs = form == "packed" and bits == 4
    inputs = [m.made, ("b.weight", 1)] if whole and blocks > 1 and (not pairs or blocks == 4) else []
    return net.done(*inputs, ("b.weight", 0), m.used, groups=2 if inputs else 1, exact=True)


@case("MatMulBnb4", domain=MS, examples=2)
def matmul_of_codes(d: Draw, op: str) -> Built:
    """Inputs and outputs stay: blocks of codes go across rows."""
    net = Net(d, 17, ms=True)
    hidden = net.op("Relu", net.linear(net.input("input", "N", "T", 6), "a", 6, 4))
    codes, largest = _packed(net, "codes", 16 * 5 // 2), _scales(net, "largest", 16 * 5 // 16)
    y = net.op(
        op, net.linear(hidden, "b", 4, 16), codes, largest, domain=MS, K=16, N=5, block_size=16, quant_type=1, transB=1
    )
    net.out(net.linear(net.op("Relu", y), "z", 5, 3))
    return net.done(("a.weight", 1), ("b.weight", 0))


@case("GatherBlockQuantized", domain=MS, examples=4)
def embedding_in_blocks(d: Draw, op: str) -> Built:
    net = Net(d, 21, ms=True)
    blocks, packed = d.pick(2, 4), d.flag()
    if packed:
        bits = d.pick(4, 8)
        table, zeros = _packed(net, "table", 9, 2 * blocks * bits), _packed(net, "zero", 9, blocks * bits // 8)
        more = {"bits": bits}
    else:
        more = {}
        table, zeros = (
            net.init(name, net.rng.integers(-8, 8, (9, width)).astype(ml_dtypes.int4))
            for name, width in (("table", 16 * blocks), ("zero", blocks))
        )
    ids = net.input("input", "N", "T", ids=9)
    zero = [zeros] if d.flag() else []
    y = net.op(op, table, ids, _scales(net, "scale", 9, blocks), *zero, domain=MS, block_size=16, gather_axis=0,
               quantize_axis=1, **more)  # fmt: skip
    net.out(net.linear(y, "z", 16 * blocks, 3))
    pairs = packed and more["bits"] == 4 and zero
    inputs = [] if pairs and blocks == 2 else [("table", 1), ("scale", 1), ("z.weight", 0)]
    return net.done(*inputs, groups=len(inputs) // 3)


@case("Quant", domain="onnx.brevitas", examples=1, reference=True)
def fake_quantized_by_brevitas(d: Draw, op: str) -> Built:
    return _fake_quantized(d, op, "onnx.brevitas")


@case("Quant", domain="qonnx.custom_op.general", examples=3, reference=True)
def fake_quantized(d: Draw, op: str) -> Built:
    return _fake_quantized(d, op, "qonnx.custom_op.general")


def _fake_quantized(d: Draw, op: str, domain: str) -> Built:
    """QONNX: weights and activations on a grid, for each channel or for the tensor."""
    net = Net(d, 13)
    c = d.int(3, 5)
    zero, bits = net.real(0.0), net.real(4.0)

    def grid(x: str, *shape: int) -> str:
        scale = net.init(net.name("scale"), np.asarray(np.abs(net.rng.standard_normal(shape)) * 0.1 + 0.05, F32))
        return net.op(op, x, scale, zero, bits, domain=domain, signed=1, narrow=d.pick(0, 1))

    a, z = net.init("a.weight", net.matrix(6, c)), net.init("z.weight", net.matrix(c, 3))
    y = net.op("Relu", net.op("MatMul", net.input("input", "N", 6), grid(a, *d.pick((1, c), ()))))
    y = grid(y, *d.pick((c,), ()))
    net.out(net.op("MatMul", y, grid(z)))
    return net.done(("a.weight", 1), ("z.weight", 0))
