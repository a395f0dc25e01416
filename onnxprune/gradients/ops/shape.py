"""Operators that move, cut and join elements, and those that make shapes and constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.ops.reduce import integers
from onnxprune.gradients.types import choose_carrier, to_tensor
from onnxprune.ops.records import MICROSOFT


@operator("Shape", sizes=True)
def shape_of(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


@operator("Size", sizes=True)
def size_of(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Reshape", host=(1,))
def reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target = integers(node, "shape", shape) or []
    if not node.allowzero:
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return x.reshape(target)


@operator("Flatten")
def flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.axis if node.axis >= 0 else node.axis + x.dim()
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.perm if node.perm is not None else tuple(reversed(range(x.dim()))))


@operator("Squeeze", host=(1,))
def squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = integers(node, "axes", axes)
    return x.squeeze() if dims is None else x.squeeze(tuple(dims))


@operator("Unsqueeze", host=(1,))
def unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = integers(node, "axes", axes) or []
    rank = x.dim() + len(dims)
    for d in sorted(d % rank for d in dims):
        x = x.unsqueeze(d)
    return x


@operator("Concat")
def concatenate(node: Node, *xs: Tensor) -> Tensor:
    return torch.cat(xs, node.get("axis", 1))


@operator("Split", host=(1,))
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """By sizes, or into as many parts as there are outputs, the last of which may be shorter."""
    given = integers(node, "split", sizes)
    if given is None:
        given = -(-x.shape[node.axis] // len(node.outputs))  # type: ignore[assignment, unused-ignore]
    return torch.split(x, given, node.axis)


@operator("Slice", until=9)
def slice_by_attributes(node: Node, x: Tensor) -> Tensor:
    axes = node.axes if node.axes is not None else range(len(node.starts))
    return _slice(x, node.starts, node.ends, axes, [1] * len(node.starts))


@operator("Slice", since=10, host=(1, 2, 3, 4))
def slice_by_inputs(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first = starts.tolist()
    return _slice(
        x, first, ends.tolist(), range(len(first)) if axes is None else axes.tolist(),
        [1] * len(first) if steps is None else steps.tolist(),
    )  # fmt: skip


def _slice(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    index = [slice(None)] * x.dim()
    backwards = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis % x.dim()
        first, last, step = slice(start, end, step).indices(x.shape[at])
        if step < 0:  # the same elements upwards, then turned around
            count = max(0, -(-(last - first) // step))
            first, last, step = first + (count - 1) * step, first + 1, -step
            first, last = (first, last) if count else (0, 0)
            backwards.append(at)
        index[at] = slice(first, last, step)
    y = x[tuple(index)]
    return y.flip(backwards) if backwards else y


@operator("Expand", host=(1,))
def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """To a shape that x broadcasts to; where it has a 1, x keeps its size."""
    target = shape.tolist()
    target = [1] * (x.dim() - len(target)) + target
    more = len(target) - x.dim()
    return x.expand([x.shape[i - more] if n == 1 and i >= more else n for i, n in enumerate(target)])


@operator("Tile", host=(1,))
def tile(node: Node, x: Tensor, repeats: Tensor, axis: Tensor | None = None) -> Tensor:
    if axis is not None:  # opset 1: how often, along which axis
        times = [1] * x.dim()
        times[int(axis.item())] = int(repeats.item())
        return x.repeat(times)
    return x.repeat(repeats.tolist())


@operator("Pad", host=(1, 2, 3))
def pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Pads [begin of each axis, end of each axis]; negative ones cut."""
    name = "paddings" if node.version < 2 else "pads"
    amounts = integers(node, name, pads) or []
    dims = [a % x.dim() for a in axes.tolist()] if axes is not None else list(range(x.dim()))
    sides = {d: (amounts[i], amounts[i + len(dims)]) for i, d in enumerate(dims)}
    if node.mode != "constant":
        for d, (before, after) in sides.items():
            if before or after:
                x = _pad_by_index(x, d, before, after, node.mode)
        return x
    fill = (value.item() if value.numel() else 0) if value is not None else node.get("value", 0)
    flat = [n for d in reversed(range(x.dim())) for n in sides.get(d, (0, 0))]
    while flat[-2:] == [0, 0]:
        del flat[-2:]
    if x.dtype == torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=int(fill)).to(torch.bool)
    return F.pad(x, flat, value=fill) if flat else x


def _pad_by_index(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    n = x.shape[axis]
    at = torch.arange(-before, n + after)
    if mode == "edge":
        at = at.clamp(0, n - 1)
    elif mode == "wrap":
        at = at % n
    else:  # reflect: 2 1 | 0 1 2 | 1 0, again and again
        at = at % max(2 * n - 2, 1)
        at = torch.where(at >= n, 2 * n - 2 - at, at)
    return x.index_select(axis, at.to(x.device))


@operator("Crop")
def crop(node: Node, x: Tensor) -> Tensor:
    """`border` [left, top, right, bottom], or left and top with the size in `scale`."""
    left, top, right, bottom = node.border
    if node.scale:
        return x[..., top : top + node.scale[0], left : left + node.scale[1]]
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operator("CenterCropPad", host=(1,))
def center_crop_pad(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    axes = node.axes if node.axes is not None else range(x.dim())
    for axis, size in zip(axes, shape.tolist(), strict=True):
        d, n = axis % x.dim(), x.shape[axis]
        if n > size:
            x = x.narrow(d, (n - size) // 2, size)
        elif n < size:
            before = (size - n) // 2
            x = F.pad(x, [*[0, 0] * (x.dim() - 1 - d), before, size - n - before])
    return x


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node.blocksize
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = node.blocksize
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = x.reshape(n, c, h // b, b, w // b, b).permute(order)
    return y.reshape(n, c * b**2, h // b, w // b)


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    if node.value is None:
        return torch.zeros(shape.tolist(), dtype=node.state.dtype)
    from onnx import numpy_helper

    value = to_tensor(numpy_helper.to_array(node.value), node.state)
    return torch.full(shape.tolist(), value.item(), dtype=value.dtype)


@operator("Range", host=(0, 1, 2))
def count_up(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    size = max(math.ceil((last - first) / step), 0)
    return (
        first + step * torch.arange(size, dtype=start.dtype)
        if start.is_floating_point()
        else (torch.arange(size, dtype=start.dtype) * step + first)
    )


@operator("EyeLike")
def eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = choose_carrier(node.dtype, node.state) if node.dtype is not None else x.dtype
    return torch.ones(x.shape, dtype=torch.float64).tril(node.k).triu(node.k).to(device=x.device, dtype=dtype)


@operator("OneHot", host=(1,))
def one_hot(node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """Indices outside [-depth, depth - 1] give rows of off values."""
    n = int(depth.item())
    at = indices.to(torch.int64)
    at = torch.where(at < 0, at + n, at)
    axis = node.axis if node.axis >= 0 else node.axis + indices.dim() + 1
    classes = torch.arange(n, device=at.device).reshape(-1, *[1] * (indices.dim() - axis))
    return torch.where(at.unsqueeze(axis) == classes, values[1], values[0])


@operator("Trilu", host=(1,))
@operator("Trilu", domain=MICROSOFT, host=(1,))
def triangle(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("ReverseSequence", host=(1,))
def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first `lengths[b]` steps of sample b turned around."""
    y = x.movedim((node.batch_axis, node.time_axis), (0, 1))
    rows = [torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(y, lengths.tolist(), strict=True)]
    return torch.stack(rows).movedim((0, 1), (node.batch_axis, node.time_axis))
