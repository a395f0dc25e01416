"""Convolutions and matrix products: where channels are consumed and made."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from onnxprune.axes import first
from onnxprune.layout import Dim, LayoutError, factor, find, freeze, is_frozen, prod
from onnxprune.ops.fused import KindView
from onnxprune.ops.records import Bounds, NodeFacts, NodeShapes, Operand, Passes, Plainer, Product
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def _count_convolution(node: NodeShapes) -> Any:
    """Every output sums over the inputs of its group and the kernel: y [N, (g o), *t], w [(g o), i, *k]."""
    return math.prod(node.y()) * math.prod(node.x(1)[1:])


def _read_convolution(node: NodeFacts) -> list[Operand]:
    kernel = tuple(range(2, node.rank(1)))
    return [Operand(1, inputs=(1,), outputs=(0,), kernel=kernel, groups=node.attr("group", 1))]


def _count_transposed(node: NodeShapes) -> Any:
    """Every input goes to the outputs of its group, at each kernel position: x [N, (g i), *s], w [(g i), o, *k]."""
    return math.prod(node.x(0)) * math.prod(node.x(1)[1:])


def _read_transposed(node: NodeFacts) -> list[Operand]:
    kernel = tuple(range(2, node.rank(1)))
    return [Operand(1, inputs=(0,), outputs=(1,), kernel=kernel, groups=node.attr("group", 1))]


CONVOLUTION = Product("convolution", _count_convolution, _read_convolution, bias=2)
CAUSAL = replace(CONVOLUTION, kind="causal convolution")
TRANSPOSED = Product("transposed convolution", _count_transposed, _read_transposed, bias=2)


def _read_activation(node: NodeFacts) -> Bounds | None:
    """Where the activation of a fused product cuts; None where there is none."""
    name, parameters = node.attr("activation", ""), node.attr("activation_params", [])
    if name == "Clip" and len(parameters) == 2:
        return parameters[0], parameters[1]
    return (0.0 if name == "Relu" else -math.inf, math.inf) if name else None


def freeze_window(op: Op, x: Axes, w: Axes) -> None:
    """Freeze what a convolution slides over, and its kernel; where one filter slides over channels they stay prunable."""
    for at, d in enumerate(x[2:], start=2):
        if _slides_over_neighbors(op, at, w):
            op.mix(d, "sums over neighboring channels", in_order=True)
        else:
            op.freeze(d, "a convolution slides over it")
    for d in w[2:]:
        freeze(d, op.reason("kernel position", structural=True))


def _slides_over_neighbors(op: Op, axis: int, w: Axes) -> bool:
    """Does a filter of one input and along one axis leave it as long as it is, whatever the length?

    So efficient channel attention weighs channels: by a convolution over them with padding to match (ECA-Net, Wang et al. 2020).
    """
    d = op.x(0)[axis]
    alone = all(find(k).size == 1 for at, k in enumerate(w) if at != axis)
    step = (op.attr("strides") or [1] * len(w))[axis - 2]
    return op.type == "Conv" and alone and step == 1 and not is_frozen(d) and op.out_shape()[axis] == find(d).size


def infer_spatial(op: Op) -> Axes:
    """The axes that come out: those that keep their channels as they are, the others new."""
    same = [at for at in range(2, op.rank()) if _slides_over_neighbors(op, at, op.x(1))]
    shape = op.out_shape()
    return [op.x(0)[at] if at in same else op.plain(shape[at], "spatial axis") for at in range(2, len(shape))]


@couple("Conv", product=CONVOLUTION)
@couple(
    "FusedConv", domain=MICROSOFT, product=CONVOLUTION, like=Plainer("Conv", (0, 1, 2)), residual=3, inside=_read_activation,
)  # fmt: skip
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
    freeze_window(op, x, w)
    _need_kernel(op, x[2:], w[2:])
    if not op.const(1) and not op.const(0):
        op.mix(w[1], "sums over it between two activations")
    op.kind(w[0], "filters" if _int(w[1]) > 1 or groups == 1 else "depthwise")
    return [x[0], find(w[0]), *infer_spatial(op)]


def _need_kernel(op: Op, x: Axes, kernel: Axes) -> None:
    """A kernel must fit into x and its padding; where less is missing than a stride, shape inference does not say so."""
    if op.attr("auto_pad", "NOTSET").startswith("SAME"):
        return
    pads, dilations = op.attr("pads", [0] * 2 * len(x)), op.attr("dilations", [1] * len(x))
    for a, (d, k) in enumerate(zip(x, kernel, strict=True)):
        op.need(d, dilations[a] * (first(find(k).size) - 1) + 1 - pads[a] - pads[a + len(x)])


def _groups(op: Op, d: Dim, size: int) -> tuple[Dim, Dim]:
    """(g c) with groups of `size` channels; frozen where those cut through its factors (a shuffle by another count)."""
    try:
        return factor(d, size)
    except LayoutError as e:
        op.freeze(d, f"groups cut through its channels: {e}")
        return factor(d, size)


@couple("CausalConvWithState", since=27, product=CAUSAL)
@couple("CausalConvWithState", domain=MICROSOFT, product=CAUSAL)
def causal_conv(op: Op) -> list[Axes | None]:
    """x [N, c, *s], w [c, 1, *k], b [c], state [N, c, p] -> y like x, state: each channel has its own kernel.

    Source: https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html
    """
    x, w = op.x(0), op.x(1)
    if op.attr("channels_last", 0) or op.attr("state_window", 0) or len(x) != 3:
        raise LayoutError("channels last, a window of states or more than one spatial axis")
    c = op.tie(x[1], w[0])
    freeze_window(op, x, w)
    op.kind(c, "filters")
    if op.has(2):
        op.tie(op.x(2)[0], c)
        op.role(2, 0, "bias")
    state = [x[0], c, op.plain((_int(w[2]) - 1) * op.attr("dilation", 1))]
    if op.has(3):
        op.tie(op.x(3)[1], c)
        op.freeze(op.x(3)[2], "a convolution slides over it")
    return [list(x), state]


@couple("DeformConv", product=replace(CONVOLUTION, kind="deformable convolution", bias=3))
def deform_conv(op: Op) -> list[Axes | None]:
    """Conv at offsets [N, (g k), *s] and with masks [N, (g k), *s]; each of the groups g of input channels has its own.

    Source: https://onnx.ai/onnx/operators/onnx__DeformConv.html
    """
    x, groups = op.x(0), op.attr("offset_group", 1)
    if groups > 1:
        op.freeze(factor(x[1], _int(x[1]) // groups)[0], "groups of channels with one offset")
    for d in (d for i in (2, 4) if op.has(i) for d in op.x(i)):
        op.freeze(d, "offsets and masks of kernel positions")
    return KindView(op, "Conv", [0, 1, *([3] if op.has(3) else [])]).outputs()


@couple("ConvTranspose", product=TRANSPOSED)
def conv_transpose(op: Op) -> list[Axes | None]:
    """x [N, (g i), *s], w [(g i), o, *k], b [(g o)] -> y [N, (g o), *s].

    Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    x, w = op.x(0), op.x(1)
    groups = op.attr("group", 1)
    op.tie(x[1], w[0])
    freeze_window(op, x, w)
    if not op.const(1) and not op.const(0):
        op.mix(w[0], "sums over it between two activations")
    if groups == 1:
        out = find(w[1])
    else:
        g, _ = _groups(op, w[0], _int(w[0]) // groups)
        out = prod(g, w[1])
        op.follow_attr("group", g)
    op.kind(out, "filters")
    if op.has(2):
        op.tie(op.x(2)[0], out)
        op.role(2, 0, "bias")
    return [[x[0], out, *infer_spatial(op)]]


def _sides(node: NodeFacts) -> tuple[int, int]:
    """The axes that are summed over, of either operand of a Gemm."""
    return (0 if node.attr("transA", 0) else 1), (1 if node.attr("transB", 0) else 0)


GEMM = Product(
    "matrix product",
    lambda node: math.prod(node.y()) * node.x(0)[_sides(node)[0]],
    lambda node: [Operand(i, inputs=(k,), outputs=(1 - k,)) for i, k in enumerate(_sides(node))],
    bias=2,
)


@couple("Gemm", product=GEMM)
@couple("FusedGemm", domain=MICROSOFT, product=GEMM, inside=_read_activation)
def gemm(op: Op) -> list[Axes | None]:
    """y [m, n] = a [m, k] b [k, n] + c, with either operand transposed.

    Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
    """
    a, b = op.x(0), op.x(1)
    ka, kb = _sides(op)
    m, n = a[1 - ka], b[1 - kb]
    contract(op, a[ka], b[kb])
    y = [m, find(n)]
    op.kind(n, "neurons")
    if op.has(2):
        op.role(2, 0, "bias")
        y = op.broadcast(y, op.x(2))
    return [y]


def order_axes(node: NodeFacts, i: int) -> list[int]:
    """The axes of an operand in the order [*batch, rows, columns]; FusedMatMul's attributes transpose it."""
    axes = list(range(node.rank(i)))
    if node.attr(f"transBatch{'AB'[i]}"):
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if node.attr(f"trans{'AB'[i]}") and len(axes) > 1:
        axes[-2:] = axes[:-3:-1]
    return axes


def _count_matmul(node: NodeShapes) -> Any:
    return math.prod(node.y()) * node.x(0)[order_axes(node, 0)[-1]]


def _read_matmul(node: NodeFacts) -> list[Operand]:
    a, b = order_axes(node, 0), order_axes(node, 1)
    return [
        Operand(0, inputs=(a[-1],), outputs=tuple(a[-2:-1]), batch=tuple(a[:-2])),
        Operand(1, inputs=(b[-2:][0],), outputs=tuple(b[1:][-1:]), batch=tuple(b[:-2])),
    ]


MATMUL = Product("matrix product", _count_matmul, _read_matmul)


@couple("MatMul", product=MATMUL, passes=Passes.EACH)
@couple("FusedMatMul", "TransposeMatMul", domain=MICROSOFT, product=MATMUL)
def matmul(op: Op) -> list[Axes | None]:
    """a [*b, m, k] @ b [*b, k, n] -> y [*b, m, n], NumPy's rules for vectors and batches.

    Source: https://onnx.ai/onnx/operators/onnx__MatMul.html
    """
    a, b = ([x[i] for i in order_axes(op, side)] for side, x in enumerate((op.x(0), op.x(1))))
    contract(op, a[-1], b[-2] if len(b) > 1 else b[0])
    batch = op.broadcast(a[:-2], b[:-2]) if len(a) > 2 or len(b) > 2 else []
    live = not op.const(0) and not op.const(1)
    if live:
        for d in batch:
            op.kind(d, "heads")
        op.kind(a[-1], "head features")
        op.kind(b[-1], "head features")
    elif len(b) > 1:
        op.kind(b[-1] if op.const(1) else a[-2] if len(a) > 1 else a[-1], "neurons")
    return [[*batch, *(a[-2:-1] if len(a) > 1 else []), *(b[-1:] if len(b) > 1 else [])]]


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


def read_equation(node: NodeFacts) -> tuple[list[str], str]:
    """The terms of the inputs and of the output of an Einsum."""
    equation = node.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
        right = ("..." if "..." in left else "") + right
    return left.split(","), right


def _place_letters(term: str, rank: int) -> dict[int, str]:
    """The axes that a term names, by axis; those of its ellipsis are not among them."""
    before, dots, after = term.partition("...")
    return dict(enumerate(before)) | ({rank - len(after) + i: c for i, c in enumerate(after)} if dots else {})


def _count_einsum(node: NodeShapes) -> Any:
    """One operand after the other is multiplied at each combination of all letters."""
    terms, _ = read_equation(node)
    sizes: dict[object, Any] = {}
    for i, term in enumerate(terms):
        shape = node.x(i)
        letters = _place_letters(term, len(shape))
        dots = [a for a in range(len(shape)) if a not in letters]
        names: dict[int, object] = {**letters, **{a: at - len(dots) for at, a in enumerate(dots)}}
        for axis, name in names.items():
            if sizes.get(name, 1) == 1:
                sizes[name] = shape[axis]
    return math.prod(sizes.values()) * (len(terms) - 1)


def _read_einsum(node: NodeFacts) -> list[Operand]:
    terms, right = read_equation(node)
    operands = []
    for i, term in enumerate(terms):
        letters = _place_letters(term, node.rank(i))
        outputs = tuple(a for a, c in letters.items() if c in right)
        operands.append(Operand(i, tuple(a for a in letters if a not in outputs), outputs))
    return operands


@couple("Einsum", product=Product("sum over letters", _count_einsum, _read_einsum))
def einsum(op: Op) -> list[Axes | None]:
    """Axes of one letter are tied; a letter that the output lacks is summed over.

    Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    terms, right = read_equation(op)
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
            raise LayoutError(f"a diagonal in '{op.attr('equation')}'")
        _einsum_term(op, term, axes, letters)
    batch = op.broadcast(*batches) if batches else []
    _einsum_mix(op, terms, letters, right)
    before, dots, after = right.partition("...")
    return [[letters[c] for c in before] + (batch if dots else []) + [letters[c] for c in after]]


def _einsum_term(op: Op, term: str, axes: Axes, letters: dict[str, Dim]) -> None:
    for c, d in zip(term, axes, strict=True):
        if c in letters and find(letters[c]).size != 1 and find(d).size != 1:
            op.tie(letters[c], d)
        elif c not in letters or find(letters[c]).size == 1:
            letters[c] = d


def _einsum_mix(op: Op, terms: list[str], letters: dict[str, Dim], right: str) -> None:
    for c, d in letters.items():
        if c not in right and not any(op.const(i) for i, t in enumerate(terms) if c in t):
            op.mix(d, "sums over it between activations")
        if c in right and not any(op.const(i) for i in range(len(terms))):
            op.kind(d, "heads" if sum(c in t for t in terms) > 1 else "head features")
        elif c in right:
            op.kind(d, "neurons")
