"""Operators that only rearrange: Reshape and its kin, Transpose, depth and space."""

from __future__ import annotations

import numpy as np

from onnxprune.axes import Reason, Size, div, first, pair
from onnxprune.layout import Dim, LayoutError, alike, factor, find, fixed, freeze, is_frozen, leaves, prod
from onnxprune.ops.chance import never
from onnxprune.ops.records import PERMUTE, REGROUP, Passes
from onnxprune.ops.registry import Axes, Edits, New, Op, couple


def regroup(op: Op, x: Axes, shape: tuple[Size, ...]) -> Axes:
    """Row-major reshape: cut both shapes into the smallest runs of equal size, then factor each run.

    A run [768] -> [12, 64] refines the axis into (h d); [12, 64] -> [768] is their product.
    """
    if any(0 in pair(s) for s in shape):
        raise LayoutError("an empty tensor")
    if x and shape and _differ_first(x, shape):
        op.freeze(x[0], f"{op.type} takes its dynamic size for {shape[0]}")
        return [fixed(shape[0], op.reason("a batch or other dynamic axis")), *regroup(op, x[1:], shape[1:])]
    y: Axes = []
    ins, outs = [*reversed(x)], [*reversed(shape)]
    while ins or outs:
        run = [ins.pop()] if ins else []
        cut = [outs.pop()] if outs else []
        a: Size = find(run[0]).size if run else 1
        b: Size = cut[0] if cut else 1
        while a != b:
            if _less(a, b) and ins:
                run.append(ins.pop())
                a = a * find(run[-1]).size
            elif outs:
                cut.append(outs.pop())
                b = b * cut[-1]
            else:
                raise LayoutError("the sizes before and after do not match")
        y.extend(_refactor(op, run, cut))
    return y


def _differ_first(x: Axes, shape: tuple[Size, ...]) -> bool:
    """Do the axes agree but for the first, which is dynamic before and static after, or another dynamic size?"""
    rest = find(prod(*x[1:])).size == find(prod(*map(fixed, shape[1:]))).size
    return find(x[0]).size != shape[0] and rest and not isinstance(find(x[0]).size, int)


def _less(a: Size, b: Size) -> bool:
    return first(a) < first(b) or pair(a)[1] < pair(b)[1]


def _refactor(op: Op, run: Axes, outs: list[Size]) -> Axes:
    flat = prod(*run)
    if not outs:
        return []
    if len(outs) == 1:
        return [find(flat)] if find(flat).size == outs[0] else [_give_up(op, flat, outs[0])]
    y: Axes = []
    for k in range(len(outs) - 1, -1, -1):
        size = outs[k]
        try:
            if k == 0 and find(flat).size == size:
                y.append(find(flat))
                continue
            if size == 1:
                y.append(fixed(1))
                continue
            flat, inner = factor(flat, size)
            y.append(inner)
        except LayoutError:
            y.append(_give_up(op, flat, size))
            quotient = div(find(flat).size, size)
            flat = fixed(quotient if quotient is not None else 1, find(flat).reason)
    return y[::-1]


def _give_up(op: Op, flat: Dim, size: Size) -> Dim:
    why = op.reason(f"reshaped in a way that cuts through {find(flat)}")
    freeze(flat, why)
    return fixed(size, why)


@couple("Reshape", since=5, moves=REGROUP)
def reshape(op: Op) -> list[Axes | None]:
    """Refine or multiply axes so that both shapes read the same positions; the target follows the plan.

    Source: https://onnx.ai/onnx/operators/onnx__Reshape.html
    """
    x, shape = op.x(0), op.out_shape()
    if all(is_frozen(d) for d in x):
        return [[fixed(s, _reason(op, x)) for s in shape]]
    y = regroup(op, x, shape)
    both = op.trace.values(op.node.input[1])
    open_ended = [d for d in y if not isinstance(find(d).size, int) and leaves(d)]
    if len(open_ended) > 1 or (both is None and any(leaves(d) for d in y)):
        for d in y:
            op.freeze(d, "the target shape mixes several dynamic sizes with channels")
    elif both is not None:
        op.follow_entries(1, y, {} if op.attr("allowzero", 0) else _copied(op, x, y, list(both[0])))
    return [y]


def _copied(op: Op, x: Axes, y: Axes, target: list[int]) -> dict[int, Dim]:
    """The entries whose 0 a plan may have to write out: it copies a static size to an axis that holds other channels.

    A dynamic size has no number to write, so neither axis may change and the 0 stays.
    """
    others = [i for i, entry in enumerate(target) if entry == 0 and not alike(x[i], y[i])]
    for d in (d for i in others for d in (x[i], y[i]) if not isinstance(find(d).size, int)):
        op.freeze(d, "a 0 in the target copies the size of another dynamic axis")
    return {i: x[i] for i in others if isinstance(find(x[i]).size, int)}


def _reason(op: Op, x: Axes) -> Reason:
    for d in x:
        if find(d).kind == "fixed" and not find(d).reason.structural:
            return find(d).reason
    return op.reason("reshaped from axes that are not channels", True)


