"""Cases: Gather, Concat, Split, Slice, Pad, Tile, Expand."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from cases.base import Built, Draw, Net, _attend, _merge_heads, _produce, _split_heads, any_mid, case


@case("Gather", examples=4)
def embedding(d: Draw, op: str) -> Built:
    net = Net(d)
    c = d.int(3, 6)
    ids = net.input("ids", "N", "T", ids=9)
    x = net.op(op, net.weight("a.weight", 9, c, scale=1.0), ids, axis=d.pick(0, -2, None))
    net.out(net.linear(net.op("Relu", x), "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), frozen=[("a.weight", 0)], exact=True)


@case("Gather", examples=14)
def gather(d: Draw, op: str) -> Built:
    """Constant indices on the channel axis: lists, permutations, negative and repeated ones."""
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, c=d.int(5, 6))
    form = d.pick("head", "permutation", "negative", "repeated", "stride", "reverse")
    n = m.c
    indices = {
        "head": [0, 1, 2], "permutation": [2, 0, 4, 1, 3, *range(5, n)], "negative": [-1, -2, 0, 1], "repeated": [0, 1, 0, 1, 2],
        "stride": list(range(0, n, 2)), "reverse": list(range(n))[::-1],
    }[form]  # fmt: skip
    y = net.op(op, m.x, net.const(indices, d.pick(np.int64, np.int32)), axis=d.pick(m.axis, m.axis - m.rank))
    m.close(net.op("Relu", y), len(indices))
    return net.done(m.made, m.used, groups=1, exact=True) if form == "head" else net.done(groups=0)


@case("Gather", examples=3)
def gather_one_token(d: Draw, op: str) -> Built:
    """The class token: x[:, 0] of [N, T, C]."""
    net = Net(d)
    m = any_mid(net, "tokens")
    y = net.op(op, m.x, net.const(d.pick(0, -1)), axis=1)
    net.out(net.op("Gemm", y, net.init("z.weight", net.matrix(m.c, 3))))
    return net.done(m.made, ("z.weight", 0), exact=True)


@case("Concat", examples=8)
def concat(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net)
    form = d.pick("two", "twice", "token", "constant")
    axis = d.pick(m.axis, m.axis - m.rank) if net.opset >= 11 else m.axis
    if form == "two":
        m.close(net.op(op, m.x, _produce(net, m.kind, "b", 4, "input"), axis=axis), m.c + 4)
        return net.done(m.made, ("b.weight", m.made[1]), m.used, groups=2, exact=True)
    if form == "twice":
        return m.end(net.op(op, m.x, net.op("Relu", m.x), axis=axis), 2 * m.c, exact=True)
    if form == "token" and m.kind == "tokens":  # a class token in front
        token = net.weight("token", 1, 1, m.c)
        cls = net.op("Expand", token, net.op("Concat", net.size(m.x, 0), net.const([1, m.c]), axis=0))
        m.close(net.op(op, cls, m.x, axis=1))
        return net.done(m.made, ("token", 2), m.used, exact=True)
    ones = net.op(
        "Sigmoid", net.op("Slice", m.x, net.const([0]), net.const([2]), net.const([m.axis])) if net.opset >= 10 else m.x
    )
    return m.end(net.op(op, m.x, ones, axis=axis), m.c + (2 if net.opset >= 10 else m.c))


@case("Expand", examples=4)
def class_token(d: Draw, op: str) -> Built:
    """A class token in front of the others, for a batch that is read when the model runs; Where came with opset 9."""
    net = Net(d, d.pick(8, 9, 13))
    m = any_mid(net, "tokens")
    width = d.pick(lambda: net.const([m.c]), lambda: net.size(m.x, 2))()
    target = net.op("Concat", net.size(m.x, 0), net.const([1]), width, axis=0)
    cls = net.op(op, net.weight("token", 1, 1, m.c), target)
    m.close(net.op("Concat", cls, m.x, axis=1))
    return net.done(m.made, ("token", 2), m.used, exact=True)


@case("Concat", examples=4)
def dense_block(d: Draw, op: str) -> Built:
    net = Net(d)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (4, 3, 3, 3))
    features = [x]
    for i in range(2):
        joined = net.op(op, *features, axis=1) if len(features) > 1 else x
        n = 4 + 3 * i
        joined = net.op(
            "BatchNormalization", joined, *(net.weight(f"bn{i}.{k}", n, offset=1.0, scale=0.1) for k in "sbmv")
        )
        features.append(net.conv(net.op("Relu", joined), f"b{i}", (3, n, 3, 3), bias=d.flag()))
    net.out(net.conv(net.op(op, *features, axis=1), "z", (2, 10, 1, 1)))
    return net.done(
        ("a.weight", 0), ("b0.weight", 0), ("b1.weight", 0), ("bn1.s", 0), ("z.weight", 1), groups=3, exact=True
    )


@case("Split", examples=10)
def split(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 13, 18))
    m = any_mid(net, c=d.pick(6, 8))
    form = d.pick("equal", "sizes", "gate")
    axis = d.pick(m.axis, m.axis - m.rank) if net.opset >= 11 else m.axis
    half = m.c // 2
    sizes = [2, m.c - 2] if form == "sizes" else [half, half]

    def cut(x: str) -> list[str]:
        if form != "sizes" and d.flag():
            return net.ops(op, x, outs=2, axis=axis, num_outputs=2 if net.opset >= 18 else None)
        if net.opset >= 13:
            return net.ops(op, x, net.const(sizes), outs=2, axis=axis)
        return net.ops(op, x, outs=2, axis=axis, split=sizes)

    a, b = cut(m.x)
    if form == "gate":  # a gated linear unit: the halves are tied
        m.close(net.op("Mul", a, net.op("Sigmoid", b)), half)
        return net.done(m.made, m.used, exact=True)
    y = net.op("Concat", net.op("Relu", b), a, axis=axis)
    m.close(y)
    return net.done(m.made, m.used, exact=True)


@case("Slice", examples=12)
def slice_(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 10, 13))
    m = any_mid(net, c=d.pick(6, 8))
    n = m.c
    start, end, step = d.pick(
        (0, 3, 1), (2, n, 1), (1, 2**31 - 1, 1), (-3, n, 1), (-4, -1, 1), (0, 2**63 - 1, 2), (1, n, 2), (0, n, 1)
    )
    rest = d.flag()
    axis = d.pick(m.axis, m.axis - m.rank)

    def cut(a: int, b: int, s: int) -> str:
        if net.opset < 10:
            return net.op(op, m.x, starts=[a], ends=[b], axes=[m.axis])
        more = [net.const([axis])] + ([net.const([s])] if s != 1 or d.flag() else [])
        return net.op(op, m.x, net.const([a]), net.const([b]), *more)

    step = 1 if net.opset < 10 else step
    y = cut(start, end, step)
    size = len(range(n)[slice(start, end, step)])
    if rest:
        y = net.op("Concat", y, net.op("Relu", m.x), axis=m.axis)
        size += n
    return m.end(y, size)


@case("Slice", examples=4)
def slice_two_axes(d: Draw, op: str) -> Built:
    """Channels and space cut by one node; the picture's bounds are negative."""
    net = Net(d, d.pick(9, 13))
    m = any_mid(net, "image", c=6)
    starts, ends, axes = [1, 2, 1], [-1, 5, -1], [2, 1, 3]
    if net.opset < 10:
        y = net.op(op, m.x, starts=starts, ends=ends, axes=axes)
    else:
        y = net.op(op, m.x, net.const(starts), net.const(ends), net.const(axes))
    return m.end(y, 3, exact=True)


