"""Reading and writing by indices that the data hold: indexed axes are frozen, the others keep their channels."""

from __future__ import annotations

from onnxprune.layout import LayoutError, factor, find, fixed, is_frozen
from onnxprune.ops.chance import by_index
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def _aligned(op: Op, axis: int, *tensors: Axes) -> Axes:
    """Tie the axes other than `axis` of tensors that are read position by position; freeze those of unequal size."""
    out: Axes = []
    for a, column in enumerate(zip(*tensors, strict=True)):
        if a != axis and all(find(d).size == find(column[0]).size for d in column):
            out.append(op.tie_column(list(column)))
            continue
        op.freeze_rows(column[0], f"{op.type} reads it by index")
        for d in column[1:]:
            op.freeze(d, f"{op.type} reads it by index")
        out.append(column[-1])
    return out


@couple("GatherElements", table=(0, 1), by_chance=by_index())
def gather_elements(op: Op) -> list[Axes | None]:
    """y[.., j, ..] = x[.., indices[.., j, ..], ..]: y has the indices' shape.

    Source: https://onnx.ai/onnx/operators/onnx__GatherElements.html
    """
    return [_aligned(op, op.axis(0), op.x(0), op.x(1))]


@couple("ScatterElements", "Scatter")
def scatter_elements(op: Op) -> list[Axes | None]:
    """A copy of x with updates written where the indices say; along the other axes positions correspond.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterElements.html
    """
    x = op.x(0)
    _aligned(op, op.axis(0), op.x(1), op.x(2), x)
    return [list(x)]


@couple("GatherND", by_chance=by_index())
def gather_nd(op: Op) -> list[Axes | None]:
    """y = indices' axes but the last + the axes of x that are not indexed.

    Source: https://onnx.ai/onnx/operators/onnx__GatherND.html
    """
    x, indices, batch = op.x(0), op.x(1), op.attr("batch_dims", 0)
    depth = find(indices[-1]).size
    if not isinstance(depth, int):
        raise LayoutError("indices of dynamic depth")
    for d in (*x[: batch + depth], *indices):
        op.freeze(d, "GatherND reads it by index")
    return [[*indices[:-1], *x[batch + depth :]]]


@couple("ScatterND")
def scatter_nd(op: Op) -> list[Axes | None]:
    """A copy of x with slices replaced; the axes of a slice are tied to those of the updates.

    Source: https://onnx.ai/onnx/operators/onnx__ScatterND.html
    """
    x, indices, updates = op.x(0), op.x(1), op.x(2)
    depth = find(indices[-1]).size
    if not isinstance(depth, int):
        raise LayoutError("indices of dynamic depth")
    rest = len(x) - depth
    for d in (*x[:depth], *indices, *updates[: len(updates) - rest]):
        op.freeze(d, "ScatterND writes to it by index")
    for a, b in zip(x[depth:], updates[len(updates) - rest :], strict=True):
        op.tie(b, a)
    return [list(x)]


@couple("TensorScatter")
def tensor_scatter(op: Op) -> list[Axes | None]:
    """A cache with updates written where the indices say along `axis`; the other axes are those of the updates.

    Source: https://onnx.ai/onnx/operators/onnx__TensorScatter.html
    """
    cache = op.x(0)
    _aligned(op, op.axis(-2), op.x(1), cache)
    return [list(cache)]


@couple("Trilu", "Det")
@couple("Trilu", "Inverse", domain=MICROSOFT)
def matrices(op: Op) -> list[Axes | None]:
    """A triangle, determinant or inverse of matrices, the last two axes, which are frozen."""
    x = op.x(0)
    for d in x[-2:]:
        op.freeze(d, f"{op.type} takes the last two axes as a matrix")
    return [x[:-2] if op.type == "Det" else list(x)]


@couple("DFT", since=17)
def dft(op: Op) -> list[Axes | None]:
    """Every frequency is a sum over all positions of the axis, which is frozen, as are real and imaginary parts.

    Source: https://onnx.ai/onnx/operators/onnx__DFT.html
    """
    x, shape = op.x(0), op.out_shape()
    axes = op.ints("axis", 2) if op.version >= 20 else [op.attr("axis", 1)]
    axis = (axes or [-2])[0] % len(x)
    for a in (axis, len(x) - 1):
        op.freeze(x[a], "DFT runs along it")
    return [[op.plain(shape[a]) if a in (axis, len(x) - 1) else d for a, d in enumerate(x)]]


@couple("OneHot")
def one_hot(op: Op) -> list[Axes | None]:
    """indices' axes with a frozen one of size depth put in at `axis`."""
    x = op.x(0)
    shape = op.out_shape()
    axis = op.axis(-1, rank=len(shape))
    new = fixed(shape[axis], op.reason("the classes of OneHot"))
    return [[*x[:axis], new, *x[axis:]]]


@couple("ReverseSequence")
def reverse_sequence(op: Op) -> list[Axes | None]:
    """Order matters along the time axis, which is frozen, as is the batch axis."""
    x = op.x(0)
    for a in (op.attr("batch_axis", 1), op.attr("time_axis", 0)):
        op.freeze(x[a], "ReverseSequence runs along it")
    return [list(x)]


@couple("Col2Im")
def col2im(op: Op) -> list[Axes | None]:
    """x [N, (c k), L] -> y [N, c, *s]; the block's positions k are frozen.

    Source: https://onnx.ai/onnx/operators/onnx__Col2Im.html
    """
    x, block = op.x(0), op.value(2)
    op.freeze(x[2], "Col2Im slides over it")
    if block is None or is_frozen(x[1]):
        op.freeze(x[1], "Col2Im with a block that the model computes")
        return [[x[0], *(op.plain(s) for s in op.out_shape()[1:])]]
    c, k = factor(x[1], int(block.prod()))
    op.freeze(k, "block position of Col2Im")
    return [[x[0], c, *(op.plain(s) for s in op.out_shape()[2:])]]
