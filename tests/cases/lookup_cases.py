"""Cases: Reading and writing by index."""

from __future__ import annotations

import numpy as np

from cases.base import F32, MS, Built, Draw, Net, _merge_heads, _split_heads, case


@case("GatherElements", "ScatterElements", "Scatter", examples=4)
def by_element(d: Draw, op: str) -> Built:
    """Tokens are read or written by position, channel by channel."""
    net = Net(d, 9 if op == "Scatter" else 13)
    c, axis = d.int(3, 5), d.pick(1, -2) if op != "Scatter" else 1
    x = net.linear(net.input("input", 2, 4, 6), "a", 6, c)
    at = net.const(net.rng.permuted(np.tile(np.arange(4)[None, :, None], (2, 1, c)), axis=1)[:, :3])
    y = (
        net.op(op, x, at, axis=axis)
        if op == "GatherElements"
        else net.op(op, x, at, net.weight("u", 2, 3, c), axis=axis)
    )
    net.out(net.linear(y, "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=True)


@case("GatherND", "ScatterND", examples=3)
def by_tuple(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    c = d.int(3, 5)
    x = net.linear(net.input("input", 2, 4, 6), "a", 6, c)
    at = net.const([[0, 1], [1, 3], [1, 0]])
    y = net.op(op, x, at) if op == "GatherND" else net.op(op, x, at, net.weight("u", 3, c))
    net.out(net.linear(y, "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), *([("u", 1)] if op == "ScatterND" else []), exact=True)


@case("Trilu", examples=3)
def trilu(d: Draw, op: str) -> Built:
    """A causal mask on the scores of attention: heads and their features are free."""
    net = Net(d, 14)
    h, e = 2, d.int(2, 3)
    x = net.input("input", "N", 5, 6)
    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    s = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    s = net.op(op, s, *([net.const(0)] if d.flag() else []), upper=0)
    net.out(net.linear(_merge_heads(net, net.op("MatMul", s, v), h * e), "z", h * e, 3))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("OneHot", examples=3)
def one_hot(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    y = net.op(op, net.input("ids", "N", "T", ids=6), net.const(6), net.const([0.0, 1.0], F32), axis=d.pick(-1, 2))
    y = net.op("Relu", net.linear(y, "a", 6, 5))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), frozen=[("a.weight", 0)], exact=True)


@case("ReverseSequence", examples=3)
def reverse_sequence(d: Draw, op: str) -> Built:
    net = Net(d, 10)
    c = d.int(3, 5)
    x = net.linear(net.input("input", 4, 3, 6), "a", 6, c)
    net.out(net.linear(net.op(op, x, net.const([4, 2, 3]), batch_axis=1, time_axis=0), "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), exact=True)


@case("Col2Im", examples=3)
def col2im(d: Draw, op: str) -> Built:
    """A transposed convolution as a product and Col2Im, on blocks that come from a weight or an input."""
    net = Net(d, 18)
    c = d.int(2, 4)
    x = net.input("input", "N", 6, 9)
    y = net.op("MatMul", net.weight("a.weight", c * 4, 6), x)
    if d.flag():  # the blocks' axis comes from a weight
        y = net.op("MatMul", y, net.weight("blocks", 9, 9))
    y = net.op(op, y, net.const([4, 4]), net.const([2, 2]))
    net.out(net.conv(y, "z", (3, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("TensorScatter", examples=2, reference=True)
def tensor_scatter(d: Draw, op: str) -> Built:
    """New tokens written into a cache that is a weight; its heads and features follow."""
    net = Net(d, 24)
    h, e, axis = 2, d.int(2, 4), d.pick(-2, 2)
    x = net.linear(net.input("input", 3, 4, 6), "a", 6, h * e)
    y = net.op(op, net.weight("cache", 3, h, 7, e), _split_heads(net, x, h, e), net.const([1, 3, 0]), axis=axis)
    net.out(net.linear(_merge_heads(net, y, h * e), "z", h * e, 3))
    return net.done(("a.weight", 1), ("cache", 1), ("cache", 3), ("z.weight", 0), groups=2, exact=True)


@case("Det", examples=2)
def det(d: Draw, op: str) -> Built:
    net = Net(d, 22)
    c = d.int(3, 5)
    y = net.conv(net.input("input", "N", 3, 4, 4), "a", (c, 3, 3, 3))
    net.out(net.gemm(net.op(op, y), "z", 3, c))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("Inverse", "Trilu", domain=MS, examples=2)
def ms_matrices(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    c = d.int(3, 5)
    y = net.conv(net.input("input", "N", 3, 4, 4), "a", (c, 3, 3, 3))
    eye = net.init("eye", 5 * np.eye(4, dtype=F32))
    net.out(net.conv(net.op(op, net.op("Add", y, eye), domain=MS), "z", (3, c, 1, 1)))
    return net.done(("a.weight", 0), ("z.weight", 1), exact=True)


@case("DFT", examples=3)
def dft(d: Draw, op: str) -> Built:
    """Spectra of each channel's rows; along the channels themselves they are frozen."""
    net = Net(d, d.pick(17, 20))
    c = 4
    y = net.conv(net.input("input", "N", 3, 6, 8), "a", (c, 3, 3, 3))
    axis, one = d.pick(2, 3, 1), d.int(0, 1)
    y = net.unsqueeze(y, 4)
    y = net.op(op, y, axis=axis, onesided=one) if net.opset < 20 else net.op(op, y, "", net.const(axis), onesided=one)
    width = {1: c // 2 + 1 if one else c}.get(axis, c)
    net.out(net.conv(net.op("Relu", net.conv(net.mean(y, [4], 0), "b", (5, width, 1, 1))), "z", (3, 5, 1, 1)))
    if axis == 1:
        return net.done(("b.weight", 0), ("z.weight", 1), frozen=[("a.weight", 0)], exact=True)
    return net.done(("a.weight", 0), ("b.weight", 1), ("z.weight", 1), groups=2, exact=True)