@case("Pad", examples=8)
def pad(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 13, 18))
    m = any_mid(net, "image", "tokens")
    lo, hi = d.pick((0, 0), (1, 2), (2, 0))
    form = d.pick("constant", "reflect")
    pads = [0] * (2 * m.rank)
    if form == "reflect" or not (lo or hi):
        lo = hi = 0
        where = [2, 3] if m.kind == "image" else [1]
        for a in where:
            pads[a] = pads[m.rank + a] = 1
    else:
        pads[m.axis], pads[m.rank + m.axis] = lo, hi
    if net.opset < 11:
        y = net.op(op, m.x, pads=pads, mode=form)
    elif net.opset >= 18 and (lo or hi):
        y = net.op(op, m.x, net.const([lo, hi]), "", net.const([d.pick(m.axis, m.axis - m.rank)]), mode=form)
    else:
        y = net.op(op, m.x, net.const(pads), *([net.real(0.0)] if d.flag() else []), mode=form)
    m.close(y, m.c + lo + hi)
    return net.done(m.made, m.used, exact=True)


@case("Pad", examples=5)
def parameter_free_shortcut(d: Draw, op: str) -> Built:
    """ResNet option A: the shortcut is padded with zero channels and added."""
    net = Net(d, 13)
    m = any_mid(net, "image", c=4)
    y = net.conv(net.op("Relu", m.x), "b", (8, 4, 3, 3), strides=[2, 2])
    s = net.op("Slice", m.x, net.const([0, 0]), net.const([2**31, 2**31]), net.const([2, 3]), net.const([2, 2]))
    lo = d.pick(2, 0, 4)
    s = net.op(op, s, net.const([0, lo, 0, 0, 0, 4 - lo, 0, 0]))
    m.close(net.op("Add", y, s), 8)
    return net.done(m.made, ("b.weight", 0), m.used, exact=True)


