"""Cutting, joining and growing axes: Gather, Concat, Split, Slice, Pad, Tile, Expand."""

from __future__ import annotations

import numpy as np

from onnxprune.axes import Size, pair, size_of
from onnxprune.layout import (
    Dim,
    LayoutError,
    concat,
    factor,
    find,
    fixed,
    freeze,
    fresh,
    is_frozen,
    pick,
    prod,
    split,
    var,
)
from onnxprune.ops.chance import by_index, never
from onnxprune.ops.records import NodeFacts, Passes
from onnxprune.ops.registry import Axes, Edits, New, Op, couple
from onnxprune.ops.shape import regroup


def take(op: Op, d: Dim, indices: np.ndarray, slot: int) -> Axes:
    """The axes of `take(x, indices)` along the static axis `d`; rewrites the indices in input `slot` when channels go."""
    n = find(d).size
    assert isinstance(n, int)
    if indices.dtype.kind not in "iu":
        raise LayoutError(f"indices of type {indices.dtype}")
    flat = indices.ravel() % n if n else indices.ravel()
    if np.any(indices >= n) or np.any(indices < -n):
        raise LayoutError(f"an index outside of an axis of {n}")
    out = pick(d, flat)
    if indices.ndim == 0:  # one position, whose axis is gone: nobody can own it any more
        freeze(out, op.reason("a single position is taken by a constant index"))

    def change(new: New, e: Edits) -> None:
        if new.moves(d):
            where = np.zeros(n, np.int64)
            stays = new.kept(d)
            where[stays] = np.arange(len(stays))
            moved = where[flat[new.kept(out)]]
            e.inputs[slot] = moved.astype(indices.dtype).reshape(-1 if indices.ndim else ())

    op.edit(change)
    return [out] if indices.ndim else []


@couple("Gather", table=(0, 1), takes=True, by_chance=by_index(), passes=Passes.ALL)
def gather(op: Op) -> list[Axes | None]:
    """y = take(x, indices, axis). Constant indices refine the axis; computed ones (an embedding) freeze it.

    Layout:  y = x[:axis] + indices' axes + x[axis + 1:]
    Source: https://onnx.ai/onnx/operators/onnx__Gather.html
    """
    x, axis = op.x(0), op.axis(0)
    d = x[axis]
    if not is_frozen(d) and _counts_up(op, d):
        return [_as_reshape(op, x, axis)]
    indices = op.value(1)
    if is_frozen(d) or indices is None or indices.ndim > 1 or not isinstance(find(d).size, int):
        what = "a row is looked up by an index that the data holds" if indices is None else "indexed as a table"
        op.freeze_rows(d, what)
        if op.const(0) and len(x) == 2:
            op.role(0, 1 - axis, "out")
            op.kind(x[1 - axis], "embedding")
        return [[*x[:axis], *op.x(1), *x[axis + 1 :]]]
    return [[*x[:axis], *take(op, d, indices, 1), *x[axis + 1 :]]]


def _counts_up(op: Op, d: Dim) -> bool:
    """Are the indices 0, 1, 2, .. over the whole axis, in any shape (how a strided view is exported)?"""
    both = op.trace.values(op.node.input[1])
    return both is not None and all(
        v.ndim != 1 and v.size == n and np.array_equal(v.ravel(), np.arange(n))
        for v, n in zip(both, pair(find(d).size), strict=True)
    )


def _as_reshape(op: Op, x: Axes, axis: int) -> Axes:
    """Such a Gather is a Reshape, and becomes one where channels go."""
    shape = op.out_shape()
    middle = regroup(op, [x[axis]], shape[axis : len(shape) - len(x) + axis + 1])
    y = [*x[:axis], *middle, *x[axis + 1 :]]
    if sum(not isinstance(find(d).size, int) for d in y) > 1:
        op.freeze(x[axis], "indexed as a table with several dynamic sizes")

    def change(new: New, e: Edits) -> None:
        if new.moves(x[axis]):
            e.reshape = [new.size(d) for d in y]

    op.edit(change)
    op.x(1)
    return y


