"""Convolutions and matrix products: where channels are consumed and made."""

from __future__ import annotations

from onnxprune.layout import Dim, LayoutError, factor, find, freeze, prod
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def window(op: Op, x: Axes, w: Axes) -> None:
    """Freeze what a convolution slides over, and its kernel."""
    for d in x[2:]:
        op.freeze(d, "a convolution slides over it")
    for d in w[2:]:
        freeze(d, op.reason("kernel position", structural=True))


def spatial(op: Op) -> Axes:
    return [op.plain(s, "spatial axis") for s in op.out_shape()[2:]]


@couple("Conv", "ConvInteger")
@couple("FusedConv", domain=MICROSOFT)
def conv(op: Op) -> list[Axes | None]:
    """x [N, (g i), *s], w [(g o), i, *k], b [(g o)] -> y [N, (g o), *s]; attribute `group` is the size of g.

    Depthwise is i = 1, a multiplier is o > 1, an ordinary convolution is g = 1: one relation for all.
    Source: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    y = convolve(op, 1)
    if op.type == "ConvInteger":
        per_channel(op, 3, op.x(1)[0])
        return [y]
    if op.has(2):
        op.tie(op.x(2)[0], y[1])
        op.role(2, 0, "bias")
    if op.has(3):  # FusedConv: a residual input
        y = op.broadcast(y, op.x(3))
    return [y]


@couple("QLinearConv")
def qlinear_conv(op: Op) -> list[Axes | None]:
    """Conv on integers; the weight's scale and zero point follow its filters where there is one for each.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearConv.html
    """
    y = convolve(op, 3)
    for i in (4, 5):
        per_channel(op, i, y[1])
    if op.has(8):
        op.tie(op.x(8)[0], y[1])
        op.role(8, 0, "bias")
    return [y]


def per_channel(op: Op, i: int, d: Dim) -> None:
    """Tie a scale or zero point to the channels that it belongs to; one for the whole tensor is left alone."""
    if op.has(i) and op.rank(i) == 1 and find(op.x(i)[0]).size != 1:
        op.tie(op.x(i)[0], d)
        op.role(i, 0, "stat")


def convolve(op: Op, slot: int) -> Axes:
    """The layout of a convolution whose weight is input `slot`."""
    x, w = op.x(0), op.x(slot)
    groups = op.attr("group", 1)
    if groups == 1:
        op.tie(x[1], w[1])
    else:
        (xg, xi), (wg, _) = factor(x[1], _int(w[1])), factor(w[0], _int(w[0]) // groups)
        op.tie(xg, wg)
        op.tie(xi, w[1])
        op.follow_attr("group", xg)
    window(op, x, w)
    if not op.const(slot) and not op.const(0):
        op.mix(w[1], "sums over it between two activations")
    op.role(slot, 0, "out")
    op.role(slot, 1, "in")
    op.kind(w[0], "filters" if _int(w[1]) > 1 or groups == 1 else "depthwise")
    return [x[0], find(w[0]), *spatial(op)]


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
        g, _ = factor(w[0], _int(w[0]) // groups)
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


@couple("MatMulInteger")
def matmul_integer(op: Op) -> list[Axes | None]:
    """MatMul on integers; zero points of rows or columns follow them.

    Source: https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
    """
    a, b = op.x(0), op.x(1)
    y = product(op, a, b)
    _columns(op, b, 3)
    return [y]


@couple("QLinearMatMul")
def qlinear_matmul(op: Op) -> list[Axes | None]:
    """MatMul on integers with scales; those of columns follow them.

    Source: https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html
    """
    a, b = op.x(0), op.x(3)
    y = product(op, a, b, 3)
    _columns(op, b, 4, 5)
    return [y]


def _columns(op: Op, b: Axes, *slots: int) -> None:
    """Scales and zero points of the right operand: one, one a column, or a row of columns for each matrix of a batch."""
    for i in slots:
        if op.has(i) and op.rank(i) > 1:
            op.broadcast([*b[:-2], op.plain(1), b[-1]], op.x(i))
        else:
            per_channel(op, i, b[-1])


@couple("MatMul")
@couple("FusedMatMul", domain=MICROSOFT)
def matmul(op: Op) -> list[Axes | None]:
    """a [*b, m, k] @ b [*b, k, n] -> y [*b, m, n], NumPy's rules for vectors and batches.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    if op.attr("transBatchA") or op.attr("transBatchB"):
        raise LayoutError("transBatchA/B is not supported")
    a, b = list(op.x(0)), list(op.x(1))
    if op.attr("transA") and len(a) > 1:
        a[-1], a[-2] = a[-2], a[-1]
    if op.attr("transB") and len(b) > 1:
        b[-1], b[-2] = b[-2], b[-1]
    return [product(op, a, b)]


def product(op: Op, a: Axes, b: Axes, right: int = 1) -> Axes:
    """The layout of a matrix product of inputs 0 and `right`; names the parts for criteria and reports."""
    contract(op, a[-1], b[-2] if len(b) > 1 else b[0], right)
    batch = op.broadcast(a[:-2], b[:-2]) if len(a) > 2 or len(b) > 2 else []
    _matmul_roles(op, right)
    live = not op.const(0) and not op.const(right)
    if live:
        for d in batch:
            op.kind(d, "heads")
        op.kind(a[-1], "head features")
        op.kind(b[-1], "head features")
    elif len(b) > 1:
        op.kind(b[-1] if op.const(right) else a[-2] if len(a) > 1 else a[-1], "neurons")
    return [*batch, *(a[-2:-1] if len(a) > 1 else []), *(b[-1:] if len(b) > 1 else [])]


def _matmul_roles(op: Op, right: int) -> None:
    for i, contracted, made in ((0, -1, -2), (right, -2, -1)):
        rank = op.rank(i)
        if rank < 2:
            op.role(i, 0, "in")
            continue
        if op.attr("transA" if i == 0 else "transB"):
            contracted, made = made, contracted
        op.role(i, rank + contracted, "in")
        op.role(i, rank + made, "out")


def contract(op: Op, k1: Dim, k2: Dim, right: int = 1) -> None:
    """Tie the axes of a sum of products. Between two activations no weight consumes the channels: approximate."""
    op.tie(k1, k2)
    if not op.const(0) and not op.const(right):
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
