"""Cases: mixtures of experts as one operator."""

from __future__ import annotations

import numpy as np

from cases.base import F32, MS, Built, Draw, Net, case


@case("MoE", domain=MS, examples=4)
def mixture(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    e, i, h = d.int(2, 4), d.int(2, 4), d.int(3, 5)
    swiglu = d.flag()
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, h)
    router = net.reshape(net.linear(x, "router", h, e), -1, e)
    made = 2 * i if swiglu else i
    shapes = {"w1": (e, made, h), "b1": (e, made), "w2": (e, h, i), "b2": (e, h)}
    biases = d.flag()
    ins = [net.weight(n, *s, scale=0.5) if n[0] == "w" or biases else "" for n, s in shapes.items()]
    y = net.op(op, x, router, *ins, domain=MS, k=d.int(1, 2), activation_type="swiglu" if swiglu else "relu",
               swiglu_fusion=1 if swiglu else None)  # fmt: skip
    net.out(net.linear(y, "z", h, 3))
    experts = [("w1", 0), ("router.weight", 1)]
    return net.done(("a.weight", 1), *experts, ("w1", 1), ("w1", 2), ("w2", 1), ("w2", 2), ("z.weight", 0), groups=3)


@case("QMoE", domain=MS, examples=4)
def integer_mixture(d: Draw, op: str) -> Built:
    """Rows of 4-bit or 8-bit integers, with one scale or a scale for each block of 16."""
    net = Net(d, 17, ms=True)
    bits, block = d.pick(4, 8), d.pick(0, 16)
    e, i, h = d.int(2, 3), *((32, 48) if block else (4, 6))
    x = net.linear(net.input("input", "N", 4, 6), "a", 6, h)
    router = net.reshape(net.linear(x, "router", h, e), -1, e)

    def weight(name: str, rows: int, columns: int) -> list[str]:
        q = net.init(name, net.rng.integers(0, 256, (e, rows, columns * bits // 8)).astype(np.uint8))
        shape = (e, rows, columns // block) if block else (e, rows)
        return [q, net.init(f"{name}.scale", (np.abs(net.rng.standard_normal(shape)) * 0.01 + 0.002).astype(F32))]

    bias = net.weight("b1", e, i) if d.flag() else ""
    y = net.op(op, x, router, *weight("w1", i, h), bias, *weight("w2", h, i), domain=MS, k=2, activation_type="relu",
               expert_weight_bits=bits, block_size=block or None)  # fmt: skip
    net.out(net.linear(y, "z", h, 3))
    return net.done(("a.weight", 1), ("w1", 0), ("w1", 1), ("w2", 1), ("w2", 2), ("z.weight", 0), groups=3)
