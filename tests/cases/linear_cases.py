"""Cases: Convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from cases.base import F32, MS, Built, Draw, Net, _attend, _integers, _merge_heads, _split_heads, any_mid, case


def _conv_attrs(d: Draw, rank: int) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    form = d.pick("plain", "strides", "dilations", "same", "valid")
    if form == "strides":
        attrs["strides"] = [2] * rank
    elif form == "dilations":
        attrs.update(dilations=[2] * rank, pads=[2] * (2 * rank))
    elif form == "same":
        attrs["auto_pad"] = "SAME_UPPER"
    elif form == "valid":
        attrs["auto_pad"] = "VALID"
    return attrs


SPATIAL: dict[int, tuple[str, ...]] = {1: ("T",), 2: ("H", "W"), 3: ("D", "H", "W")}


@case("Conv", examples=20)
def conv(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 22))
    rank = d.int(1, 3)
    kernel = [3] * rank
    form = d.pick("plain", "grouped", "depthwise", "multiplier")
    c, o, g = {
        "plain": (d.int(3, 5), d.int(3, 6), 1),
        "grouped": (6, 3 * d.int(2, 3), 3),
        "depthwise": (4, 4, 4),
        "multiplier": (4, 12, 4),
    }[form]
    x = net.conv(net.input("input", "N", 2, *SPATIAL[rank]), "a", (c, 2, *([1] * rank)), bias=d.flag())
    y = net.conv(
        x, "b", (o, c // g, *kernel), bias=d.flag(), group=g if g > 1 or d.flag() else None, **_conv_attrs(d, rank)
    )
    net.out(net.conv(net.op("Relu", y), "z", (2, o, *([1] * rank))))
    return net.done(
        ("a.weight", 0), ("b.weight", 0), ("z.weight", 1), exact=True, groups=2 if form != "depthwise" else 1
    )


@case("Conv", examples=4)
def conv_chain_of_groups(d: Draw, op: str) -> Built:
    """Grouped convolutions of nested and of clashing group counts."""
    net = Net(d)
    g1, g2 = d.pick((2, 4), (4, 2), (2, 2), (3, 6))
    c = 12
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (c, 3, 1, 1))
    x = net.conv(x, "b", (c, c // g1, 3, 3), group=g1)
    x = net.conv(x, "c", (c, c // g2, 3, 3), group=g2)
    net.out(net.conv(x, "z", (2, c, 1, 1)))
    return net.done(("a.weight", 0), ("c.weight", 0), ("z.weight", 1), exact=True)


@case("Conv", examples=4)
def conv_clashing_groups(d: Draw, op: str) -> Built:
    """Group counts that do not nest: whatever is found, the laws hold."""
    net = Net(d)
    x = net.conv(net.input("input", "N", 3, "H", "W"), "a", (12, 3, 1, 1))
    x = net.conv(x, "b", (12, 12 // 4, 3, 3), group=4)
    x = net.conv(x, "c", (12, 12 // 6, 3, 3), group=6)
    x = net.conv(x, "y", (5, 12, 1, 1))
    net.out(net.conv(x, "z", (2, 5, 1, 1)))
    return net.done(("y.weight", 0), ("z.weight", 1), exact=True)


@case("FusedConv", domain=MS, examples=5)
def fused_conv(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "image")
    o = d.int(3, 6)
    ins = [m.x, net.weight("b.weight", o, m.c, 3, 3), net.weight("b.bias", o)]
    if d.flag():
        ins.append(net.conv(m.x, "s", (o, m.c, 1, 1)))
    y = net.op(op, *ins, domain=MS, activation="Relu", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    m.close(y, o)
    return net.done(m.made, ("b.weight", 0), m.used, groups=2)


@case("ConvTranspose", examples=15)
def conv_transpose(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 11, 22))
    rank = d.int(1, 3)
    form = d.pick("plain", "grouped", "depthwise")
    c, o, g = {"plain": (d.int(3, 5), d.int(3, 6), 1), "grouped": (6, d.int(1, 3), 3), "depthwise": (4, 1, 4)}[form]
    x = net.conv(net.input("input", "N", 2, *SPATIAL[rank]), "a", (c, 2, *([1] * rank)))
    bias = [net.weight("b.bias", o * g)] if d.flag() else []
    attrs: dict[str, Any] = {"strides": [2] * rank}
    extra = d.pick("none", "output_padding", "same", "dilations")
    if extra == "output_padding":
        attrs.update(output_padding=[1] * rank)
    elif extra == "same":
        attrs.update(auto_pad="SAME_UPPER")
    elif extra == "dilations":
        attrs.update(dilations=[2] * rank)
    y = net.op(op, x, net.weight("b.weight", c, o, *([3] * rank)), *bias, group=g if g > 1 else None, **attrs)
    net.out(net.conv(y, "z", (2, o * g, *([1] * rank))))
    prunable = [("a.weight", 0), ("b.weight", 0), ("z.weight", 1)] + ([("b.weight", 1)] if o > 1 else [])
    return net.done(*prunable, exact=True)


@case("Gemm", examples=15)
def gemm(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(7, 11, 13))
    i, h, o = 6, d.int(3, 6), d.int(3, 5)
    x = net.input("input", "N", i)
    tb, form = d.flag(), d.pick("none", "vector", "row", "scalar", "one")
    shapes: dict[str, list[tuple[int, ...]]] = {
        "none": [], "vector": [(h,)], "row": [(1, h)], "scalar": [()], "one": [(1,)],
    }  # fmt: skip
    c = shapes[form if form != "none" or net.opset >= 11 else "vector"]
    attrs = {"alpha": d.pick(1.0, 0.5), "beta": d.pick(1.0, 2.0)}
    if d.flag():  # x transposed twice
        x = net.op("Transpose", x, perm=[1, 0])
        attrs["transA"] = 1
    w = net.weight("a.weight", *((h, i) if tb else (i, h)))
    y = net.op(op, x, w, *(net.weight("a.bias", *s) for s in c), transB=int(tb), **attrs)
    y = net.op("Relu", y)
    net.out(net.op(op, y, net.weight("z.weight", o, h), net.weight("z.bias", o), transB=1))
    return net.done(("a.weight", 0 if tb else 1), ("z.weight", 1), exact=True)


@case("Gemm", examples=4)
def gemm_left_weight(d: Draw, op: str) -> Built:
    """The weight on the left: y^T = W x^T."""
    net = Net(d)
    xt = net.op("Transpose", net.input("input", "N", 6), perm=[1, 0])
    ta = d.flag()
    y = net.op(op, net.weight("a.weight", *((6, 5) if ta else (5, 6))), xt, net.weight("a.bias", 5, 1), transA=int(ta))
    net.out(net.op(op, net.weight("z.weight", 3, 5), net.op("Relu", y)))
    return net.done(("a.weight", 1 if ta else 0), ("a.bias", 0), ("z.weight", 1), exact=True)


@case("MatMul", examples=12)
def matmul(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(9, 13))
    c = d.int(3, 6)
    form = d.pick("right", "left", "vector", "batched", "stack")
    if form == "right":
        y = net.linear(net.input("input", "N", "T", 6), "a", 6, c, d.flag())
        net.out(net.op(op, y, net.init("z.weight", net.matrix(c, 3))))
        return net.done(("a.weight", 1), ("z.weight", 0), exact=True)
    if form == "left":
        y = net.op(op, net.weight("a.weight", c, 6), net.input("input", "N", 6, "T"))
        y = net.op("Add", y, net.weight("a.bias", c, 1))
        net.out(net.op(op, net.weight("z.weight", 3, c), net.op("Relu", y)))
        return net.done(("a.weight", 0), ("z.weight", 1), exact=True)
    if form == "vector":
        y = net.op("Relu", net.linear(net.input("input", "N", "T", 6), "a", 6, c))
        net.out(net.op(op, y, net.weight("z.weight", c)))
        return net.done(("a.weight", 1), ("z.weight", 0), exact=True)
    if form == "batched":  # a matrix for each of four heads
        x = net.op(
            "Transpose",
            net.reshape(net.linear(net.input("input", "N", "T", 6), "a", 6, 4 * c), 0, 0, 4, c),
            perm=[0, 2, 1, 3],
        )
        y = net.op("Relu", net.op(op, x, net.init("b.weight", net.rng.standard_normal((4, c, 5)).astype(F32))))
        net.out(net.op(op, y, net.init("z.weight", net.rng.standard_normal((4, 5, 2)).astype(F32))))
        return net.done(("a.weight", 1), ("b.weight", 1), ("b.weight", 2), ("z.weight", 1), groups=2)
    y = net.op(
        op,
        net.unsqueeze(net.input("input", "N", "T", 6), 1),
        net.init("a.weight", net.rng.standard_normal((3, 6, c)).astype(F32)),
    )
    y = net.op(op, net.op("Relu", y), net.init("z.weight", net.rng.standard_normal((3, c, 2)).astype(F32)))
    net.out(y)
    return net.done(("a.weight", 2), ("z.weight", 1), exact=True)


@case("MatMul", examples=4)
def matmul_of_activations(d: Draw, op: str) -> Built:
    """Linear attention: (q k^T) v without heads; the width of q and k is approximate, that of v exact."""
    net = Net(d)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, c) for n, c in (("q", 4), ("k", 4), ("v", 5)))
    if d.flag():
        y = net.op(op, net.op(op, q, net.op("Transpose", k, perm=[0, 2, 1])), v)
    else:
        y = net.op(op, q, net.op(op, net.op("Transpose", k, perm=[0, 2, 1]), v))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=2)


@case("FusedGemm", domain=MS, examples=2)
def fused_gemm(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "flat")
    bias = [net.weight("b.bias", 5)] if d.flag() else []
    m.close(net.op(op, m.x, net.weight("b.weight", 5, m.c), *bias, domain=MS, transB=1, activation="Relu"), 5)
    return net.done(m.made, ("b.weight", 0), m.used, groups=2, exact=True)


@case("FusedMatMul", domain=MS, examples=2)
def fused_matmul_of_heads(d: Draw, op: str) -> Built:
    """Heads that are transposed inside of the product: [T, h, e] against [h, T, e]."""
    net = Net(d, 17, ms=True)
    x, h, e = net.input("input", "T", 6), 3, d.int(2, 4)
    q, k, v = (net.reshape(net.linear(x, n, 6, h * e), 0, h, e) for n in "qkv")
    if d.flag():
        s = net.op(op, q, k, domain=MS, transBatchA=1, transBatchB=1, transB=1, alpha=0.4)
    else:
        s = net.op(op, q, net.op("Transpose", k, perm=[1, 0, 2]), domain=MS, transBatchA=1, transB=1, alpha=0.4)
    y = net.op(op, net.op("Softmax", s, axis=-1), v, domain=MS, transBatchB=1)
    net.out(net.linear(net.reshape(net.op("Transpose", y, perm=[1, 0, 2]), 0, h * e), "z", h * e, 3))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("FusedMatMul", "TransposeMatMul", domain=MS, examples=6)
def fused_matmul(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens")
    tb = d.flag()
    w = net.weight("b.weight", *((5, m.c) if tb else (m.c, 5)))
    y = net.op(op, m.x, w, domain=MS, transB=int(tb), alpha=0.5)
    if d.flag():  # an activation as the second factor
        k = net.linear(m.x, "k", m.c, 5)
        s = net.op(op, y, k, domain=MS, transB=1, alpha=0.3)
        y = net.op("MatMul", net.op("Softmax", s, axis=-1), k)
    m.close(y, 5)
    return net.done(m.made, ("b.weight", 0 if tb else 1), m.used, groups=2)


@case("Einsum", examples=14)
def einsum(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    form = d.pick("bti,io->bto", "bti,oi->bto", "...i,io->...o", "bti,io", "heads", "scores", "left")
    x = net.input("input", "N", "T", 6)
    c = d.int(3, 5)
    if form == "heads":
        y = net.op(op, x, net.init("a.weight", net.matrix(6, 3, c)), equation="bti,ihd->bthd")
        net.out(
            net.op(op, net.op("Relu", y), net.init("z.weight", net.matrix(3, c, 4)), equation="b t h d, h d o -> b t o")
        )
        return net.done(("a.weight", 1), ("a.weight", 2), ("z.weight", 0), ("z.weight", 1), groups=2, exact=True)
    if form == "scores":
        q, k, v = (net.op(op, x, net.init(f"{n}.weight", net.matrix(6, 3, c)), equation="bti,ihd->bthd") for n in "qkv")
        s = net.op("Softmax", net.op(op, q, k, equation="bqhd,bkhd->bhqk"), axis=-1)
        y = net.op(op, s, v, equation="bhqk,bkhd->bqhd")
        net.out(net.op(op, y, net.init("z.weight", net.matrix(3, c, 4)), equation="bthd,hdo->bto"))
        return net.done(("q.weight", 1), ("q.weight", 2), ("v.weight", 2), ("z.weight", 0), ("z.weight", 1), groups=3)
    if form == "left":
        xt = net.input("columns", "N", 6, "T")
        y = net.op(op, net.init("a.weight", net.matrix(c, 6)), xt, equation="oi,bit->bot")
        net.out(net.op(op, net.init("z.weight", net.matrix(3, c)), net.op("Relu", y), equation="oi,bit->bot"))
        return net.done(("a.weight", 0), ("z.weight", 1), exact=True)
    if form == "bti,io":  # implicit output: its letters in alphabetical order, b o t
        y = net.op("Transpose", net.op(op, x, net.init("a.weight", net.matrix(6, c)), equation=form), perm=[0, 2, 1])
    elif form == "bti,oi->bto":
        y = net.op(op, x, net.init("a.weight", net.matrix(c, 6)), equation=form)
    else:
        y = net.op(op, x, net.init("a.weight", net.matrix(6, c)), equation=form)
    net.out(net.op(op, net.op("Relu", y), net.init("z.weight", net.matrix(c, 3)), equation="...i,io->...o"))
    return net.done(("a.weight", 0 if form == "bti,oi->bto" else 1), ("z.weight", 0), exact=True)


@case("MatMul", examples=10)
def attention_of_three_projections(d: Draw, op: str) -> Built:
    net = Net(d)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.input("input", "N", "T", 6)
    q, k, v = (_split_heads(net, net.linear(x, n, 6, h * e), h, e) for n in "qkv")
    net.out(net.linear(_merge_heads(net, _attend(net, q, k, v, e), h * e), "z", h * e, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("q.bias", 0), ("z.weight", 0), groups=3)


@case("MatMul", examples=10)
def attention_of_one_projection(d: Draw, op: str) -> Built:
    """Fused qkv: [N, T, 3 h d] -> (3 h d) by Reshape, Transpose and Gather, Split or Slice; or Split first."""
    net = Net(d, 17)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.linear(net.input("input", "N", "T", 6), "a", 6, 3 * h * e, bias=d.flag())
    form = d.pick("gather", "unbind", "split", "slice")
    if form in ("gather", "unbind"):
        target = d.pick((0, 0, 3, h, e), ("0", "1", 3, h, e), ("0", "1", 3, h, -1), ("0", -1, 3, h, e))
        y = net.op("Transpose", net.reshape(x, *target), perm=[2, 0, 3, 1, 4])
        if form == "gather":
            q, k, v = (net.op("Gather", y, net.const(i), axis=0) for i in range(3))
        else:
            q, k, v = (net.squeeze(p, 0) for p in net.ops("Split", y, outs=3, axis=0))
    else:
        if form == "split":
            parts = net.ops("Split", x, *d.pick((), (net.const([h * e] * 3),)), outs=3, axis=-1)
        else:
            n = h * e
            parts = [net.op("Slice", x, net.const([i * n]), net.const([(i + 1) * n]), net.const([2])) for i in range(3)]
        q, k, v = (_split_heads(net, p, h, e) for p in parts)
    net.out(net.linear(_merge_heads(net, _attend(net, q, k, v, e), h * e), "z", h * e, 5))
    return net.done(("a.weight", 1), ("z.weight", 0), groups=2)


@case("Conv", "MatMul", "Gemm", examples=3)
def weights_kept_elsewhere(d: Draw, op: str) -> Built:
    """Weights in Constant nodes, or initializers that are also graph inputs."""
    net = Net(d, 11)
    kind = {"Conv": "image", "MatMul": "tokens", "Gemm": "flat"}[op]
    m = any_mid(net, kind)
    built = m.end(net.op("Relu", m.x), exact=True)
    graph = built.proto.graph
    if d.flag():
        held = list(graph.initializer)
        graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in held)
    else:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer] + list(graph.node)
        del graph.initializer[:]
        del graph.node[:]
        graph.node.extend(nodes)
    return built


@case("Conv", "MatMul", "Gemm", examples=3)
def element_types(d: Draw, op: str) -> Built:
    net = Net(d, 13, np.float16 if op == "Conv" else d.pick(np.float16, np.float64))  # no double Conv in ONNX Runtime
    m = any_mid(net, {"Conv": "image", "MatMul": "tokens", "Gemm": "flat"}[op])
    return m.end(net.op("Relu", m.x), exact=True)


@case("MatMul", examples=4)
def one_weight_used_twice(d: Draw, op: str) -> Built:
    """Siamese branches: one weight, two inputs; its consumers are shared or not."""
    net = Net(d)
    c = d.int(3, 5)
    w, b = net.init("a.weight", net.matrix(6, c)), net.weight("a.bias", c)
    one, two = (net.op("Relu", net.op("Add", net.op(op, net.input(n, "N", "T", 6), w), b)) for n in ("input", "other"))
    z = net.init("z.weight", net.matrix(c, 3))
    net.out(net.op(op, one, z))
    net.out(net.op(op, two, z if d.flag() else net.init("y.weight", net.matrix(c, 3))))
    return net.done(("a.weight", 1), ("a.bias", 0), ("z.weight", 0), exact=True)


@case("Conv", "ConvTranspose", examples=3)
def kernel_of_another_branch(d: Draw, op: str) -> Built:
    """A kernel that the model computes (dynamic filters): no weight consumes its inputs, so they mix."""
    net = Net(d)
    m = any_mid(net, "image", c=d.int(3, 4))
    o = d.int(2, 4)
    code = net.input("code", 1, 5)
    shape = (o, m.c, 3, 3) if op == "Conv" else (m.c, o, 3, 3)
    kernel = net.reshape(net.gemm(code, "k", o * m.c * 9, 5), *shape)
    m.close(net.op(op, m.x, kernel), o)
    return net.done(m.made, ("k.weight", 0), m.used)


@case("MatMul", examples=4)
def non_local_block(d: Draw, op: str) -> Built:
    net = Net(d)
    m = any_mid(net, "image", c=4)
    t, p, g = (net.reshape(net.conv(m.x, n, (3, m.c, 1, 1)), 0, 3, -1) for n in "tpg")
    a = net.op("Softmax", net.op(op, net.op("Transpose", t, perm=[0, 2, 1]), p), axis=-1)
    y = net.op("Transpose", net.op(op, a, net.op("Transpose", g, perm=[0, 2, 1])), perm=[0, 2, 1])
    y = net.op("Reshape", y, net.op("Concat", net.op("Slice", net.op("Shape", g), net.const([0]), net.const([2])), net.op(
        "Slice", net.op("Shape", m.x), net.const([2]), net.const([4])), axis=0))  # fmt: skip
    m.close(net.op("Add", m.x, net.conv(y, "o", (m.c, 3, 1, 1))))
    return net.done(m.made, ("t.weight", 0), ("p.weight", 0), ("g.weight", 0), ("o.weight", 1), m.used, groups=3)


@case("MatMul", examples=4)
def weight_with_a_batch_of_one(d: Draw, op: str) -> Built:
    net = Net(d)
    c = d.int(3, 5)
    x = net.input("input", "N", "T", 6)
    y = net.op("Relu", net.op(op, x, net.init("a.weight", net.matrix(6, c)[None])))
    net.out(net.op(op, y, net.init("z.weight", net.matrix(c, 3)[None])))
    return net.done(("a.weight", 2), ("z.weight", 1), exact=True)


@case("MatMulInteger", examples=3)
def dynamic_product(d: Draw, op: str) -> Built:
    net = Net(d, 11)
    m = any_mid(net, "tokens")
    q, s, zero = net.ops("DynamicQuantizeLinear", m.x, outs=3)
    zeros = d.pick([], [net.init("b.zero", np.zeros((), np.int8))], [net.init("b.zeros", np.zeros(4, np.int8))])
    y = net.to_float(net.op(op, q, _integers(net, "b.weight", m.c, 4), zero, *zeros))
    scale = net.init("b.scale", (np.abs(net.rng.standard_normal(4)) * 0.01 + 0.002).astype(F32))
    m.close(net.op("Mul", y, net.op("Mul", s, scale)), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), ("b.scale", 0), m.used, groups=2)


def _quantized(net: Net, x: str) -> tuple[str, str, str]:
    s, zero = net.real(0.03), net.init(net.name("zero"), np.array(120, np.uint8))
    return net.op("QuantizeLinear", x, s, zero), s, zero


@case("QLinearConv", examples=4)
def integer_convolution(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image", c=4)
    q, s, zero = _quantized(net, m.x)
    o, g = d.pick((3, 1), (5, 1), (4, 4))
    n = o if d.flag() else 1
    ws = net.init(
        "b.scale", (np.abs(net.rng.standard_normal(n)) * 0.01 + 0.002).astype(F32).reshape(-1 if n > 1 else ())
    )
    wz = net.init("b.zero", np.zeros(n if n > 1 else (), np.int8))
    bias = [net.init("b.bias", net.rng.integers(-90, 90, o).astype(np.int32))] if d.flag() else []
    w = _integers(net, "b.weight", o, 4 // g, 3, 3)
    y = net.op(op, q, s, zero, w, ws, wz, s, zero, *bias, pads=[1, 1, 1, 1], group=g)
    m.close(net.op("DequantizeLinear", y, s, zero), o)
    return net.done(m.made, ("b.weight", 0), m.used, groups=1 if g > 1 else 2, exact=True)


@case("QLinearMatMul", examples=4)
def integer_product(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "tokens")
    q, s, zero = _quantized(net, m.x)
    ws = net.init("b.scale", np.array(0.02, F32))
    y = net.op(
        op, q, s, zero, _integers(net, "b.weight", m.c, 4), ws, net.init("b.zero", np.array(0, np.int8)), s, zero
    )
    m.close(net.op("DequantizeLinear", y, s, zero), 4)
    return net.done(m.made, ("b.weight", 0), ("b.weight", 1), m.used, groups=2, exact=True)


@case("CausalConvWithState", domain=MS, examples=2)
def ms_causal_conv(d: Draw, op: str) -> Built:
    """Mamba's short convolution; the state before it is a weight here."""
    return _causal_conv(Net(d, 17, ms=True), op, MS)


