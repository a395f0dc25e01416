"""Pooling, resizing and sampling: channels pass, spatial axes are new."""

from __future__ import annotations

from onnxprune.axes import Size, pair, size_of
from onnxprune.layout import find, fixed, is_frozen
from onnxprune.ops.chance import never
from onnxprune.ops.records import NodeFacts, Passes
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def _pass_average(node: NodeFacts) -> Passes:
    """A constant stays one where no padding is counted."""
    padded = any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counts = node.attr("count_include_pad", 0) and (padded or node.attr("ceil_mode", 0))
    return Passes.LINEAR if counts else Passes.ALL


def _pass_resize(node: NodeFacts) -> Passes:
    """A constant stays one where weights sum to 1 and nothing is made up beyond the edges."""
    beyond = node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return Passes.NOTHING if beyond else Passes.LINEAR if node.attr("mode", "nearest") == "cubic" else Passes.ALL


@couple("MaxPool", "GlobalMaxPool", passes=Passes.POSITIVE | Passes.SHIFT)
@couple("AveragePool", passes=_pass_average)
@couple("GlobalAveragePool", passes=Passes.ALL)
@couple("LpPool", "GlobalLpPool", passes=Passes.POSITIVE)
def pool(op: Op) -> list[Axes | None]:
    """x [N, c, *s] -> y [N, c, *s']. Positions that MaxPool returns as indices count channels: they freeze them."""
    x = op.x(0)
    y = [x[0], x[1], *(op.plain(s, "spatial axis") for s in op.out_shape()[2:])]
    for d in x[2:]:
        op.freeze(d, "pooled over")
    if len(op.node.output) > 1 and op.node.output[1]:
        op.freeze(x[1], "MaxPool's indices count its channels")
    return [y, list(y)]


@couple("Resize", "Upsample", passes=_pass_resize)
def resize(op: Op) -> list[Axes | None]:
    """Axes that keep their size keep their channels; the sizes input follows the plan.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    x, shape = op.x(0), op.out_shape()
    y: Axes = []
    for d, s in zip(x, shape, strict=True):
        if find(d).size == s:
            y.append(d)
        else:
            op.freeze(d, "resized along it")
            y.append(op.plain(s, "spatial axis"))
    if op.type == "Resize" and op.has(3) and op.trace.values(op.node.input[3]) is not None:
        axes = op.attr("axes") or range(len(x))
        op.follow_entries(3, [y[a] for a in axes])
    return [y]


@couple("GridSample")
@couple("GridSample", domain=MICROSOFT)
def grid_sample(op: Op) -> list[Axes | None]:
    """x [N, c, *s], grid [N, *t, d] -> y [N, c, *t]."""
    x, grid = op.x(0), op.x(1)
    op.tie(x[0], grid[0])
    for d in (*x[2:], *grid[1:]):
        op.freeze(d, "sampled over")
    return [[x[0], x[1], *(op.plain(find(d).size, "spatial axis") for d in grid[1:-1])]]


@couple("RoiAlign", "MaxRoiPool")
def roi(op: Op) -> list[Axes | None]:
    """x [N, c, h, w], rois [R, 4] -> y [R, c, h', w']."""
    x = op.x(0)
    for d in (x[0], *x[2:], *(d for i in range(1, len(op.layouts)) for d in op.x(i))):
        op.freeze(d, "regions are read from it")
    shape = op.out_shape()
    return [[op.plain(shape[0]), x[1], *(op.plain(s, "spatial axis") for s in shape[2:])]]


@couple("ReduceSum", by_chance=never, passes=Passes.LINEAR)
@couple("ReduceProd", by_chance=never)
@couple("ReduceMean", passes=Passes.ALL)
@couple("ReduceMax", "ReduceMin", passes=Passes.POSITIVE | Passes.SHIFT)
@couple("ReduceL1", "ReduceL2", passes=Passes.POSITIVE)
@couple("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
def reduce(op: Op) -> list[Axes | None]:
    """Reduced axes mix; they vanish or stay with size 1. A mean's count follows the axis by itself.

    Source: https://onnx.ai/onnx/operators/onnx__ReduceMean.html
    """
    x = op.x(0)
    axes = op.ints("axes", 1)
    if not axes:
        axes = [] if op.attr("noop_with_empty_axes", 0) else list(range(len(x)))
    gone = {a % len(x) for a in axes}
    for a in gone:
        op.mix(x[a], "reduces it")
    if op.attr("keepdims", 1):
        return [[op.plain(1) if a in gone else d for a, d in enumerate(x)]]
    return [[d for a, d in enumerate(x) if a not in gone]]


@couple("ArgMax", "ArgMin")
def arg(op: Op) -> list[Axes | None]:
    """The result counts positions: the axis is frozen."""
    x, axis = op.x(0), op.axis(0)
    op.freeze(x[axis], f"{op.type} counts its positions")
    middle = [op.plain(1)] if op.attr("keepdims", 1) else []
    return [[*x[:axis], *middle, *x[axis + 1 :]]]


@couple("TopK")
def top_k(op: Op) -> list[Axes | None]:
    """The result counts positions: the axis is frozen."""
    x, axis = op.x(0), op.axis(-1)
    op.freeze(x[axis], "TopK counts its positions")
    y = [*x[:axis], fixed(op.out_shape()[axis], find(x[axis]).reason), *x[axis + 1 :]]
    return [y, list(y)]


@couple("CumSum", "CumProd")
def cumulative(op: Op) -> list[Axes | None]:
    """Order matters along the axis: it is frozen."""
    x, axis = op.x(0), op.value(1)
    for a, d in enumerate(x):
        if (axis is None or a == int(axis.ravel()[0]) % len(x)) and not is_frozen(d):
            op.freeze(d, f"{op.type} runs along it, so order matters")
    return [list(x)]


@couple("Crop", until=9, any_opset=True)
def crop(op: Op) -> list[Axes | None]:
    """Borders (left, top, right, bottom) of an image are cut off; channels are left alone.

    An operator of before ONNX 1.0 that old converters write and ONNX Runtime still runs.
    """
    n, c, *image = op.x(0)
    left, top, right, bottom = op.attr("border")
    sizes: list[Size] = [*op.attr("scale", ())]
    for d, cut in zip(image, (top + bottom, left + right), strict=True):
        op.freeze(d, "cropped")
        if len(sizes) < 2:
            sizes.append(size_of(*(s - cut for s in pair(find(d).size))))
    return [[n, c, *(op.plain(s) for s in sizes)]]
