"""Attention as one operator: heads, head features, and the width of the values."""

from __future__ import annotations

from onnxprune.layout import Dim, LayoutError, concat, factor, find, prod, split
from onnxprune.ops.registry import MICROSOFT, Axes, Edits, New, Op, couple


def heads_of(op: Op, d: Dim, count: int) -> tuple[Dim, Dim]:
    """(h d) of an axis of h * d positions."""
    size = find(d).size
    if not isinstance(size, int) or size % count:
        raise LayoutError(f"an axis of {size} does not divide into {count} heads")
    return factor(d, size // count)


@couple("Attention", since=23)
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
        (qh, qd), (kh, kd), (vh, e) = heads_of(op, q[2], nq), heads_of(op, k[2], nkv), heads_of(op, v[2], nkv)
    op.tie(qd, kd)
    op.tie(kh, vh)
    ratio = _int(qh) // max(_int(kh), 1)
    kv, _ = factor(qh, ratio)
    op.tie(kv, kh)
    op.mix(qd, "sums over it between two activations")
    _name(op, kh, qd, e)
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
    keep_scale(op, "scale", qd)
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


@couple("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: Op) -> list[Axes | None]:
    """q [B, s, (h d)], k [B, t, (h d)], v [B, t, (h e)], bias [(h d) + (h d) + (h e)] -> y [B, s, (h e)].

    Packed forms (qkv in one tensor) freeze. Source: ONNX Runtime's ContribOperators.md
    """
    if not op.has(1) or not op.has(2) or len(op.x(0)) != 3 or len(op.x(1)) != 3:
        raise LayoutError("packed or transposed queries, keys and values")
    q, k, v = op.x(0), op.x(1), op.x(2)
    n = op.attr("num_heads")
    (h, d), (kh, kd), (vh, e) = (heads_of(op, t[2], n) for t in (q, k, v))
    op.tie(d, kd)
    op.tie(h, kh)
    op.tie(h, vh)
    if op.has(3):
        op.tie(op.x(3)[0], concat(q[2], k[2], v[2]))
        op.role(3, 0, "bias")
    _freeze_tokens(op, q[1], k[1], v[1])
    op.tie_column([q[0], k[0], v[0]])
    if op.has(5):
        _mask(op, op.x(5), h)
    for i in (6, 7):
        if op.has(i):
            op.tie(op.x(i)[1], h)
            op.tie(op.x(i)[3], (kd, e)[i - 6])
            _freeze_tokens(op, op.x(i)[2])
    op.mix(d, "sums over it between two activations")
    _name(op, h, d, e)
    op.follow_attr("num_heads", h)
    keep_scale(op, "scale", d)
    total = op.trace.shape(op.node.output[1]) if len(op.node.output) > 1 and op.node.output[1] else None
    present = [[q[0], h, op.plain(total[2]), t] if total else None for t in (d, e)]
    return [[q[0], q[1], prod(h, e)], *present]


@couple("Attention", domain=MICROSOFT)
def packed_attention(op: Op) -> list[Axes | None]:
    """x [B, s, i], w [i, (h d) + (h d) + (h e)], bias the same -> y [B, s, (h e)].

    Source: ONNX Runtime's ContribOperators.md
    """
    if op.attr("do_rotary", 0):
        raise LayoutError("rotary embedding pairs head features")
    x, w = op.x(0), op.x(1)
    n = op.attr("num_heads")
    widths = op.attr("qkv_hidden_sizes") or [_int(w[1]) // 3] * 3
    op.tie(x[2], w[0])
    q, rest = split(w[1], widths[0])
    k, v = split(rest, widths[1])
    (h, d), (kh, kd), (vh, e) = (heads_of(op, t, n) for t in (q, k, v))
    op.tie(d, kd)
    op.tie(h, kh)
    op.tie(h, vh)
    op.role(1, 0, "in")
    op.role(1, 1, "out")
    if op.has(2):
        op.tie(op.x(2)[0], concat(q, k, v))
        op.role(2, 0, "bias")
    if op.has(4):
        raise LayoutError("a packed past state")
    _freeze_tokens(op, x[1])
    if op.has(5):
        _mask(op, op.x(5), h)
    op.mix(d, "sums over it between two activations")
    _name(op, h, d, e)
    op.follow_attr("num_heads", h)
    keep_scale(op, "scale", d)

    def change(new: New, edits: Edits) -> None:
        after = [new.size(t) for t in (q, k, v)]
        if after != widths:
            edits.attrs["qkv_hidden_sizes"] = after

    op.edit(change)
    return [[x[0], x[1], prod(h, e)]]
