"""Pooling: torch's kernels where windows lie as torch wants them, else a pass along each axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.ops.convolution import flat_pads, ones, window_pads
from onnxprune.ops.records import MICROSOFT

MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


def _overhang(size: int, k: int, stride: int, dilation: int, begin: int, end: int, ceil: bool) -> int:
    """How far the last window of a rounded-up count reaches beyond the padded axis; it must begin before its padded end."""
    whole = size + begin + end - dilation * (k - 1) - 1
    steps = -(-whole // stride) if ceil else whole // stride
    if ceil and steps * stride >= size + begin:
        steps -= 1
    return max(steps * stride - whole, 0)


def _window(node: Node, x: Tensor) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, pads, and what the last windows of each axis hang over."""
    kernel = list(node.kernel_shape)
    n = len(kernel)
    strides, dilations = ones(node.strides, n), ones(node.dilations, n)
    pads = window_pads(node, x.shape[2:], kernel, strides, dilations)
    over = [
        _overhang(x.shape[2 + i], kernel[i], strides[i], dilations[i], pads[i], pads[n + i], bool(node.ceil_mode))
        for i in range(n)
    ]
    return kernel, strides, dilations, pads, over


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Any:
    if not x.is_floating_point():
        y = max_pool(node, x.to(torch.float64))
        return (y[0].to(x.dtype), y[1]) if isinstance(y, tuple) else y.to(x.dtype)
    kernel, strides, dilations, pads, over = _window(node, x)
    n, begin = len(kernel), pads[: len(kernel)]
    fits = begin == pads[n:] and not any(over) and all(2 * p <= k for p, k in zip(begin, kernel, strict=True))
    if len(node.outputs) < 2 and fits:
        return MAX_POOL[n](x, kernel, strides, begin, dilations)
    end = [p + o for p, o in zip(pads[n:], over, strict=True)]
    wide = F.pad(x, flat_pads([*begin, *end]), value=float("-inf"))
    if len(node.outputs) < 2:
        return MAX_POOL[n](wide, kernel, strides, 0, dilations)
    y, at = MAX_POOL[n](wide, kernel, strides, 0, dilations, return_indices=True)
    return y, _flat_indices(at, wide.shape[2:], x.shape, begin, bool(node.storage_order))


def _flat_indices(
    at: Tensor, wide: Sequence[int], shape: Sequence[int], begin: Sequence[int], by_column: bool
) -> Tensor:
    """Positions in a padded picture as positions in the whole tensor."""
    places: list[Tensor] = []
    for i in reversed(range(len(wide))):
        places.insert(0, at % wide[i] - begin[i])
        at = at // wide[i]
    order = range(len(wide)) if not by_column else reversed(range(len(wide)))
    flat, size = torch.zeros_like(at), 1
    for i in order:
        flat = flat * shape[2 + i] + places[i]
    for n in shape[2:]:
        size *= n
    planes = torch.arange(shape[0] * shape[1], device=at.device).reshape(*shape[:2], *[1] * len(wide))
    return flat + planes * size


@operator("NhwcMaxPool", domain=MICROSOFT)
def max_pool_nhwc(node: Node, x: Tensor) -> Tensor:
    return max_pool(node, x.movedim(-1, 1)).movedim(1, -1)


def slide(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The sum over each window, axis after axis."""
    for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis = 2 + i
        reach = x.shape[axis] - d * (k - 1)
        parts = [x.narrow(axis, j * d, reach) for j in range(k)]
        every = [slice(None)] * axis + [slice(None, None, s)]
        x = sum((p[tuple(every)] for p in parts[1:]), parts[0][tuple(every)])
    return x


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads, over = _window(node, x)
    n = len(kernel)
    begin, end = pads[:n], pads[n:]
    plain = begin == end and not any(over) and set(dilations) <= {1} and n in AVERAGE_POOL
    if plain and all(2 * p <= k for p, k in zip(begin, kernel, strict=True)):
        return AVERAGE_POOL[n](x, kernel, strides, begin, count_include_pad=bool(node.count_include_pad))
    far = [p + o for p, o in zip(end, over, strict=True)]
    total = slide(F.pad(x, flat_pads([*begin, *far])), kernel, strides, dilations)
    count = x.new_ones(1, 1, *x.shape[2:])
    if node.count_include_pad:  # what is padded counts, what hangs over does not
        count = F.pad(F.pad(count, flat_pads(pads), value=1), flat_pads([*[0] * n, *over]))
    else:
        count = F.pad(count, flat_pads([*begin, *far]))
    return total / slide(count, kernel, strides, dilations)


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads, over = _window(node, x)
    n, p = len(kernel), int(node.p)
    far = [e + o for e, o in zip(pads[n:], over, strict=True)]
    powers = F.pad(x.abs() ** p, flat_pads([*pads[:n], *far]))
    return slide(powers, kernel, strides, dilations) ** (1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@operator("GlobalAveragePool")
def global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, node.p, _spatial(x), keepdim=True)


@operator("MaxUnpool", host=(2,))
def max_unpool(node: Node, x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
    """Each entry goes back to its place in the whole tensor, with zeros elsewhere."""
    n = len(node.kernel_shape)
    strides = ones(node.strides, n)
    pads = list(node.pads) if node.pads is not None else [0] * (2 * n)
    sizes = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[n + i] + node.kernel_shape[i] for i in range(n)]
    smaller = [*x.shape[:2], *sizes]
    count = 1
    for s in smaller:
        count *= s
    flat = x.new_zeros(count).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(smaller)
    if shape is None:
        return flat
    return F.pad(flat, flat_pads([*[0] * n, *(w - s for w, s in zip(shape.tolist()[2:], sizes, strict=True))]))


@operator("LRN")
def local_response(node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of squares over `size` neighboring channels) ** beta"""
    before = (node.size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), [before, node.size - 1 - before])
    total = squares.unfold(-1, node.size, 1).sum(-1).movedim(-1, 1)
    return x / (node.bias + node.alpha / node.size * total) ** node.beta
