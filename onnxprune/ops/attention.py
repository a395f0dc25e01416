"""Attention as one operator: heads, head features, and the width of the values."""

from __future__ import annotations

import math
from typing import Any

from onnxprune.layout import Dim, LayoutError, concat, factor, find, prod, split
from onnxprune.ops.fused import KindView
from onnxprune.ops.records import Encoding, NodeShapes, Operand, Product, renumber
from onnxprune.ops.registry import MICROSOFT, Axes, Edits, New, Op, couple


def split_heads(op: Op, d: Dim, count: int) -> tuple[Dim, Dim]:
    """(h d) of an axis of h * d positions."""
    size = find(d).size
    if not isinstance(size, int) or size % count:
        raise LayoutError(f"an axis of {size} does not divide into {count} heads")
    return factor(d, size // count)


# Each query is multiplied with every key, each weight with every value: (queries + outputs) x keys, whatever is masked.


def _count_attention(node: NodeShapes) -> Any:
    """q [B, s, (h d)] or [B, h, s, d]; keys are the past ones [B, h, p, d] and the new ones."""
    keys = node.x(1)[-2] + (node.x(4)[2] if node.has(4) else 0)
    return (math.prod(node.x(0)) + math.prod(node.y())) * keys


def _count_multi_head(node: NodeShapes) -> Any:
    """q [B, s, (h d)]; k [B, t, (h d)], [B, h, t, d] or [B, t, h, 2, d]; or q, k, v in one [B, s, h, 3, d]."""
    q, past = node.x(0), node.x(6)[2] if node.has(6) else 0
    if len(q) == 5:
        return 2 * math.prod(node.y()) * (q[1] + past)
    k = node.x(1)
    return (math.prod(q) + math.prod(node.y())) * (k[2 if len(k) == 4 else 1] + past)


def _count_grouped(node: NodeShapes) -> Any:
    """Queries are as wide as outputs; keys are the past ones [B, kv, p, d] and the new ones."""
    keys = node.x(1 if node.has(1) else 0)[1] + (node.x(3)[2] if node.has(3) else 0)
    return 2 * math.prod(node.y()) * keys


def _count_packed(node: NodeShapes) -> Any:
    """The projection x [B, s, i] w [i, (h d) + (h d) + (h e)], then attention; the past is [2, B, h, p, d]."""
    x, (_, width), y = node.x(0), node.x(1), node.y()
    keys = x[1] + (node.x(4)[3] if node.has(4) else 0)
    queries = (width - y[2]) // 2
    return x[0] * x[1] * (x[2] * width + (queries + y[2]) * keys)


def _count_linear(node: NodeShapes) -> Any:
    """Every key is multiplied with its value, every query with the state [B, kv, d, e]; delta rules also read it with the key."""
    value = node.y(1)[3]
    reads = 2 if "delta" in node.attr("update_rule", "gated_delta") else 1
    return (reads * math.prod(node.x(1)) + math.prod(node.x(0))) * value


PACKED = Product("attention", _count_packed, lambda _: [Operand(1, inputs=(0,), outputs=(1,))], bias=2)
QPACKED = renumber(PACKED, (0, 1, 2, 5, 8), {1: Encoding(4, 7, axis=1)}, bias=2, read=Encoding(3, 6, axis=0))
LINEAR = Product("attention", _count_linear)


@couple("Attention", since=23, product=Product("attention", _count_attention))
def attention(op: Op) -> list[Axes | None]:
    """q [B, s, (kv r d)], k [B, t, (kv d)], v [B, t, (kv e)] -> y [B, s, (kv r e)]; or with heads as axis 1 of rank 4.

    The default scale 1/sqrt(d) is written out where d shrinks: it keeps its value.
    Source: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    q, k, v = op.x(0), op.x(1), op.x(2)
    if len(q) == 4:
        qh, kh, vh = q[1], k[1], v[1]
        qd, kd, e = q[3], k[3], v[3]
    else:
        nq, nkv = op.attr("q_num_heads"), op.attr("kv_num_heads")
        (qh, qd), (kh, kd), (vh, e) = split_heads(op, q[2], nq), split_heads(op, k[2], nkv), split_heads(op, v[2], nkv)
    op.tie(qd, kd)
    op.tie(kh, vh)
    ratio = _int(qh) // max(_int(kh), 1)
    kv, _ = factor(qh, ratio)
    op.tie(kv, kh)
    _weigh(op, kh, qd, e)
    for i in (4, 5):  # past key and value [B, kv, p, d]
        if op.has(i):
            op.tie(op.x(i)[1], kh)
            op.tie(op.x(i)[3], (kd, e)[i - 4])
    seq = 2 if len(q) == 4 else 1
    past = [op.x(i) for i in (4, 5) if op.has(i)]
    _freeze_tokens(op, *(t[seq] for t in (q, k, v)), *(t[2] for t in past))
    op.tie_column([t[0] for t in (q, k, v, *past)])
    if op.has(3):
        _mask(op, op.x(3), qh)
    if len(q) == 3:
        op.follow_attr("q_num_heads", qh)
        op.follow_attr("kv_num_heads", kh)
    y = [q[0], q[1], prod(qh, e)] if len(q) == 3 else [q[0], qh, q[2], e]
    shapes = [op.trace.shape(n) if n else None for n in op.node.output]
    present = [[k[0], kh, op.plain(s[2]), d] if s else None for s, d in zip(shapes[1:3], (kd, e), strict=False)]
    scores = [[q[0], qh, *(op.plain(n) for n in s[2:])] if s else None for s in shapes[3:4]]
    return [y, *present, *scores]


def _int(d: Dim) -> int:
    size = find(d).size
    if not isinstance(size, int):
        raise LayoutError("heads of dynamic number")
    return size


def _freeze_tokens(op: Op, *dims: Dim) -> None:
    for d in dims:
        op.freeze(d, f"the tokens of {op.type}")


def _mask(op: Op, mask: Axes, heads: Dim) -> None:
    """A mask or bias [.., heads or 1, s, t]: only its heads are channels."""
    for a, d in enumerate(mask):
        if a == len(mask) - 3 and find(d).size != 1:
            op.tie(d, heads)
        else:
            op.freeze(d, f"a mask of {op.type}")


def _name(op: Op, heads: Dim, *features: Dim) -> None:
    op.kind(heads, "heads")
    for d in features:
        op.kind(d, "head features")


def keep_scale(op: Op, name: str, d: Dim) -> None:
    """An absent scale means 1/sqrt(d): write the original's value out where d changes."""
    if op.attr(name) not in (None, 0.0):
        return

    def change(new: New, e: Edits) -> None:
        if new.changes(d):
            e.attrs[name] = float(_int(d)) ** -0.5

    op.edit(change)


@couple("MultiHeadAttention", domain=MICROSOFT, product=Product("attention", _count_multi_head, bias=3))
def multi_head_attention(op: Op) -> list[Axes | None]:
    """q [B, s, (h d)], k [B, t, (h d)], v [B, t, (h e)], bias [(h d) + (h d) + (h e)] -> y [B, s, (h e)].

    k and v may be [B, h, t, d], or k and v one tensor [B, t, h, 2, d], or all three [B, s, h, 3, d].
    Source: ONNX Runtime's ContribOperators.md
    """
    q, n = op.x(0), op.attr("num_heads")
    if len(q) == 5:
        heads = [(q[2], q[4])] * 3
        op.freeze(q[3], "queries, keys and values in one tensor")
    else:
        heads = [split_heads(op, q[2], n), *_keys_and_values(op, n)]
    (h, d), (kh, kd), (vh, e) = heads
    op.tie(d, kd)
    op.tie(h, kh)
    op.tie(h, vh)
    if op.has(3):
        op.tie(op.x(3)[0], concat(prod(h, d), prod(h, d), prod(h, e)))
        op.role(3, 0, "bias")
    sources = [op.x(i) for i in range(3) if op.has(i)]
    _freeze_tokens(op, *(t[2 if len(t) == 4 else 1] for t in sources))
    op.tie_column([t[0] for t in sources])
    if op.has(5):
        _mask(op, op.x(5), h)
    for i in (6, 7):
        if op.has(i):
            op.tie(d, e)  # one head size for both caches
            _past(op, i, h, d)
    _weigh(op, h, d, e)
    op.follow_attr("num_heads", h)
    return [[q[0], q[1], prod(h, e)], *_present(op, q[0], h, d, e)]


def _keys_and_values(op: Op, n: int) -> list[tuple[Dim, Dim]]:
    k = op.x(1)
    if len(k) == 5:
        op.freeze(k[3], "keys and values in one tensor")
        return [(k[2], k[4])] * 2
    v = op.x(2)
    if len(k) == 4:
        op.tie(k[3], v[3])
        return [(k[1], k[3]), (v[1], v[3])]
    return [split_heads(op, k[2], n), split_heads(op, v[2], n)]


def _past(op: Op, i: int, heads: Dim, features: Dim) -> None:
    """A cache [B, h, t, d]."""
    past = op.x(i)
    op.tie(past[1], heads)
    op.tie(past[3], features)
    _freeze_tokens(op, past[2])


def _present(op: Op, batch: Dim, heads: Dim, *features: Dim) -> list[Axes | None]:
    """The caches that come out [B, h, t, d]; how long they are the file may say."""
    names = op.node.output[1:3]
    return [
        [batch, heads, op.plain(op.out_size(j, 2)), d] if name else None
        for j, (name, d) in enumerate(zip(names, features, strict=False), 1)
    ]


def _weigh(op: Op, heads: Dim, d: Dim, e: Dim) -> None:
    """The rule for all forms of softmax(q k^T) v."""
    op.mix(d, "sums over it between two activations")
    _name(op, heads, d, e)
    keep_scale(op, "scale", d)


@couple("Attention", domain=MICROSOFT, product=PACKED)
def packed_attention(op: Op) -> list[Axes | None]:
    """x [B, s, i], w [i, (h d) + (h d) + (h e)], bias the same, past [2, B, h, t, d] -> y [B, s, (h e)].

    Source: ONNX Runtime's ContribOperators.md
    """
    x, w = op.x(0), op.x(1)
    n = op.attr("num_heads")
    widths = op.attr("qkv_hidden_sizes") or [_int(w[1]) // 3] * 3
    op.tie(x[2], w[0])
    q, rest = split(w[1], widths[0])
    k, v = split(rest, widths[1])
    (h, d), (kh, kd), (vh, e) = (split_heads(op, t, n) for t in (q, k, v))
    op.tie(d, kd)
    op.tie(h, kh)
    op.tie(h, vh)
    if op.has(2):
        op.tie(op.x(2)[0], concat(q, k, v))
        op.role(2, 0, "bias")
    if op.has(4):
        op.tie(d, e)
        op.tie(op.x(4)[2], h)
        op.tie(op.x(4)[4], d)
        _freeze_tokens(op, op.x(4)[0], op.x(4)[3])
    if op.attr("do_rotary", 0):
        op.freeze(d, "its place gives the rotation's angle")
    _freeze_tokens(op, x[1])
    if op.has(5):
        _mask(op, op.x(5), h)
    _weigh(op, h, d, e)
    op.follow_attr("num_heads", h)

    def change(new: New, edits: Edits) -> None:
        after = [new.size(t) for t in (q, k, v)]
        if after != widths:
            edits.attrs["qkv_hidden_sizes"] = after

    if op.type == "Attention":
        op.edit(change)
    total = op.trace.shape(op.node.output[1]) if len(op.node.output) > 1 else None
    return [[x[0], x[1], prod(h, e)], [op.plain(2), x[0], h, op.plain(total[3]), d] if total else None]


@couple("QAttention", domain=MICROSOFT, product=QPACKED)
def packed_integer_attention(op: Op) -> list[Axes | None]:
    """com.microsoft's Attention on integers; queries, keys and values keep one width, as no attribute gives three.

    Source: ONNX Runtime's ContribOperators.md
    """
    outs = KindView(op, "QAttention", (0, 1, 2, 5, 8), MICROSOFT).outputs_of(packed_attention)
    q, rest = split(op.x(1)[1], _int(op.x(1)[1]) // 3)
    n = _int(q) // op.attr("num_heads")
    op.tie(factor(q, n)[1], factor(split(rest, _int(q))[1], n)[1])
    for i in (4, 7):
        if op.has(i) and op.rank(i) and find(op.x(i)[0]).size != 1:
            op.tie(op.x(i)[0], op.x(1)[1])
            op.role(i, 0, "stat")
    return outs


@couple("GroupQueryAttention", domain=MICROSOFT, product=Product("attention", _count_grouped))
def group_query_attention(op: Op) -> list[Axes | None]:
    """q [B, s, (kv r d)], k, v [B, t, (kv d)], or all in one tensor [B, s, (kv r d) + (kv d) + (kv d)] -> y [B, s, (kv r d)].

    Kernels take head sizes in eights only, which go as a whole: d = (p 8), or (2 p 8) where halves are rotated.
    Source: ONNX Runtime's ContribOperators.md
    """
    x, n, nkv = op.x(0), op.attr("num_heads"), op.attr("kv_num_heads")
    if op.has(12) or op.has(13):
        raise LayoutError("a quantized cache")
    parts = [op.x(i)[2] for i in range(3) if op.has(i)]
    if len(parts) == 1:
        size = _int(x[2]) // (n + 2 * nkv)
        parts[:] = split(x[2], n * size)
        parts[1:] = split(parts[1], nkv * size)
    (qh, d), (kh, kd), (vh, e) = (split_heads(op, t, c) for t, c in zip(parts, (n, nkv, nkv), strict=True))
    op.tie(d, kd)
    op.tie(d, e)
    op.tie(kh, vh)
    op.tie(factor(qh, n // nkv)[0], kh)
    pairs = _rotate(op, d, 7, 8, op.attr("rotary_interleaved", 0)) if op.attr("do_rotary", 0) else d
    whole = pairs is d or 2 * _int(pairs) == _int(d)
    op.freeze(factor(pairs, 8)[1] if whole else d, "head sizes are multiples of 8")
    for i in (3, 4):
        if op.has(i):
            _past(op, i, kh, d)
    if op.has(10):
        _mask(op, op.x(10), qh)
    for i, t in ((11, qh), (14, d), (15, d)):
        if op.has(i):
            op.tie(op.x(i)[0], t)
            op.role(i, 0, "scale")
    sources = [op.x(i) for i in range(3) if op.has(i)]
    op.tie_column([t[0] for t in sources])
    _freeze_tokens(op, *(t[1] for t in sources))
    _weigh(op, qh, d, d)
    op.follow_attr("num_heads", qh)
    op.follow_attr("kv_num_heads", kh)
    return [[x[0], x[1], prod(qh, d)], *_present(op, x[0], kh, d, d)]


def _rotate(op: Op, d: Dim, cos: int, sin: int, interleaved: int) -> Dim:
    """Head features d = (2 p) + rest, or (p 2) + rest, rotated in pairs p with tables [.., p]; gives back p."""
    half = _int(op.x(cos)[-1])
    rotated, _ = split(d, 2 * half)
    outer, inner = factor(rotated, 2 if interleaved else half)
    pairs, two = (outer, inner) if interleaved else (inner, outer)
    op.freeze(two, "the two of a pair that is rotated")
    for i in (cos, sin):
        op.tie(op.x(i)[-1], pairs)
        op.role(i, op.rank(i) - 1, "stat")
        for t in op.x(i)[:-1]:
            op.freeze(t, f"the positions of {op.type}")
    return find(pairs)


@couple("RotaryEmbedding", since=23)
@couple("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: Op) -> list[Axes | None]:
    """x [B, h, s, d] or [B, s, (h d)], with d = (2 p) + rest, or (p 2) + rest where interleaved; tables of [.., p].

    Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
    """
    x, cos = op.x(0), 2 if op.domain == MICROSOFT else 1
    rotated = 2 * _int(op.x(cos)[-1])
    if len(x) == 4:
        h, d = x[1], x[3]
    else:
        h, d = split_heads(op, x[2], op.attr("num_heads", 0) or _int(x[2]) // rotated)
    _rotate(op, d, cos, cos + 1, op.attr("interleaved", 0))
    _freeze_tokens(op, x[2] if len(x) == 4 else x[1])
    _name(op, h, d)
    if op.attr("num_heads", 0):
        op.follow_attr("num_heads", h)
    if op.attr("rotary_embedding_dim", 0):
        op.follow_attr("rotary_embedding_dim", split(d, rotated)[0])
    return [list(x)]


@couple("LinearAttention", since=27, product=LINEAR)
@couple("LinearAttention", domain=MICROSOFT, product=LINEAR)
def linear_attention(op: Op) -> list[Axes | None]:
    """q [B, t, (kv r d)], k [B, t, (kv d)], v [B, t, (kv e)] -> y [B, t, (kv r e)], state [B, kv, d, e].

    More inputs are the state before, decay [B, t, (kv d) or kv] and beta [B, t, kv or 1].
    Source: https://onnx.ai/onnx/operators/onnx__LinearAttention.html
    """
    q, k, v = op.x(0), op.x(1), op.x(2)
    n, nkv = op.attr("q_num_heads"), op.attr("kv_num_heads")
    if n % nkv or op.attr("state_window", 0):
        raise LayoutError("fewer query heads than keys, or a window of states")
    (qh, d), (kh, kd), (vh, e) = split_heads(op, q[2], n), split_heads(op, k[2], nkv), split_heads(op, v[2], nkv)
    op.tie(d, kd)
    op.tie(kh, vh)
    op.tie(factor(qh, n // nkv)[0], kh)
    state = [q[0], kh, d, e]
    if op.has(3):
        state = [op.tie(a, b) for a, b in zip(state, op.x(3), strict=True)]
    for i in (4, 5):
        if op.has(i) and find(op.x(i)[2]).size != 1:
            op.tie(op.x(i)[2], kh if find(op.x(i)[2]).size == nkv else prod(kh, d))
    op.tie_column([q[0], k[0], v[0], *(op.x(i)[0] for i in (4, 5) if op.has(i))])
    _freeze_tokens(op, q[1], k[1], v[1], *(op.x(i)[1] for i in (4, 5) if op.has(i)))
    _weigh(op, qh, d, e)
    op.follow_attr("q_num_heads", qh)
    op.follow_attr("kv_num_heads", kh)
    return [[q[0], q[1], prod(qh, e)], state]