@case("Tile", examples=6)
def tile(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image", "tokens", c=d.int(2, 3))
    form = d.pick("channels", "others", "grow")
    repeats = [1] * m.rank
    if form == "channels":
        repeats[m.axis] = 2
        return m.end(net.op(op, m.x, net.const(repeats)), 2 * m.c, exact=True)
    if form == "others":
        repeats[1 if m.kind == "tokens" else 2] = 2
        return m.end(net.op(op, m.x, net.const(repeats)), exact=True)
    mean = net.mean(m.again("b"), [m.axis])
    repeats[m.axis] = m.c
    return m.end(net.op("Add", m.x, net.op(op, mean, net.const(repeats))))


@case("Expand", examples=8)
def expand(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 13))
    m = any_mid(net, "image", "tokens")
    form = d.pick("gate", "constant", "shape", "last")
    if form == "gate":
        g = net.mean(m.again("b"), [a for a in range(1, m.rank) if a != m.axis])
        return m.end(net.op("Mul", m.x, net.op(op, g, net.op("Shape", m.x))), exact=True)
    if form == "constant":
        shape = [1] * m.rank
        shape[m.axis] = m.c
        return m.end(net.op("Add", m.x, net.op(op, net.weight("p", *([1] * m.rank)), net.const(shape))), exact=True)
    if form == "shape":
        return m.end(net.op("Add", m.x, net.op(op, net.weight("p", *m.column()), net.op("Shape", m.x))), exact=True)
    one = net.mean(m.again("b"), [m.axis])
    return m.end(net.op("Add", m.x, net.op(op, one, net.op("Shape", m.x))))


@case("ConstantOfShape", examples=6)
def constant_of_shape(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 13))
    m = any_mid(net, "image", "tokens")
    form = d.pick("add", "concat", "literal")
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    if form == "literal":
        y = net.op("Add", m.x, net.op(op, net.const(list(m.column())), value=value))
        return m.end(y, exact=True)
    filled = net.op(op, net.op("Shape", m.x), value=value)
    if form == "add":
        return m.end(net.op("Add", m.x, filled), exact=True)
    return m.end(net.op("Concat", m.x, filled, axis=m.axis), 2 * m.c)