@couple("Concat", by_chance=never, passes=Passes.ALL)
def concat_(op: Op) -> list[Axes | None]:
    """Lay the inputs' channels end to end along `axis`; tie the other axes one to one.

    Layout:  y[axis] = x_0[axis] + x_1[axis] + ..;  y[a] = x_i[a] for a != axis
    Source: https://onnx.ai/onnx/operators/onnx__Concat.html
    """
    axis = op.axis(1)
    xs = [op.x(i) for i in range(len(op.layouts))]
    y = [op.tie_column([x[a] for x in xs]) if a != axis else fixed(0) for a in range(len(xs[0]))]
    y[axis] = concat(*(x[axis] for x in xs))
    return [y]


@couple("Split", takes=True, by_chance=never, passes=Passes.ALL)
def split_(op: Op) -> list[Axes | None]:
    """Refine the axis into the outputs' parts; the sizes follow the plan.

    Source: https://onnx.ai/onnx/operators/onnx__Split.html
    """
    x, axis = op.x(0), op.axis(0)
    if is_frozen(x[axis]):
        return [_with(x, axis, fixed(op.out_shape(j)[axis], find(x[axis]).reason)) for j in range(len(op.node.output))]
    sizes = op.ints("split", 1)
    if sizes is None:
        sizes = [_static(op.out_shape(j)[axis]) for j in range(len(op.node.output))]
    parts, rest = [], x[axis]
    for s in sizes:
        part, rest = split(rest, s)
        parts.append(part)

    def change(new: New, e: Edits) -> None:
        if any(new.changes(p) for p in parts):
            after = [new.size(p) for p in parts]
            if op.version < 13:
                e.attrs["split"] = after
            else:
                e.attrs["num_outputs"] = None
                e.inputs[1] = np.array(after, np.int64)

    op.edit(change)
    return [_with(x, axis, p) for p in parts]


