"""Cases: Recurrent layers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from cases.base import F32, MS, Built, Draw, Net, case


@case("LSTM", "GRU", "RNN", examples=6)
def recurrent(d: Draw, op: str) -> Built:
    """Two layers on [T, N, C], one way or both, with initial states and peepholes or without."""
    net = Net(d, d.pick(8, 14, 22))
    h, gates = d.int(2, 4), {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    both = d.flag()
    n = 2 if both else 1
    x = net.op("Transpose", net.linear(net.input("input", "N", "T", 6), "a", 6, 5), perm=[1, 0, 2])

    def layer(name: str, x: str, i: int, initial: bool) -> str:
        w, r = net.weight(f"{name}.w", n, gates * h, i, scale=0.5), net.weight(f"{name}.r", n, gates * h, h, scale=0.5)
        ins = [x, w, r, net.weight(f"{name}.b", n, 2 * gates * h) if d.flag() else "", ""]
        if initial:
            shape = net.op("Concat", net.const([n]), net.size(x, 1), net.const([h]), axis=0)
            zeros = net.op("ConstantOfShape", shape, value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.3]))
            ins += [zeros] if op != "LSTM" else [zeros, zeros]
        if op == "LSTM" and d.flag():
            ins += [""] * (7 - len(ins)) + [net.weight(f"{name}.p", n, 3 * h, scale=0.3)]
        linear = d.int(0, 1) if op == "GRU" else None
        y = net.op(
            op,
            *ins,
            hidden_size=h,
            direction="bidirectional" if both else d.pick("forward", "reverse"),
            linear_before_reset=linear,
        )
        y = net.op("Transpose", y, perm=[0, 2, 1, 3])
        return net.reshape(y, 0, 0, d.pick(n * h, -1))

    y = layer("one", x, 5, d.flag() and net.opset >= 9)
    y = layer("two", y, n * h, d.flag() and net.opset >= 9)
    net.out(net.linear(y, "z", n * h, 3))
    return net.done(
        ("a.weight", 1), ("one.w", 1), ("one.r", 2), ("two.w", 1), ("two.w", 2), ("z.weight", 0), groups=3, exact=True
    )


@case("LSTM", examples=3)
def last_state(d: Draw, op: str) -> Built:
    """The last hidden state goes on; a pair of directions becomes one vector."""
    net = Net(d, 14)
    h = d.int(2, 4)
    x = net.input("input", "T", "N", 6)
    w, r = net.weight("a.w", 2, 4 * h, 6, scale=0.5), net.weight("a.r", 2, 4 * h, h, scale=0.5)
    _, y, _ = net.ops(op, x, w, r, outs=3, hidden_size=h, direction="bidirectional")
    y = net.reshape(net.op("Transpose", y, perm=[1, 0, 2]), d.pick(0, -1, "0"), 2 * h)
    net.out(net.gemm(y, "z", 3, 2 * h))
    return net.done(("a.w", 1), ("a.r", 1), ("a.r", 2), ("z.weight", 1), exact=True)


@case("DynamicQuantizeLSTM", domain=MS, examples=4)
def integer_lstm(d: Draw, op: str) -> Built:
    """What quantize_dynamic makes of an LSTM: transposed int8 weights, a scale for each direction or for each gate unit."""
    net = Net(d, 13, ms=True)
    h, n = d.int(2, 4), d.pick(1, 2)
    per = (n, 4 * h) if d.flag() else (n,)
    x = net.op("Transpose", net.linear(net.input("input", "N", "T", 6), "a", 6, 5), perm=[1, 0, 2])
    w, r = (
        net.init(name, net.rng.integers(-60, 60, (n, i, 4 * h)).astype(np.int8)) for name, i in (("w", 5), ("r", h))
    )
    scale, zero = net.init("scale", np.full(per, 0.01, F32)), net.init("zero", np.zeros(per, np.int8))
    b = net.weight("b", n, 8 * h) if d.flag() else ""
    y, *_ = net.ops(op, x, w, r, b, "", "", "", "", scale, zero, scale, zero, outs=3, domain=MS, hidden_size=h,
                    direction="bidirectional" if n == 2 else "forward")  # fmt: skip
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, n * h)
    net.out(net.linear(y, "z", n * h, 3))
    return net.done(("a.weight", 1), ("w", 1), ("w", 2), ("r", 1), ("r", 2), ("z.weight", 0), groups=2)
