"""Productions: convolutions, matrix products, residual blocks."""

from __future__ import annotations

from typing import Any

from fuzzing.pool import WIDTHS, Pool, Skip, Value, divisors, each, production, static
from fuzzing.weights import positive, weight
from onnxprune.axes import Size


def dense(p: Pool, v: Value, o: int, bias: bool | None = None) -> Value:
    """v [.., i] times a weight, in one of its spellings -> [.., o]."""
    i = v.shape[-1]
    if not static(i):
        raise Skip
    assert isinstance(i, int)
    shape, dice = (*v.shape[:-1], o), p.dice
    form = dice.pick("matmul", "matmul", "matmul", "gemm", "einsum", "rows")
    if form == "gemm" and v.rank == 2:
        return gemm(p, v, o)
    if form == "einsum" and p.net.opset >= 12:
        flip = dice.flag()
        w = weight(p, *((o, i) if flip else (i, o)))
        y = p.make("Einsum", [v, w], shape, v.rank - 1, equation="...i,oi->...o" if flip else "...i,io->...o")
    elif form == "rows" and v.rank == 3:
        rows = each(lambda a, b: a * b, *v.shape[:2])
        return p.reshape(gemm(p, p.reshape(v, (rows, i), 1), o), shape, 2, source=v)
    else:
        y = p.make("MatMul", [v, weight(p, i, o)], shape, v.rank - 1)
    return add_bias(p, y) if bias or (bias is None and dice.flag()) else y


def add_bias(p: Pool, y: Value) -> Value:
    o = y.shape[-1]
    assert isinstance(o, int)
    b = weight(p, *p.dice.pick((o,), (o,), (1, o)) if y.rank > 1 else (o,))
    return p.make("Add", (y, b) if p.dice.chance(0.7) else (b, y), y.shape, y.axis)


def gemm(p: Pool, v: Value, o: int) -> Value:
    dice, (n, i) = p.dice, v.shape
    tb, ta = dice.int(0, 1), dice.chance(0.2)
    x: str = p.net.op("Transpose", v, perm=[1, 0]) if ta else v
    bias = [weight(p, *dice.pick((o,), (o,), (1, o), (1,)))]
    if p.net.opset >= 11 and dice.chance(0.3):
        bias = []
    attrs: dict[str, Any] = {"alpha": 0.7} if dice.chance(0.2) else {}
    assert isinstance(i, int)
    w = weight(p, *((o, i) if tb else (i, o)))
    return p.make("Gemm", [x, w, *bias], (n, o), 1, transA=int(ta), transB=tb, **attrs)


