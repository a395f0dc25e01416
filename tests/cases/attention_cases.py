"""Cases: Attention, fused and written out."""

from __future__ import annotations

import numpy as np

from cases.base import F32, MS, Built, Draw, Net, _integers, any_mid, case


@case("Attention", examples=8)
def attention_operator(d: Draw, op: str) -> Built:
    net = Net(d, 23)
    kv, r = d.pick((2, 1), (3, 1), (2, 2))
    e, f = d.int(2, 3), d.int(2, 3)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, w) for n, w in (("q", kv * r * e), ("k", kv * e), ("v", kv * f)))
    scale = 0.4 if d.flag() else None
    if d.flag():
        y = net.op(op, q, k, v, q_num_heads=kv * r, kv_num_heads=kv, is_causal=d.int(0, 1), scale=scale)
    else:
        q = net.op("Transpose", net.reshape(q, 0, 0, kv * r, e), perm=[0, 2, 1, 3])
        k = net.op("Transpose", net.reshape(k, 0, 0, kv, e), perm=[0, 2, 1, 3])
        v = net.op("Transpose", net.reshape(v, 0, 0, kv, f), perm=[0, 2, 1, 3])
        y = net.op("Transpose", net.op(op, q, k, v, is_causal=d.int(0, 1), scale=scale), perm=[0, 2, 1, 3])
        y = net.reshape(y, 0, 0, -1)
    net.out(net.linear(y, "z", kv * r * f, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("MultiHeadAttention", domain=MS, examples=6)
def ms_multi_head_attention(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    h, e, f = d.int(2, 3), d.pick(2, 4), d.pick(2, 4)
    x = net.input("input", "N", "T", 6)
    q, k, v = (net.linear(x, n, 6, w, bias=False) for n, w in (("q", h * e), ("k", h * e), ("v", h * f)))
    bias = [net.weight("bias", h * (2 * e + f))] if d.flag() else []
    y = net.op(op, q, k, v, *bias, domain=MS, num_heads=h, scale=0.4 if d.flag() else None)
    net.out(net.linear(y, "z", h * f, 5))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)


@case("Attention", domain=MS, examples=6)
def ms_attention(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", c=6)
    h, e = d.int(2, 3), d.pick(2, 4)
    n = h * e
    y = net.op(op, m.x, net.init("w", net.matrix(6, 3 * n)), net.weight("b", 3 * n), domain=MS, num_heads=h,
               qkv_hidden_sizes=[n, n, n] if d.flag() else None)  # fmt: skip
    m.close(y, n)
    return net.done(m.made, ("w", 0), ("w", 1), ("b", 0), m.used, groups=3)


@case("Attention", examples=6)
def attention_with_a_cache(d: Draw, op: str) -> Built:
    """A mask for each head; past keys and values come in and go out, which fixes their heads and widths."""
    net = Net(d, 23)
    h, e = 2, 3
    x = net.input("input", "N", 4, 6)
    q, k, v = (net.linear(x, n, 6, h * e) for n in "qkv")
    mask = net.weight("mask", 1, h, 4, 4)
    if d.flag():
        y = net.op(op, q, k, v, mask, q_num_heads=h, kv_num_heads=h)
        net.out(net.linear(y, "z", h * e, 5))
        return net.done(("q.weight", 1), ("v.weight", 1), ("mask", 1), ("z.weight", 0), groups=3)
    past = [net.input(n, "N", h, 2, e) for n in ("past_k", "past_v")]
    y, new_k, new_v = net.ops(op, q, k, v, "", *past, outs=3, q_num_heads=h, kv_num_heads=h)
    net.out(net.linear(net.linear(y, "y", h * e, 4), "z", 4, 5))
    net.out(new_k)
    net.out(new_v)
    return net.done(("y.weight", 1), ("z.weight", 0), frozen=[("q.weight", 1), ("v.weight", 1)])


@case("Attention", examples=3)
def attention_to_learned_tokens(d: Draw, op: str) -> Built:
    """Keys, values or queries of a fixed table (a resampler): the table's rows are tokens, which no one may move."""
    net = Net(d, 23)
    h, e = 2, 3
    x, table = net.input("input", 1, 4, 6), net.weight("table", 1, 4, 6, scale=1.0)
    form = d.pick("keys", "queries", "both")
    causal = d.int(0, 1)
    q = net.linear(table if form == "queries" else x, "q", 6, h * e)
    k, v = (net.linear(x if form == "queries" else table, n, 6, h * e) for n in "kv")
    y = net.op(op, q, k, v, q_num_heads=h, kv_num_heads=h, is_causal=causal)
    net.out(net.linear(net.op("ReduceSum", y, net.const([1])) if form == "both" else y, "z", h * e, 3))
    return net.done(("q.weight", 1), ("v.weight", 1), ("z.weight", 0), frozen=[("table", 1)], groups=3)


@case("MultiHeadAttention", domain=MS, examples=3)
def ms_attention_with_a_cache(d: Draw, op: str) -> Built:
    """Keys and values in heads, as cross attention has them, or after those of a cache; both are weights here."""
    net = Net(d, 17, ms=True)
    h, e = 2, d.int(2, 4)
    q = net.linear(net.input("input", 1, "T", 6), "q", 6, h * e)
    if d.flag():
        k, v = (net.weight(n, 1, h, 3, e) for n in ("key", "value"))
        y = net.op(op, q, k, v, domain=MS, num_heads=h)
    else:
        k, v = (net.linear("input", n, 6, h * e) for n in ("key", "value"))
        past = [net.weight(n, 1, h, 3, e) for n in ("past_key", "past_value")]
        y, *_ = net.ops(op, q, k, v, "", "", "", *past, outs=3, domain=MS, num_heads=h)
    net.out(net.linear(y, "z", h * e, 5))
    return net.done(("q.weight", 1), ("z.weight", 0), groups=2)


@case("MultiHeadAttention", domain=MS, examples=3, reference=True)
def packed_heads(d: Draw, op: str) -> Built:
    """Queries, keys and values in one tensor [N, T, h, 3, e], or keys and values in one."""
    net = Net(d, 17, ms=True)
    h, e = d.int(2, 3), d.int(2, 4)
    x = net.input("input", "N", "T", 6)
    bias = [net.weight("b", 3 * h * e)] if d.flag() else []
    if d.flag():
        qkv = net.reshape(net.linear(x, "q", 6, 3 * h * e), 0, 0, h, 3, e)
        y = net.op(op, qkv, *(["", "", *bias] if bias else []), domain=MS, num_heads=h)
    else:
        kv = net.reshape(net.linear(x, "kv", 6, 2 * h * e), 0, 0, h, 2, e)
        y = net.op(op, net.linear(x, "q", 6, h * e), kv, *(["", *bias] if bias else []), domain=MS, num_heads=h)
    net.out(net.linear(y, "z", h * e, 5))
    return net.done(("q.weight", 1), ("z.weight", 0), groups=2)


@case("Attention", domain=MS, examples=2)
def ms_packed_attention_with_a_cache(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", c=6)
    h, e = 2, d.int(2, 4)
    past = net.input("past", 2, "N", h, 3, e)
    y, present = net.ops(op, m.x, net.init("w", net.matrix(6, 3 * h * e)), net.weight("b", 3 * h * e), "", past, outs=2,
                         domain=MS, num_heads=h, unidirectional=1)  # fmt: skip
    net.out(present)
    m.close(y, h * e)
    return net.done(m.made, ("w", 0), frozen=[("w", 1)])


@case("QAttention", domain=MS, examples=3)
def ms_integer_attention(d: Draw, op: str) -> Built:
    net = Net(d, 17, ms=True)
    m = any_mid(net, "tokens", c=6)
    h, e = d.int(2, 3), d.int(2, 4)
    n, per = 3 * h * e, d.flag()
    scale, zero = net.real(0.03), net.init("x.zero", np.array(120, np.uint8))
    w_scale = net.init("w.scale", (np.abs(net.rng.standard_normal(n if per else ())) * 0.01 + 0.002).astype(F32))
    w_zero = net.init("w.zero", np.zeros(n if per else (), np.int8))
    y = net.op(op, net.op("QuantizeLinear", m.x, scale, zero), _integers(net, "w", 6, n), net.weight("b", n), scale, w_scale,
               "", zero, w_zero, domain=MS, num_heads=h)  # fmt: skip
    m.close(y, h * e)
    return net.done(m.made, ("w", 0), ("w", 1), ("b", 0), m.used, groups=3)


@case("GroupQueryAttention", domain=MS, examples=6)
def group_query_attention(d: Draw, op: str) -> Built:
    """As ONNX Runtime's model builder writes it: packed or not, rotated by tables or not, with a cache or without."""
    net = Net(d, 17, ms=True)
    kv, r = d.pick((2, 1), (3, 1), (2, 2))
    rotary, packed = d.int(0, 1), d.flag()
    e = d.pick(8, 16) if not rotary else d.pick(16, 32)
    x = net.input("input", "N", 4, 6)
    sizes = [kv * r * e, kv * e, kv * e]
    qkv = [net.linear(x, "q", 6, sum(sizes), bias=False), "", ""] if packed else [
        net.linear(x, n, 6, w, bias=False) for n, w in zip("qkv", sizes, strict=True)
    ]  # fmt: skip
    last = net.op("Expand", net.init("last", np.array([3], np.int32)), net.size(x, 0))
    ins = ["", "", last, net.init("total", np.array(4, np.int32))]
    if rotary:
        ins += [net.weight("cos", 9, e // 2), net.weight("sin", 9, e // 2)]
    y = net.op(op, *qkv, *ins, domain=MS, num_heads=kv * r, kv_num_heads=kv, do_rotary=rotary,
               rotary_interleaved=d.int(0, 1) if rotary else None, scale=0.3 if d.flag() else None)  # fmt: skip
    net.out(net.linear(y, "z", kv * r * e, 5))
    groups = (1 if r == 1 else 2) + (e > 8 * (1 + rotary))
    return net.done(("q.weight", 1), ("z.weight", 0), *([("cos", 1)] if rotary and e > 16 else []), groups=groups)


@case("GroupQueryAttention", domain=MS, examples=2)
def group_query_attention_with_a_cache(d: Draw, op: str) -> Built:
    """The caches of keys and values are inputs and outputs; query heads of one key head can still go."""
    net = Net(d, 17, ms=True)
    kv, r, e = 2, 3, 8
    x = net.input("input", 1, 4, 6)
    past = [net.input(n, 1, kv, 0, e) for n in ("past_key", "past_value")]
    q, k, v = (net.linear(x, n, 6, w, bias=False) for n, w in (("q", kv * r * e), ("k", kv * e), ("v", kv * e)))
    ends = [net.init("last", np.array([3], np.int32)), net.init("total", np.array(4, np.int32))]
    y, *present = net.ops(op, q, k, v, *past, *ends, outs=3, domain=MS, num_heads=kv * r, kv_num_heads=kv)
    net.out(net.linear(y, "z", kv * r * e, 5))
    for p in present:
        net.out(p)
    return net.done(("q.weight", 1), ("z.weight", 0), frozen=[("k.weight", 1), ("v.weight", 1)])


@case("RotaryEmbedding", domain=MS, examples=4)
def ms_rotary(d: Draw, op: str) -> Built:
    return _rotary(Net(d, 17, ms=True), op, MS)


@case("RotaryEmbedding", examples=4)
def rotary(d: Draw, op: str) -> Built:
    return _rotary(Net(d, 23), op, "")


def _rotary(net: Net, op: str, domain: str) -> Built:
    """Pairs of head features turned by tables of cosines and sines; some features may be left alone."""
    d = net.d
    h, half, rest = d.int(2, 3), d.int(2, 3), d.pick(0, 3)
    e, table = 2 * half + rest, ("positions" if domain else d.pick("positions", "tokens"))
    x = net.input("input", 2, 4, 6)
    q = net.linear(x, "q", 6, h * e)
    shape = (9, half) if table == "positions" else (2, 4, half)
    tables = [net.weight("cos", *shape, scale=0.6), net.weight("sin", *shape, scale=0.6)]
    places = [net.const([[0, 1, 2, 3], [2, 3, 4, 5]])] if table == "positions" else []
    heads = d.flag()
    if heads:
        q = net.op("Transpose", net.reshape(q, 0, 0, h, e), perm=[0, 2, 1, 3])
    ins = [q, *places, *tables] if domain else [q, *tables, *places]
    y = net.op(op, *ins, domain=domain, interleaved=d.int(0, 1), num_heads=h if rest or not domain or d.flag() else None,
               rotary_embedding_dim=2 * half if rest else None)  # fmt: skip
    if heads:
        y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * e)
    net.out(net.linear(y, "z", h * e, 5))
    return net.done(("q.weight", 1), ("cos", len(shape) - 1), ("z.weight", 0), groups=3 if rest else 2, exact=True)


@case("LinearAttention", domain=MS, examples=4)
def ms_linear_attention(d: Draw, op: str) -> Built:
    return _linear_attention(Net(d, 17, ms=True), op, MS)


@case("LinearAttention", examples=2, reference=True)
def linear_attention(d: Draw, op: str) -> Built:
    return _linear_attention(Net(d, 27), op, "")


def _linear_attention(net: Net, op: str, domain: str) -> Built:
    d = net.d
    rule = d.pick("linear", "gated", "delta", "gated_delta")
    kv, r = d.pick((2, 1), (2, 2), (3, 1))
    e, f = d.int(2, 3), d.int(2, 3)
    x = net.input("input", 1, "T", 6)
    q, k, v = (net.linear(x, n, 6, w) for n, w in (("q", kv * r * e), ("k", kv * e), ("v", kv * f)))
    state = net.weight("state", 1, kv, e, f) if d.flag() else ""
    decay = net.op("Neg", net.op("Abs", net.linear(x, "decay", 6, d.pick(kv, kv * e)))) if "gated" in rule else ""
    rate = net.op("Sigmoid", net.linear(x, "rate", 6, d.pick(kv, 1))) if "delta" in rule else ""
    y, last = net.ops(op, q, k, v, state, decay, rate, outs=2, domain=domain, update_rule=rule, q_num_heads=kv * r,
                      kv_num_heads=kv, scale=0.4 if d.flag() else None)  # fmt: skip
    net.out(net.linear(y, "z", kv * r * f, 5))
    if d.flag():
        net.out(net.op("ReduceSum", last, net.const([1, 2, 3])))
    return net.done(("q.weight", 1), ("k.weight", 1), ("v.weight", 1), ("z.weight", 0), groups=3)
