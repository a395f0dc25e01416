"""Convolutions and matrix products: where channels are consumed and made."""

from __future__ import annotations

from onnxprune.layout import Dim, LayoutError, factor, find, freeze, prod
from onnxprune.ops.fused import View
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def window(op: Op, x: Axes, w: Axes) -> None:
    """Freeze what a convolution slides over, and its kernel."""
    for d in x[2:]:
        op.freeze(d, "a convolution slides over it")
    for d in w[2:]:
        freeze(d, op.reason("kernel position", structural=True))


def spatial(op: Op) -> Axes:
    return [op.plain(s, "spatial axis") for s in op.out_shape()[2:]]


@couple("Conv")
@couple("FusedConv", domain=MICROSOFT)
def conv(op: Op) -> list[Axes | None]:
    """x [N, (g i), *s], w [(g o), i, *k], b [(g o)] -> y [N, (g o), *s]; attribute `group` is the size of g.

    Depthwise is i = 1, a multiplier is o > 1, an ordinary convolution is g = 1: one relation for all.
    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    y = convolve(op)
    if op.has(2):
        op.tie(op.x(2)[0], y[1])
        op.role(2, 0, "bias")
    if op.has(3):  # FusedConv: a residual input
        y = op.broadcast(y, op.x(3))
    return [y]


def convolve(op: Op) -> Axes:
    x, w = op.x(0), op.x(1)
    groups = op.attr("group", 1)
    if groups == 1:
        op.tie(x[1], w[1])
    else:
        (xg, xi), (wg, _) = _groups(op, x[1], _int(w[1])), _groups(op, w[0], _int(w[0]) // groups)
        op.tie(xg, wg)
        op.tie(xi, w[1])
        op.follow_attr("group", xg)
    window(op, x, w)
    if not op.const(1) and not op.const(0):
        op.mix(w[1], "sums over it between two activations")
    op.role(1, 0, "out")
    op.role(1, 1, "in")
    op.kind(w[0], "filters" if _int(w[1]) > 1 or groups == 1 else "depthwise")
    return [x[0], find(w[0]), *spatial(op)]


def _groups(op: Op, d: Dim, size: int) -> tuple[Dim, Dim]:
    """(g c) with groups of `size` channels; frozen where those cut through its factors (a shuffle by another count)."""
    try:
        return factor(d, size)
    except LayoutError as e:
        op.freeze(d, f"groups cut through its channels: {e}")
        return factor(d, size)


@couple("CausalConvWithState", since=27)
@couple("CausalConvWithState", domain=MICROSOFT)
def causal_conv(op: Op) -> list[Axes | None]:
    """x [N, c, *s], w [c, 1, *k], b [c], state [N, c, p] -> y like x, state: each channel has its own kernel.

    Source: https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html
    """
    x, w = op.x(0), op.x(1)
    if op.attr("channels_last", 0) or op.attr("state_window", 0) or len(x) != 3:
        raise LayoutError("channels last, a window of states or more than one spatial axis")
    c = op.tie(x[1], w[0])
    window(op, x, w)
    op.role(1, 0, "out")
    op.kind(c, "filters")
    if op.has(2):
        op.tie(op.x(2)[0], c)
        op.role(2, 0, "bias")
    state = [x[0], c, op.plain((_int(w[2]) - 1) * op.attr("dilation", 1))]
    if op.has(3):
        op.tie(op.x(3)[1], c)
        op.freeze(op.x(3)[2], "a convolution slides over it")
    return [list(x), state]


@couple("DeformConv")
def deform_conv(op: Op) -> list[Axes | None]:
    """Conv at offsets [N, (g k), *s] and with masks [N, (g k), *s]; each of the groups g of input channels has its own.

    Source: https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    x, groups = op.x(0), op.attr("offset_group", 1)
    if groups > 1:
        op.freeze(factor(x[1], _int(x[1]) // groups)[0], "groups of channels with one offset")
    for d in (d for i in (2, 4) if op.has(i) for d in op.x(i)):
        op.freeze(d, "offsets and masks of kernel positions")
    return View(op, "Conv", [0, 1, *([3] if op.has(3) else [])]).outputs()


@couple("ConvTranspose")
def conv_transpose(op: Op) -> list[Axes | None]:
    """x [N, (g i), *s], w [(g i), o, *k], b [(g o)] -> y [N, (g o), *s].

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    x, w = op.x(0), op.x(1)
    groups = op.attr("group", 1)
    op.tie(x[1], w[0])
    window(op, x, w)
    if not op.const(1) and not op.const(0):
        op.mix(w[0], "sums over it between two activations")
    if groups == 1:
        out = find(w[1])
    else:
        g, _ = _groups(op, w[0], _int(w[0]) // groups)
        out = prod(g, w[1])
        op.follow_attr("group", g)
    op.role(1, 0, "in")
    op.role(1, 1, "out")
    op.kind(out, "filters")
    if op.has(2):
        op.tie(op.x(2)[0], out)
        op.role(2, 0, "bias")
    return [[x[0], out, *spatial(op)]]


@couple("Gemm")
@couple("FusedGemm", domain=MICROSOFT)
def gemm(op: Op) -> list[Axes | None]:
    """y [m, n] = a [m, k] b [k, n] + c, with either operand transposed.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    a, b = op.x(0), op.x(1)
    ta, tb = (1 if op.attr(t, 0) else 0 for t in ("transA", "transB"))
    m, k1, k2, n = a[ta], a[1 - ta], b[tb], b[1 - tb]
    contract(op, k1, k2)
    op.role(0, 1 - ta, "in")
    op.role(0, ta, "out")
    op.role(1, tb, "in")
    op.role(1, 1 - tb, "out")
    y = [m, find(n)]
    op.kind(n, "neurons")
    if op.has(2):
        op.role(2, 0, "bias")
        y = op.broadcast(y, op.x(2))
    return [y]


@couple("MatMul")
@couple("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def matmul(op: Op) -> list[Axes | None]:
    """a [*b, m, k] @ b [*b, k, n] -> y [*b, m, n], NumPy's rules for vectors and batches.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    a, b = ([x[i] for i in _order(op, side)] for side, x in enumerate((op.x(0), op.x(1))))
    contract(op, a[-1], b[-2] if len(b) > 1 else b[0])
    batch = op.broadcast(a[:-2], b[:-2]) if len(a) > 2 or len(b) > 2 else []
    _matmul_roles(op)
    live = not op.const(0) and not op.const(1)
    if live:
        for d in batch:
            op.kind(d, "heads")
        op.kind(a[-1], "head features")
        op.kind(b[-1], "head features")
    elif len(b) > 1:
        op.kind(b[-1] if op.const(1) else a[-2] if len(a) > 1 else a[-1], "neurons")
    return [[*batch, *(a[-2:-1] if len(a) > 1 else []), *(b[-1:] if len(b) > 1 else [])]]


def _order(op: Op, i: int) -> list[int]:
    """The axes of an operand in the order [*batch, rows, columns]; FusedMatMul's attributes transpose it."""
    axes = list(range(op.rank(i)))
    if op.attr(f"transBatch{'AB'[i]}"):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if op.attr(f"trans{'AB'[i]}") and len(axes) > 1:
        axes[-2:] = axes[:-3:-1]
    return axes


def _matmul_roles(op: Op) -> None:
    for i, contracted in ((0, -1), (1, -2)):
        axes = _order(op, i)
        op.role(i, axes[contracted] if len(axes) > 1 else 0, "in")
        if len(axes) > 1:
            op.role(i, axes[-3 - contracted], "out")


def contract(op: Op, k1: Dim, k2: Dim) -> None:
    """Tie the axes of a sum of products. Between two activations no weight consumes the channels: approximate."""
    op.tie(k1, k2)
    if not op.const(0) and not op.const(1):
        op.mix(k1, "sums over it between two activations")


def _int(d: Dim) -> int:
    size = find(d).size
    if not isinstance(size, int):
        raise LayoutError("a weight of dynamic size")
    return size


@couple("Einsum")
def einsum(op: Op) -> list[Axes | None]:
    """Axes of one letter are tied; a letter that the output lacks is summed over.

    Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    equation = op.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
        right = ("..." if "..." in left else "") + right
    letters: dict[str, Dim] = {}
    batches: list[Axes] = []
    for i, term in enumerate(terms):
        axes = list(op.x(i))
        if "..." in term:
            before, after = term.split("...")
            batches.append(axes[len(before) : len(axes) - len(after)])
            axes = axes[: len(before)] + axes[len(axes) - len(after) :]
            term = before + after
        if len(set(term)) != len(term):
            raise LayoutError(f"a diagonal in '{equation}'")
        _einsum_term(op, i, term, axes, letters, right)
    batch = op.broadcast(*batches) if batches else []
    _einsum_mix(op, terms, letters, right)
    before, dots, after = right.partition("...")
    return [[letters[c] for c in before] + (batch if dots else []) + [letters[c] for c in after]]


def _einsum_term(op: Op, i: int, term: str, axes: Axes, letters: dict[str, Dim], right: str) -> None:
    for c, d in zip(term, axes, strict=True):
        if c in letters and find(letters[c]).size != 1 and find(d).size != 1:
            op.tie(letters[c], d)
        elif c not in letters or find(letters[c]).size == 1:
            letters[c] = d
    raw = op.attr("equation").replace(" ", "").partition("->")[0].split(",")[i]
    for at, c in enumerate(raw):
        if c != ".":
            axis = at if "." not in raw[:at] else op.rank(i) - (len(raw) - at)
            op.role(i, axis, "out" if c in right else "in")


def _einsum_mix(op: Op, terms: list[str], letters: dict[str, Dim], right: str) -> None:
    for c, d in letters.items():
        if c not in right and not any(op.const(i) for i, t in enumerate(terms) if c in t):
            op.mix(d, "sums over it between activations")
        if c in right and not any(op.const(i) for i in range(len(terms))):
            op.kind(d, "heads" if sum(c in t for t in terms) > 1 else "head features")
        elif c in right:
            op.kind(d, "neurons")