def conv(p: Pool, v: Value, o: int, keep: bool = False, group: int | None = None) -> Value:
    """v [N, c, *s] -> [N, o, *s'], the pictures as large as before where `keep`."""
    c = v.shape[1]
    if v.rank not in (3, 4, 5) or not static(c):
        raise Skip
    assert isinstance(c, int)
    dice, rank = p.dice, v.rank - 2
    k = dice.pick(1, 1, 3, 3, 2) if not keep else dice.pick(1, 3)
    pad = k // 2 if keep or dice.chance(0.7) else 0
    stride = 1 if keep or dice.chance(0.8) else 2
    spread = dice.pick(1, 1, 1, 2) if k == 3 and pad else 1
    attrs: dict[str, Any] = {"pads": [pad * spread] * (2 * rank)}
    if stride > 1:
        attrs["strides"] = [stride] * rank
    if spread > 1:
        attrs["dilations"] = [spread] * rank
    if dice.chance(0.3):
        attrs["kernel_shape"] = [k] * rank
    g = group or choose_group(p, c, o)
    if g > 1 or dice.chance(0.1):
        attrs["group"] = g
    size = [each(lambda n: (n + 2 * pad * spread - spread * (k - 1) - 1) // stride + 1, s) for s in v.shape[2:]]
    bias = [weight(p, o)] if dice.flag() else []
    return p.make("Conv", [v, weight(p, o, c // g, *[k] * rank), *bias], (v.shape[0], o, *size), 1, **attrs)


def choose_group(p: Pool, c: int, o: int) -> int:
    common = [d for d in (*divisors(c), c) if o % d == 0 and c % d == 0]
    return int(p.dice.pick(*common)) if common and p.dice.chance(0.35) else 1


def project(p: Pool, v: Value, c: int) -> Value:
    """The same tensor with another number of channels."""
    if v.axis == 1 and v.rank >= 3 and (v.rank > 3 or p.dice.chance(0.8)) and v.rank <= 5:
        return conv(p, v, c, keep=True)
    if v.axis == v.rank - 1:
        return dense(p, v, c)
    if v.axis == v.rank - 2:
        return left(p, v, c)
    perm = [*(a for a in range(v.rank) if a != v.axis), v.axis]
    t = p.make("Transpose", [v], [v.shape[a] for a in perm], v.rank - 1, perm=perm)
    back = [perm.index(a) for a in range(v.rank)]
    y = dense(p, t, c)
    return p.make("Transpose", [y], [y.shape[a] for a in back], v.axis, perm=back)


def left(p: Pool, v: Value, o: int) -> Value:
    """A weight on the left: [o, i] times [.., i, n]."""
    i = v.shape[-2]
    if not static(i):
        raise Skip
    assert isinstance(i, int)
    return p.make("MatMul", [weight(p, o, i), v], (*v.shape[:-2], o, v.shape[-1]), v.rank - 2)


def maybe_relu(p: Pool, v: Value) -> Value:
    op = p.dice.pick("", "Relu", "Relu", "Tanh", "Sigmoid", "LeakyRelu")
    return p.like(op, v) if op else v


@production(6)
def dense_layer(p: Pool) -> None:
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[-1]))
    p.add(maybe_relu(p, dense(p, v, p.dice.pick(*WIDTHS))))


@production(6)
def conv_layer(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4, 5) and static(v.shape[1]))
    p.add(maybe_relu(p, conv(p, v, p.dice.pick(*WIDTHS))))


@production(2)
def depthwise(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4, 5) and static(v.shape[1], 2))
    c = v.shape[1]
    assert isinstance(c, int)
    p.add(conv(p, v, c * p.dice.pick(1, 1, 2), group=c))


@production(2)
def conv_transpose(p: Pool) -> None:
    v = p.draw(lambda v: v.rank in (3, 4) and static(v.shape[1]))
    c, rank = v.shape[1], v.rank - 2
    assert isinstance(c, int)
    g = p.dice.pick(1, 1, *divisors(c), c)
    o, k, s = p.dice.pick(1, 2, 3), p.dice.pick(2, 3), p.dice.pick(1, 2)
    pad = p.dice.pick(0, 1)
    size = [each(lambda n: (n - 1) * s + k - 2 * pad, n) for n in v.shape[2:]]
    bias = [weight(p, o * g)] if p.dice.flag() else []
    p.add(
        p.make("ConvTranspose", [v, weight(p, c, o, *[k] * rank), *bias], (v.shape[0], o * g, *size), 1,
               group=g, strides=[s] * rank, pads=[pad] * (2 * rank))
    )  # fmt: skip


@production(2)
def left_weight(p: Pool) -> None:
    p.add(left(p, p.draw(lambda v: v.rank >= 2 and static(v.shape[-2])), p.dice.pick(*WIDTHS)))


@production(4)
def residual(p: Pool) -> None:
    """x + f(x), with one or two layers in f."""
    v = p.with_channels()
    c = v.channels
    assert isinstance(c, int)
    y = v
    if p.dice.flag():
        y = maybe_relu(p, project(p, y, p.dice.pick(*WIDTHS)))
    y = project(p, y, c)
    if y.shape != v.shape:
        raise Skip
    p.add(maybe_relu(p, p.make("Add", p.dice.pick((v, y), (y, v)), v.shape, v.axis)))


@production(2)
def bottleneck(p: Pool) -> None:
    """A ResNet's block: 1x1, grouped 3x3, 1x1, each with its norm."""
    v = p.draw(lambda v: v.rank == 4 and v.axis == 1 and static(v.channels, 2))
    c, n = v.channels, p.dice.pick(4, 6, 8)
    assert isinstance(c, int)
    y = v
    for o, g in ((n, 1), (n, p.dice.pick(1, 2, n)), (c, 1)):
        y = conv(p, y, o, keep=True, group=g)
        if p.dice.flag():
            y = p.like("BatchNormalization", y, positive(p, o), weight(p, o), weight(p, o), positive(p, o))
        y = maybe_relu(p, y)
    p.add(p.like("Add", v, y))


@production(2)
def squeeze_and_excite(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4 and v.axis == 1 and static(v.channels, 2))
    c = v.channels
    assert isinstance(c, int)
    g = p.make("GlobalAveragePool", [v], (v.shape[0], c, 1, 1), 1)
    if p.dice.flag():
        g = conv(p, maybe_relu(p, conv(p, g, p.dice.pick(2, 3, 4), keep=True)), c, keep=True)
    else:
        g = p.reshape(g, (v.shape[0], c), 1)
        g = dense(p, maybe_relu(p, dense(p, g, p.dice.pick(2, 3, 4))), c)
        g = p.reshape(g, (v.shape[0], c, 1, 1), 1)
    p.add(p.like("Mul", v, p.like("Sigmoid", g)))


@production(2)
def product_of_activations(p: Pool) -> None:
    """x y^T or x^T y of two tensors (or of one with itself)."""
    v = p.draw(lambda v: v.rank >= 2 and all(n > 0 for n in v.shape if isinstance(n, int)))
    w = p.draw(lambda w: w.rank == v.rank and w.shape[:-1] == v.shape[:-1])
    flip = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
    if p.dice.flag():
        t = p.net.op("Transpose", v, perm=flip)
        y = p.make("MatMul", [t, w], (*v.shape[:-2], v.shape[-1], w.shape[-1]), v.rank - 1)
    elif v.shape[-1] == w.shape[-1]:
        t = p.net.op("Transpose", w, perm=flip)
        y = p.make("MatMul", [v, t], (*v.shape[:-1], w.shape[-2]), v.rank - 1)
    else:
        raise Skip
    p.add(p.like("Tanh", y))


@production(2, since=12)
def einsum_heads(p: Pool) -> None:
    """Into heads and back by a weight with an axis for each."""
    v = p.draw(lambda v: v.rank == 3 and static(v.shape[-1]))
    i, h, e = v.shape[-1], p.dice.pick(2, 3), p.dice.pick(2, 3, 4)
    assert isinstance(i, int)
    order = p.dice.pick("bthd", "bhtd")
    shape = (*v.shape[:2], h, e) if order == "bthd" else (v.shape[0], h, v.shape[1], e)
    y = p.add(p.make("Einsum", [v, weight(p, i, h, e)], shape, order.index("h"), equation=f"bti,ihd->{order}"))
    if p.dice.flag():
        o = p.dice.pick(*WIDTHS)
        p.add(p.make("Einsum", [y, weight(p, h, e, o)], (*v.shape[:2], o), 2, equation=f"{order},hdo->bto"))


@production(1, since=12)
def einsum_of_two(p: Pool) -> None:
    """A product of two activations over their tokens, features or neither."""
    v = p.draw(lambda v: v.rank == 3)
    w = p.draw(lambda w: w.rank == 3 and w.shape[0] == v.shape[0])
    options: list[tuple[str, tuple[Size, ...]]] = []
    if v.shape[1] == w.shape[1]:
        options.append(("bti,btj->bij", (v.shape[0], v.shape[2], w.shape[2])))
    if v.shape[2] == w.shape[2]:
        options.append(("bti,bsi->bts", (v.shape[0], v.shape[1], w.shape[1])))
        if v.shape[1] == w.shape[1]:
            options.append(("bti,bti->bit", (v.shape[0], v.shape[2], v.shape[1])))
            options.append(("bti,bti->bi", (v.shape[0], v.shape[2])))
    if not options:
        raise Skip
    equation, shape = p.dice.pick(*options)
    p.add(p.like("Tanh", p.make("Einsum", [v, w], shape, 1, equation=equation)))


@production(1, ms=True)
def fused_matmul(p: Pool) -> None:
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[-1]))
    i, o, flip = v.shape[-1], p.dice.pick(*WIDTHS), p.dice.int(0, 1)
    assert isinstance(i, int)
    w = weight(p, *((o, i) if flip else (i, o)))
    p.add(p.make("FusedMatMul", [v, w], (*v.shape[:-1], o), v.rank - 1, domain="com.microsoft", transB=flip, alpha=0.5))


@production(1, ms=True)
def fused_conv(p: Pool) -> None:
    v = p.draw(lambda v: v.rank == 4 and static(v.shape[1]))
    c, o = v.shape[1], p.dice.pick(*WIDTHS)
    assert isinstance(c, int)
    ins = [v, weight(p, o, c, 1, 1), weight(p, o)]
    if p.dice.flag():
        ins.append(conv(p, v, o, keep=True))
    p.add(
        p.make("FusedConv", ins, (v.shape[0], o, *v.shape[2:]), 1, domain="com.microsoft", activation="Relu", kernel_shape=[1, 1])
    )  # fmt: skip
