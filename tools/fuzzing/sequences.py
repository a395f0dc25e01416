"""Productions: attention in its spellings, recurrent layers, rotary positions."""

from __future__ import annotations

from typing import Any

from cases.base import MS

from fuzzing.linear import add_bias, dense
from fuzzing.pool import Pool, Skip, Value, divisors, production, static, total
from fuzzing.shapes import permute
from fuzzing.weights import plain, weight
from onnxprune.axes import Size


def tokens(p: Pool) -> Value:
    return p.draw(lambda v: v.rank == 3 and static(v.shape[2], 2))


def split_heads(p: Pool, v: Value, h: int) -> Value:
    """[N, T, h e] -> [N, h, T, e]"""
    n, t, c = v.shape
    assert isinstance(c, int)
    return permute(p, p.reshape(v, (n, t, h, c // h), 2), [0, 2, 1, 3])


def attend(p: Pool, q: Value, k: Value, v: Value) -> Value:
    """softmax(q k^T s) v on [N, h, T, e], the scale before, after or nowhere."""
    e = q.shape[3]
    assert isinstance(e, int)
    form = p.dice.pick("before", "after", "none", "both", "shape")
    if form in ("before", "both"):
        q = p.like("Mul", q, p.net.real(e**-0.5))
    if form == "shape":
        q = p.like("Div", q, p.net.op("Sqrt", p.net.to_float(p.read(q, e))))
    if form == "both":
        k = p.like("Mul", k, p.net.real(0.8))
    scores: tuple[Size, ...] = (*q.shape[:3], k.shape[2])
    s = p.make("MatMul", [q, permute(p, k, [0, 1, 3, 2])], scores, 1)
    if form == "after":
        s = p.like("Div", s, p.net.real(e**0.5))
    if p.dice.chance(0.2) and static(scores[1]):
        s = p.like("Add", s, weight(p, int(scores[1]), 1, 1))  # type: ignore[arg-type]
    return p.make("MatMul", [p.like("Softmax", s, axis=-1), v], (*q.shape[:3], v.shape[3]), 1)


def merge_heads(p: Pool, y: Value) -> Value:
    n, h, t, e = y.shape
    return p.reshape(permute(p, y, [0, 2, 1, 3]), (n, t, total((h, e))), 2)


def close(p: Pool, x: Value, y: Value) -> None:
    """A last projection, and perhaps the sum with what came in."""
    c = x.shape[2]
    assert isinstance(c, int)
    y = dense(p, y, c)
    p.add(p.like("Add", x, y) if p.dice.flag() and x.shape == y.shape else y)


@production(3)
def attention(p: Pool) -> None:
    """Three projections, of one or of two inputs; v may be of another width."""
    x = tokens(p)
    y = p.draw(lambda y: y.rank == 3 and y.shape[0] == x.shape[0] and static(y.shape[2])) if p.dice.chance(0.3) else x
    h, e, f = p.dice.pick(1, 2, 3), p.dice.pick(2, 3, 4), p.dice.pick(2, 3)
    q, k, v = dense(p, x, h * e), dense(p, y, h * e), dense(p, y, h * f)
    close(p, x, merge_heads(p, attend(p, *(split_heads(p, t, h) for t in (q, k, v)))))


@production(3)
def fused_attention(p: Pool) -> None:
    """One projection for queries, keys and values, taken apart by Split, Slice or Gather, before or after the heads."""
    x = tokens(p)
    n, t, _ = x.shape
    h, e = p.dice.pick(1, 2, 3), p.dice.pick(2, 3, 4)
    qkv = dense(p, x, 3 * h * e)
    form = p.dice.pick("3hd", "h3d", "hd3", "split")
    if form == "split":
        parts = split3(p, qkv, 2, h * e)
        close(p, x, merge_heads(p, attend(p, *(split_heads(p, part, h) for part in parts))))
        return
    shape, perm = {
        "3hd": ((n, t, 3, h, e), [2, 0, 3, 1, 4]),
        "h3d": ((n, t, h, 3, e), [3, 0, 2, 1, 4]),
        "hd3": ((n, t, h, e, 3), [4, 0, 2, 1, 3]),
    }[form]
    y = permute(p, p.reshape(qkv, shape, 3), perm)
    inner = (n, h, t, e)
    if p.dice.flag():
        q, k, v = (p.make("Gather", [y, p.net.const(i)], inner, 1, axis=0) for i in range(3))
    else:
        q, k, v = (Value(p.net.squeeze(part, 0), inner, 1) for part in split3(p, y, 0, 1))
    close(p, x, merge_heads(p, attend(p, q, k, v)))


def split3(p: Pool, v: Value, axis: int, size: int) -> list[Value]:
    if p.net.opset < 13:
        names = p.net.ops("Split", v, outs=3, axis=axis, split=[size] * 3)
    else:
        names = p.net.ops("Split", v, p.net.const([size] * 3), outs=3, axis=axis)
    return [Value(n, (*v.shape[:axis], size, *v.shape[axis + 1 :]), v.axis) for n in names]


@production(2, since=8)
def grouped_queries(p: Pool) -> None:
    """Fewer heads of keys and values, copied by Unsqueeze, Expand and Reshape."""
    x = tokens(p)
    n, t, _ = x.shape
    kv, r, e = p.dice.pick(1, 2), p.dice.pick(2, 3), p.dice.pick(2, 4)
    q = split_heads(p, dense(p, x, kv * r * e), kv * r)
    pair = []
    for _ in range(2):
        y = split_heads(p, dense(p, x, kv * e), kv)
        wide = (n, kv, r, t, e)
        target = p.net.op("Concat", p.read(y, n), p.net.const([kv, r]), p.read(y, t), p.net.const([e]), axis=0)
        z = p.make("Expand", [p.net.unsqueeze(y, 2), target], wide, 1)
        pair.append(p.reshape(z, (n, kv * r, t, e), 1))
    close(p, x, merge_heads(p, attend(p, q, *pair)))


@production(1)
def rotary(p: Pool) -> None:
    """The halves of each head's features change places, one of them negated."""
    x = tokens(p)
    h, e = p.dice.pick(1, 2), p.dice.pick(2, 4)
    y = split_heads(p, dense(p, x, h * e), h)
    half = (*y.shape[:3], e // 2)
    if p.net.opset < 13:
        a, b = p.net.ops("Split", y, outs=2, axis=3, split=[e // 2] * 2)
    else:
        a, b = p.net.ops("Split", y, p.net.const([e // 2] * 2), outs=2, axis=3)
    turned = p.make(
        "Concat", [p.like("Neg", Value(b, half, 1)), a], y.shape, 1, axis=p.dice.pick(3, -1) if p.net.opset > 10 else 3
    )
    cos, sin = (plain(p, (e // 2,)) for _ in range(2))
    tables = [p.net.op("Concat", w, w, axis=0) for w in (cos, sin)]
    y = p.like("Add", p.like("Mul", y, tables[0]), p.like("Mul", turned, tables[1]))
    close(p, x, merge_heads(p, y))


@production(2, since=23)
def attention_operator(p: Pool) -> None:
    x = tokens(p)
    kv, r, e, f = p.dice.pick(1, 2), p.dice.pick(1, 2), p.dice.pick(2, 3), p.dice.pick(2, 3)
    q, k, v = dense(p, x, kv * r * e), dense(p, x, kv * e), dense(p, x, kv * f)
    heads = {"q_num_heads": kv * r, "kv_num_heads": kv}
    causal = p.dice.int(0, 1)
    y = p.make("Attention", [q, k, v], (*x.shape[:2], kv * r * f), 2, is_causal=causal, **heads)
    close(p, x, y)


@production(2, ms=True)
def fused_operators(p: Pool) -> None:
    """com.microsoft's attention of three inputs, and its skip connection with a norm."""
    x = tokens(p)
    c = int(x.shape[2])  # type: ignore[arg-type]
    if p.dice.flag():
        h, e, f = p.dice.pick(1, 2), p.dice.pick(2, 4), p.dice.pick(2, 4)
        q, k, v = dense(p, x, h * e), dense(p, x, h * e), dense(p, x, h * f)
        close(p, x, p.make("MultiHeadAttention", [q, k, v], (*x.shape[:2], h * f), 2, domain=MS, num_heads=h))
        return
    y = dense(p, x, c)
    ins = [y, x, weight(p, c), weight(p, c)]
    p.add(p.make("SkipLayerNormalization", ins, x.shape, 2, domain=MS, epsilon=1e-2))


@production(3)
def recurrent(p: Pool) -> None:
    """LSTM, GRU or RNN on [T, N, C], one way or both; all steps or the last state."""
    x = tokens(p)
    op, h = p.dice.pick("LSTM", "GRU", "RNN"), p.dice.pick(2, 3, 4)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    way = p.dice.pick("forward", "reverse", "bidirectional")
    d = 2 if way == "bidirectional" else 1
    x = permute(p, x, [1, 0, 2]) if p.dice.chance(0.7) else x
    t, n, c = x.shape
    assert isinstance(c, int)
    ins = [x, plain(p, (d, gates * h, c), 0.5), plain(p, (d, gates * h, h), 0.5)]
    if p.dice.flag():
        ins.append(plain(p, (d, 2 * gates * h), 0.5))
    attrs: dict[str, Any] = {"hidden_size": h, "direction": way}
    if op == "GRU":
        attrs["linear_before_reset"] = p.dice.int(0, 1)
    steps, last = p.net.ops(op, *ins, outs=2, **attrs)
    if p.dice.chance(0.3):
        y = permute(p, Value(last, (d, n, h), 2), [1, 0, 2])
        p.add(p.reshape(y, (n, d * h), 1) if p.dice.flag() else y)
    elif d == 1 and p.dice.flag():
        p.add(Value(p.net.squeeze(steps, 1), (t, n, h), 2))
    else:
        y = permute(p, Value(steps, (t, d, n, h), 3), [0, 2, 1, 3])
        p.add(p.reshape(y, (t, n, d * h), 2))


@production(1)
def channels_attend(p: Pool) -> None:
    """Attention between the channels of a picture (a non-local block, transposed)."""
    v = p.draw(lambda v: v.rank == 4 and v.axis == 1 and static(v.channels, 2))
    y = p.reshape(v, (*v.shape[:2], total(v.shape[2:])), 1)
    s = p.make("MatMul", [y, permute(p, y, [0, 2, 1])], (v.shape[0], v.shape[1], v.shape[1]), 1)
    s = p.like("Softmax", s, axis=-1 if p.net.opset >= 13 else 2)
    p.add(p.reshape(p.make("MatMul", [s, y], y.shape, 1), v.shape, 1))


@production(1, since=13)
def experts(p: Pool) -> None:
    """A stack of weights, one an expert, summed by a gate."""
    x = tokens(p)
    n, t, c = x.shape
    assert isinstance(c, int)
    k, o = p.dice.pick(2, 3), p.dice.pick(3, 4, 6)
    gate = p.like("Softmax", dense(p, x, k), axis=-1)
    y = p.make("MatMul", [p.net.unsqueeze(x, 1), weight(p, k, c, o)], (n, k, t, o), 3)
    g = p.net.unsqueeze(permute(p, gate, [0, 2, 1]), 3)
    y = p.like("Mul", y, g)
    p.add(Value(p.net.op("ReduceSum", y, p.net.const([1]), keepdims=0), (n, t, o), 2))


@production(1)
def multiply_heads_by_a_stack(p: Pool) -> None:
    """A matrix for each head."""
    x = tokens(p)
    c = int(x.shape[2])  # type: ignore[arg-type]
    if not divisors(c):
        raise Skip
    h = p.dice.pick(*divisors(c))
    y = split_heads(p, x, h)
    o = p.dice.pick(2, 3, 5)
    y = p.make("MatMul", [y, weight(p, h, c // h, o)], (*y.shape[:3], o), 1)
    p.add(add_bias(p, y) if p.dice.flag() else y)
