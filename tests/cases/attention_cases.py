"""Cases: Attention, fused and written out."""

from __future__ import annotations

from cases.base import MS, Built, Draw, Net, any_mid, case


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