@couple("Slice", takes=True, by_chance=by_index(), passes=Passes.ALL)
def slice_(op: Op) -> list[Axes | None]:
    """Refine each sliced axis into before + kept + after; starts and ends follow the plan.

    A step above 1 keeps whole rows of `step` positions together; other steps freeze the axis.
    Source: https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    x = list(op.x(0))
    try:
        starts, ends, axes, steps = _slice_params(op, len(x))
    except LayoutError as e:
        return [_unknown_slice(op, x, str(e))]
    y = list(x)
    for i, axis in enumerate(axes):
        d, start, end = x[axis], starts[i], ends[i]
        n = find(d).size
        if not isinstance(start, int) or not isinstance(end, int):
            op.freeze(d, "sliced at a dynamic position")
            y[axis] = fixed(op.out_shape()[axis], find(d).reason)
            continue
        window = slice(start, end, steps[i])
        if not is_frozen(d):
            y[axis] = _cut(op, d, i, window)
            continue
        size = size_of(*(len(range(*window.indices(s))) for s in pair(n)))
        y[axis] = d if size == n else fixed(size, find(d).reason)
    return [y]


def _bounds(op: Op, name: str, i: int) -> list[Size]:
    """Starts or ends, each an int or a dynamic size."""
    both = op.trace.values(op.node.input[i]) if op.version >= 10 else None
    if both is not None:
        return [size_of(int(a), int(b)) for a, b in zip(both[0].ravel(), both[1].ravel(), strict=True)]
    return [*(op.ints(name, i) or [])]


def _slice_params(op: Op, rank: int) -> tuple[list[Size], list[Size], list[int], list[int]]:
    starts, ends = _bounds(op, "starts", 1), _bounds(op, "ends", 2)
    if len(starts) != len(ends):
        raise LayoutError("starts or ends are missing")
    axes = op.ints("axes", 3) or list(range(len(starts)))
    steps = op.ints("steps", 4) or [1] * len(starts)
    return starts, ends, [a % rank for a in axes], steps


def _unknown_slice(op: Op, x: Axes, why: str) -> Axes:
    """Bounds that the model computes: the axes they cut are frozen, the others keep their channels."""
    axes = op.ints("axes", 3)
    shape = op.out_shape()
    touched = range(len(x)) if axes is None else [a % len(x) for a in axes]
    y = list(x)
    for a in touched:
        op.freeze(x[a], why)
        y[a] = fixed(shape[a], find(x[a]).reason)
    return y


def _cut(op: Op, d: Dim, i: int, window: slice) -> Dim:
    n = _static(find(d).size)
    start, stop, step = window.indices(n)
    if step == 1:
        before, rest = split(d, start)
        kept, _ = split(rest, max(stop - start, 0))
    elif step > 1 and n % step == 0 and stop > n - step:
        before = fixed(0)
        kept, inner = factor(d, step)
        freeze(inner, op.reason(f"sliced with step {step}"))
        before, kept = split(kept, start // step)
    else:
        op.freeze(d, f"sliced with step {step}")
        return fixed(len(range(start, stop, step)), find(d).reason)

    def change(new: New, e: Edits) -> None:
        if not new.changes(d):
            return
        first = _static(new.size(before)) * step + start % step
        for slot, name, value in ((1, "starts", first), (2, "ends", first + _static(new.size(kept)) * step)):
            _set_entry(op, e, slot, name, i, min(value, _static(new.size(d))))

    op.edit(change)
    return kept


def _set_entry(op: Op, e: Edits, slot: int, name: str, i: int, value: int) -> None:
    if op.version < 10:
        e.attrs.setdefault(name, list(op.attr(name)))[i] = value
        return
    old = op.value(slot)
    if old is not None:
        e.inputs.setdefault(slot, np.array(old).copy())[i] = value
    else:
        e.entries.setdefault(slot, _bounds(op, name, slot))[i] = value


def _pass_padding(node: NodeFacts) -> Passes:
    """Zeros around it scale with it, its own edges move with it, too."""
    if node.attr("mode", "constant") != "constant":
        return Passes.ALL
    return Passes.NOTHING if node.has(2) or node.attr("value", 0.0) else Passes.LINEAR


@couple("Pad", passes=_pass_padding)
def pad(op: Op) -> list[Axes | None]:
    """Constant padding of a channel axis adds equal positions, free to follow what they meet; other modes freeze.

    Layout:  y[a] = p + x[a] + q, where the amounts of padding follow the sizes of p and q
    Source: https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    x = op.x(0)
    pads = op.ints("pads" if op.version >= 2 else "paddings", 1)
    assert pads is not None
    axes = op.ints("axes", 3) if op.version >= 18 else None
    axes = [a % len(x) for a in axes] if axes is not None else list(range(len(x)))
    y = list(x)
    shape = op.out_shape()
    added: list[Dim | None] = [None] * len(pads)
    for i, a in enumerate(axes):
        lo, hi = pads[i], pads[i + len(axes)]
        if not lo and not hi:
            continue
        if op.attr("mode", "constant") != "constant" or min(lo, hi) < 0 or is_frozen(x[a]):
            op.freeze(x[a], f"padded with mode {op.attr('mode', 'constant')}")
            y[a] = fixed(shape[a], find(x[a]).reason)
        else:
            added[i], added[i + len(axes)] = (var(n) if n else None for n in (lo, hi))
            y[a] = concat(*(d for d in (added[i], x[a], added[i + len(axes)]) if d is not None))
    _follow_pads(op, pads, added)
    return [y]


