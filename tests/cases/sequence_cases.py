"""Cases: sequences of tensors at constant positions."""

from __future__ import annotations

import numpy as np

from cases.base import Built, Draw, Net, any_mid, case


def position(net: Net, at: int) -> str:
    return net.const(at, np.int32 if net.d.flag() else np.int64)


@case("SplitToSequence", "SequenceAt", examples=8)
def pieces(d: Draw, op: str) -> Built:
    """A split of channels, in sizes that are listed or all alike but the last; two pieces change places."""
    net = Net(d, d.pick(11, 13, 17))
    m = any_mid(net, c=5)
    if d.flag():
        seq, sizes = net.op("SplitToSequence", m.x, net.const([2, 3]), axis=m.axis), [2, 3]
    else:
        seq, sizes = net.op("SplitToSequence", m.x, net.const(3), axis=m.axis - m.rank), [3, 2]
    first, second = (net.op("SequenceAt", seq, position(net, at)) for at in (0, -1))
    y = net.op("Concat", net.op("Relu", second), net.op("Tanh", first), axis=m.axis)
    assert sum(sizes) == m.c
    return m.end(y, exact=True)


@case("ConcatFromSequence", examples=6)
def joined(d: Draw, op: str) -> Built:
    """Two layers end to end, or along a new axis that a mean takes away."""
    net = Net(d, d.pick(11, 13, 17))
    m = any_mid(net)
    seq = net.op("SequenceConstruct", m.x, m.again("b"))
    if d.flag():
        m.close(net.op(op, seq, axis=m.axis), 2 * m.c)
        return net.done(m.made, ("b.weight", m.made[1]), m.used, groups=2, exact=True)
    stacked = net.op(op, seq, axis=m.rank, new_axis=1)
    m.close(net.mean(stacked, [m.rank], keepdims=0))
    return net.done(m.made, ("b.weight", m.made[1]), m.used)


@case("SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceLength", examples=4)
def list_of_layers(d: Draw, op: str) -> Built:
    """A list that grows and shrinks; its elements are summed, times its length."""
    net = Net(d, d.pick(11, 17))
    m = any_mid(net)
    others = [m.again(name) for name in "bcd"]
    seq = net.op("SequenceEmpty") if op == "SequenceEmpty" else net.op("SequenceConstruct", m.x)
    seq = net.op("SequenceInsert", seq, others[0])
    seq = net.op("SequenceInsert", seq, others[1], position(net, -1 if d.flag() else 0))
    seq = net.op("SequenceInsert", seq, others[2])
    seq = net.op("SequenceErase", seq, *([position(net, 0)] if d.flag() else []))
    elements = [net.op("SequenceAt", seq, position(net, at)) for at in (0, 1)]
    y = net.op("Add", *elements)
    y = net.op("Mul", net.op("Add", y, m.x), net.to_float(net.op("SequenceLength", seq)))
    return m.end(net.op("Relu", y))


@case("SplitToSequence", examples=4)
def unbound(d: Draw, op: str) -> Built:
    """Queries, keys and values of one product, taken apart along an axis of three."""
    net = Net(d, d.pick(11, 17))
    c = d.int(2, 4)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 3 * c)
    seq = net.op(op, net.reshape(x, 0, 0, 3, c), axis=2, keepdims=0)
    q, k, v = (net.op("SequenceAt", seq, position(net, at)) for at in range(3))
    p = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1 if net.opset > 11 else 2)
    net.out(net.linear(net.op("MatMul", p, v), "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0))


@case("SequenceAt", examples=3)
def position_of_the_data(d: Draw, op: str) -> Built:
    """An element that the data choose: what the sequence holds is frozen."""
    net = Net(d, 17)
    x = net.input("input", "N", 6)
    m = net.linear(x, "a", 6, 4)
    seq = net.op("SequenceConstruct", m, net.linear(x, "b", 6, 4))
    at = net.op("Cast", net.op("Greater", net.mean(x, [0, 1], keepdims=0), net.real(0.0)), to=7)
    y = net.declare(net.op(op, seq, at), "N", 4)
    net.out(net.linear(net.op("Relu", net.linear(y, "c", 4, 5)), "z", 5, 3))
    return net.done(("c.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1), ("b.weight", 1)])