@case("CausalConvWithState", examples=2, reference=True)
def causal_conv(d: Draw, op: str) -> Built:
    return _causal_conv(Net(d, 27), op, "")


def _causal_conv(net: Net, op: str, domain: str) -> Built:
    c = net.d.int(3, 5)
    x = net.conv(net.input("input", 1, 3, "T"), "a", (c, 3, 3))
    bias = net.weight("b.bias", c) if net.d.flag() else ""
    state = [net.weight("state", 1, c, 2)] if net.d.flag() else []
    y, last = net.ops(op, x, net.weight("b.weight", c, 1, 3), bias, *state, outs=2, domain=domain, activation="silu")
    if net.d.flag():
        y = net.op("Concat", y, last, axis=2)
    net.out(net.conv(y, "z", (3, c, 1)))
    return net.done(("a.weight", 0), ("b.weight", 0), ("z.weight", 1), exact=True)


@case("DeformConv", examples=3)
def deform_conv(d: Draw, op: str) -> Built:
    net = Net(d, 22)
    g, og, c = d.pick(1, 2), d.pick(1, 2), 4
    image = net.input("input", "N", 3, "H", "W")
    x = net.conv(image, "a", (c, 3, 3, 3))
    offset = net.conv(image, "offset", (og * 18, 3, 3, 3))
    mask = [net.op("Sigmoid", net.conv(image, "mask", (og * 9, 3, 3, 3)))] if d.flag() else []
    bias = net.weight("b.bias", 6) if d.flag() else ""
    y = net.op(op, x, net.weight("b.weight", 6, c // g, 3, 3), offset, bias, *mask, pads=[1, 1, 1, 1], group=g,
               offset_group=og)  # fmt: skip
    net.out(net.conv(net.op("Relu", y), "z", (3, 6, 1, 1)))
    return net.done(
        ("a.weight", 0), ("b.weight", 0), ("z.weight", 1), frozen=[("offset.weight", 0)], groups=2, exact=True
    )


@case("Conv", examples=4)
def groups_that_do_not_nest(d: Draw, op: str) -> Built:
    """ShuffleNet v1 with three groups: the shuffled channels (4 3) are no three groups of 4, but the stream (3 c) is free."""
    net = Net(d)
    c = 3 * d.int(2, 4)
    x = net.conv(net.input("input", "N", 3, 6, 6), "stem", (c, 3, 1, 1))
    y = net.conv(x, "a", (12, c // 3, 1, 1), group=3)
    y = net.op("Transpose", net.reshape(y, 0, 3, 4, 6, 6), perm=[0, 2, 1, 3, 4])
    y = net.conv(net.reshape(y, 0, 12, 6, 6), "b", (12, 1, 3, 3), group=12)
    y = net.op("Add", x, net.conv(y, "o", (c, 4, 1, 1), group=3))
    net.out(net.conv(y, "z", (3, c, 1, 1)))
    return net.done(
        ("stem.weight", 0), ("a.weight", 1), ("o.weight", 0), ("z.weight", 1), frozen=[("a.weight", 0)], exact=True
    )