@case("Expand", examples=8)
def grouped_query_attention(d: Draw, op: str) -> Built:
    net = Net(d)
    kv, r, e = 2, d.int(2, 3), d.int(2, 3)
    x = net.input("input", "N", "T", 6)
    q = _split_heads(net, net.linear(x, "q", 6, kv * r * e), kv * r, e)
    k, v = (_split_heads(net, net.linear(x, n, 6, kv * e), kv, e) for n in "kv")

    def repeat(t: str) -> str:
        n, s = net.size(t, 0), net.size(t, 2)
        y = net.unsqueeze(t, 2)
        y = net.op(op, y, net.op("Concat", n, net.const([kv, r]), s, net.const([e]), axis=0))
        return net.op("Reshape", y, net.op("Concat", n, net.const([kv * r]), s, net.const([e]), axis=0))

    y = _merge_heads(net, _attend(net, q, repeat(k), repeat(v), e), kv * r * e)
    net.out(net.linear(y, "z", kv * r * e, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("Concat", examples=4)
def rotary_embedding(d: Draw, op: str) -> Built:
    """rotate_half: concat(-x[e/2:], x[:e/2]) * sin + x * cos; sin and cos differ by feature, heads are free."""
    net = Net(d)
    h, e = d.int(2, 3), 4
    x = net.input("input", "N", 7, 6)
    cos, sin = net.weight("cos", 7, e), net.weight("sin", 7, e)

    def rotate(t: str) -> str:
        a, b = (net.op("Slice", t, net.const([i]), net.const([j]), net.const([3])) for i, j in ((0, 2), (2, 2**31)))
        turned = net.op(op, net.op("Neg", b), a, axis=-1)
        return net.op("Add", net.op("Mul", t, cos), net.op("Mul", turned, sin))

    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    net.out(net.linear(_merge_heads(net, _attend(net, rotate(q), rotate(k), v, e), h * e), "z", h * e, 5))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=2)


@case("Gather", examples=6)
def tied_embedding(d: Draw, op: str) -> Built:
    """The embedding table is also the output's projection: it makes the width and consumes it, and its parts differ."""
    net = Net(d)
    c = d.int(3, 6)
    table = net.weight("table", 9, c, scale=1.0)
    x = net.op(op, table, net.input("ids", "N", "T", ids=9), axis=0)
    y = net.op("Add", x, net.linear(net.op("Relu", net.linear(x, "a", c, 4)), "b", 4, c))
    norm = d.flag()
    if norm:
        y = net.op("LayerNormalization", y, net.weight("ln.scale", c), axis=-1)
    net.out(
        net.op("MatMul", y, net.op("Transpose", table, perm=[1, 0]))
        if d.flag()
        else net.op("Einsum", y, table, equation="nte,ve->ntv")
    )
    ends = [("table", 1), ("a.weight", 0), ("b.weight", 1)]
    return net.done(*ends, *([("ln.scale", 0)] if norm else []), exact=None if norm else True, groups=2)


@case("Slice", examples=3)
def patch_merging(d: Draw, op: str) -> Built:
    """Swin: every second row and column, four of them side by side."""
    net = Net(d)
    c = d.int(3, 4)
    x = net.op("Transpose", net.conv(net.input("input", "N", 3, 4, 6), "a", (c, 3, 3, 3)), perm=[0, 2, 3, 1])
    parts = [
        net.op(op, x, net.const([i, j]), net.const([2**31, 2**31]), net.const([1, 2]), net.const([2, 2]))
        for j in (0, 1) for i in (0, 1)
    ]  # fmt: skip
    y = net.reshape(net.op("Concat", *parts, axis=-1), d.pick(0, -1), 6, 4 * c)
    net.out(net.linear(y, "z", 4 * c, 3))
    return net.done(("a.weight", 0), ("z.weight", 0), exact=True)


@case("Concat", examples=5)
def concat_then_heads(d: Draw, op: str) -> Built:
    """Heads of a concatenation; the seam lies between heads or inside one."""
    net = Net(d)
    i, j, h = d.pick((4, 4, 4), (4, 4, 2), (3, 5, 2), (2, 6, 4), (3, 5, 4))
    x = net.input("input", "N", "T", 6)
    y = net.op(op, net.linear(x, "a", 6, i), net.linear(x, "b", 6, j), axis=-1)
    y = net.op("Mul", net.reshape(y, 0, 0, h, 8 // h), net.weight("p", h, 1))
    y = net.linear(net.reshape(y, 0, 0, 8), "y", 8, 4)
    net.out(net.linear(y, "z", 4, 3))
    return net.done(("y.weight", 1), ("z.weight", 0), exact=True)


@case("Gather", examples=4)
def gather_one_channel(d: Draw, op: str) -> Built:
    """One channel is read by its number and stays; the others are free."""
    net = Net(d, 13)
    m = any_mid(net, c=5)
    i = d.pick(0, 2, -1)
    one = net.unsqueeze(net.op(op, m.x, net.const(i), axis=m.axis), m.axis)
    return m.end(net.op("Mul", m.x, net.op("Sigmoid", one)))


@case("Slice", examples=4)
def slice_backwards(d: Draw, op: str) -> Built:
    """A step below zero: the order is turned around; pruned or not, the laws hold."""
    net = Net(d, 13)
    m = any_mid(net, c=5)
    y = net.op(op, m.x, net.const([-1]), net.const([-(2**31)]), net.const([m.axis]), net.const([d.pick(-1, -2)]))
    y = net.op("Add", net.mean(y, [m.axis]), net.real(1.0))
    m.close(net.op("Mul", m.again("b"), y))
    return net.done(("b.weight", m.made[1]), m.used)


@case("Pad", examples=4)
def pad_of_another_kind(d: Draw, op: str) -> Built:
    """Cropping or reflecting channels: they stay, the next layer's go."""
    net = Net(d, 13)
    m = any_mid(net, "image", "tokens", c=5)
    mode, lo, hi = d.pick(("constant", -1, 0), ("constant", -1, 1), ("reflect", 1, 1), ("edge", 2, 0))
    pads = [0] * (2 * m.rank)
    pads[m.axis], pads[m.rank + m.axis] = lo, hi
    y = net.op(op, m.x, net.const(pads), *([net.real(0.5)] if mode == "constant" else []), mode=mode)
    n = m.c + lo + hi
    m.close(net.conv(y, "b", (4, n, 1, 1)) if m.kind == "image" else net.linear(y, "b", n, 4), 4)
    return net.done(m.used)


@case("Split", examples=3)
def uneven_split(d: Draw, op: str) -> Built:
    net = Net(d, 18)
    m = any_mid(net, c=7)
    a, b = net.ops(op, m.x, outs=2, axis=m.axis, num_outputs=2)
    m.close(net.op("Concat", b, a, net.op("Neg", b), axis=m.axis), 10)
    return net.done(m.made, m.used, groups=2, exact=True)


@case("CenterCropPad", examples=4)
def center_crop_pad(d: Draw, op: str) -> Built:
    """Pictures are cropped or padded to one size; a channel axis named in the target follows, if it keeps its size."""
    net = Net(d, 18)
    m = any_mid(net, "image")
    form = d.pick("picture", "all", "channels")
    if form == "picture":
        return m.end(net.op(op, m.x, net.const([7, 9]), axes=d.pick([2, 3], [-2, -1])), exact=True)
    if form == "all":
        return m.end(net.op(op, m.x, net.const([m.c, 7, 9]), axes=[1, 2, 3]), exact=True)
    y = net.op(op, m.x, net.const([m.c + 1]), axes=[1])
    m.close(net.op("Relu", net.conv(y, "b", (4, m.c + 1, 1, 1))), 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made], exact=True)
