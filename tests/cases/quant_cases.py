"""Cases: Quantisation."""

from __future__ import annotations

import numpy as np

from cases.base import F32, Built, Draw, Net, _integers, any_mid, case


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