def _follow_pads(op: Op, pads: list[int], added: list[Dim | None]) -> None:
    if op.version >= 11:
        op.follow_entries(1, added)
        return

    def change(new: New, e: Edits) -> None:
        if any(d is not None and new.changes(d) for d in added):
            e.attrs["pads"] = [p if d is None else new.size(d) for p, d in zip(pads, added, strict=True)]

    op.edit(change)


@couple("CenterCropPad")
def center_crop_pad(op: Op) -> list[Axes | None]:
    """Axes that keep their size keep their channels, and the target follows them; the others are frozen.

    Source: https://onnx.ai/onnx/operators/onnx__CenterCropPad.html
    """
    x, shape = op.x(0), op.out_shape()
    axes = op.attr("axes") or range(len(x))
    known = op.trace.values(op.node.input[1]) is not None
    y = list(x)
    for a in (a % len(x) for a in axes):
        if find(x[a]).size != shape[a] or not known:
            op.freeze(x[a], "cropped or padded at both ends")
            y[a] = op.plain(shape[a])
    op.follow_entries(1, [y[a] for a in axes])
    return [y]


@couple("Tile", since=6, takes=True, by_chance=never, passes=Passes.ALL)
def tile(op: Op) -> list[Axes | None]:
    """Whole copies end to end: y[a] = (r x[a]); an axis of size 1 becomes r equal positions.

    Source: https://onnx.ai/onnx/operators/onnx__Tile.html
    """
    x, shape = op.x(0), op.out_shape()
    both = op.trace.values(op.node.input[1])
    if both is None:
        raise LayoutError("the repeats are computed while the model runs")
    y, follow = [], []
    for d, size, a, b in zip(x, shape, *both, strict=True):
        repeat = int(a) if a == b else None
        free = repeat is not None and repeat > 1 and find(d).size == 1
        out = fresh(size) if free else d if repeat == 1 else prod(op.plain(repeat or _ratio(size, d)), d)
        y.append(out)
        follow.append(out if free else None)
    op.follow_entries(1, follow)
    return [y]


def _ratio(size: Size, d: Dim) -> Size:
    return size_of(*(a // b for a, b in zip(pair(size), pair(find(d).size), strict=True)))


@couple("Expand", takes=True, by_chance=never, passes=Passes.ALL)
def expand(op: Op) -> list[Axes | None]:
    """Broadcast to a shape: an axis of size 1 becomes equal positions, free to follow what they meet.

    Source: https://onnx.ai/onnx/operators/onnx__Expand.html
    """
    x, shape = op.x(0), op.out_shape()
    lead = len(shape) - len(x)
    y, grown = [], []
    for a, size in enumerate(shape):
        d = x[a - lead] if a >= lead else None
        new = d is None or (find(d).size == 1 and size != 1)
        y.append(fresh(size, op.reason("expanded", True)) if new or d is None else d)
        grown.append(y[-1] if isinstance(size, int) and size > 1 else None)
    both = op.trace.values(op.node.input[1])
    count = both[0].size if both is not None else 0
    if both is None:
        for a, d in enumerate(y):
            if grown[a] is not None:
                op.freeze(d, "expanded to a shape that the model computes")
    else:
        op.follow_entries(1, grown[len(shape) - count :])
    return [y]


@couple("ConstantOfShape", by_chance=never)
def constant_of_shape(op: Op) -> list[Axes | None]:
    """Equal values everywhere: any axis of static size may follow what it meets.

    Source: https://onnx.ai/onnx/operators/onnx__ConstantOfShape.html
    """
    y = [fresh(s, op.reason("filled", True)) for s in op.out_shape()]
    if op.trace.values(op.node.input[0]) is None:
        for d in y:
            op.freeze(d, "a shape that the model computes")
    else:
        op.follow_entries(0, y)
    return [y]


def _with(x: Axes, axis: int, d: Dim) -> Axes:
    return [*x[:axis], d, *x[axis + 1 :]]


def _static(size: object) -> int:
    if not isinstance(size, int):
        raise LayoutError("a dynamic size where a static one is needed")
    return size