@couple("Reshape", until=4, moves=REGROUP)
def reshape_1(op: Op) -> list[Axes | None]:
    """Reshape with the target as an attribute (opset 1 to 4)."""
    x, shape = op.x(0), op.out_shape()
    y = regroup(op, x, shape)
    target = list(op.attr("shape"))
    copied = _copied(op, x, y, target)

    def change(new: New, e: Edits) -> None:
        if any(new.changes(d) for d in (*y, *copied.values())):
            e.attrs["shape"] = [
                new.size(d) if t > 0 or i in copied else t for i, (t, d) in enumerate(zip(target, y, strict=True))
            ]

    op.edit(change)
    return [y]


@couple("Flatten", moves=REGROUP)
def flatten(op: Op) -> list[Axes | None]:
    """[.., ..] -> [product of the axes before `axis`, product of the rest].

    Source: https://onnx.ai/onnx/operators/onnx__Flatten.html
    """
    x = op.x(0)
    axis = op.attr("axis", 1)
    axis = axis + len(x) if axis < 0 else axis
    return [[prod(*x[:axis]), prod(*x[axis:])]]


@couple("Squeeze", moves=REGROUP)
def squeeze(op: Op) -> list[Axes | None]:
    """Drop axes of size 1. Without `axes`, axes that a plan shrinks to 1 must stay: the axes are then written out.

    Source: https://onnx.ai/onnx/operators/onnx__Squeeze.html
    """
    x = op.x(0)
    axes = op.ints("axes", 1)
    implicit = axes is None
    gone = [a for a, d in enumerate(x) if find(d).size == 1] if axes is None else [a % len(x) for a in axes]
    for a in gone:
        op.freeze(x[a], "squeezed")

    def change(new: New, e: Edits) -> None:
        if any(new.size(d) == 1 for a, d in enumerate(x) if a not in gone):
            if op.version < 13:
                e.attrs["axes"] = gone
            else:
                e.inputs[1] = np.array(gone, np.int64)

    if implicit:
        op.edit(change)
    return [[d for a, d in enumerate(x) if a not in gone]]


@couple("Unsqueeze", moves=REGROUP)
def unsqueeze(op: Op) -> list[Axes | None]:
    """Insert axes of size 1.

    Source: https://onnx.ai/onnx/operators/onnx__Unsqueeze.html
    """
    axes = op.ints("axes", 1)
    assert axes is not None
    rank = op.rank() + len(axes)
    new = {a % rank for a in axes}
    rest = iter(op.x(0))
    return [[op.plain(1) if a in new else next(rest) for a in range(rank)]]


@couple("Transpose", moves=PERMUTE)
def transpose(op: Op) -> list[Axes | None]:
    """y's axis a is x's axis perm[a].

    Source: https://onnx.ai/onnx/operators/onnx__Transpose.html
    """
    x = op.x(0)
    perm = op.attr("perm") or list(range(len(x)))[::-1]
    return [[x[p] for p in perm]]


@couple("DepthToSpace", passes=Passes.ALL)
def depth_to_space(op: Op) -> list[Axes | None]:
    """x [N, (b b c), h, w] (DCR) or [N, (c b b), h, w] (CRD) -> y [N, c, h b, w b]; the block factor is frozen.

    Source: https://onnx.ai/onnx/operators/onnx__DepthToSpace.html
    """
    x = op.x(0)
    area = op.attr("blocksize") ** 2
    depth = find(x[1]).size
    if not isinstance(depth, int):
        raise LayoutError("channels of dynamic size")
    if op.attr("mode", "DCR") == "DCR":
        block, c = factor(x[1], depth // area)
    else:
        c, block = factor(x[1], area)
    op.freeze(block, "block factor of DepthToSpace")
    for d in x[2:]:
        op.freeze(d, "a spatial axis of DepthToSpace")
    return [[x[0], c, *(op.plain(s) for s in op.out_shape()[2:])]]


@couple("SpaceToDepth", passes=Passes.ALL)
def space_to_depth(op: Op) -> list[Axes | None]:
    """x [N, c, h, w] -> y [N, (b b c), h/b, w/b].

    Source: https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html
    """
    x = op.x(0)
    block = fixed(op.attr("blocksize") ** 2, op.reason("block factor of SpaceToDepth"))
    for d in x[2:]:
        op.freeze(d, "a spatial axis of SpaceToDepth")
    return [[x[0], prod(block, x[1]), *(op.plain(s) for s in op.out_shape()[2:])]]


@couple("Shape", "Size", reads_sizes=True)
def shape_(op: Op) -> list[Axes | None]:
    """Sizes are numbers, not channels: what is computed from them keeps its value or follows the plan where it is used."""
    op.x(0)
    return [[op.plain(s) for s in op.out_shape()]]


@couple("RandomNormal", "RandomUniform", random=True)
@couple("Range", by_chance=never)
@couple("EyeLike", "NonZero")
def make_tensor(op: Op) -> list[Axes | None]:
    """A tensor made from sizes; its axes are no channels, and what it reads is frozen."""
    for i in range(len(op.layouts)):
        for d in op.layouts[i] or ():
            op.freeze(d, f"{op.type} reads it")
    shape = op.trace.shape(op.node.output[0])
    return [None if shape is None else [op.plain(s) for s in shape]]
