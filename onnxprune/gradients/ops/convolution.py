"""Convolutions, and how their windows lie on an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.ops.elementwise import activation
from onnxprune.ops.records import MICROSOFT

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The pads [begin of each axis, end of each axis] of a sliding window, from `pads` or `auto_pad`."""
    n, auto = len(kernel), node.auto_pad or "NOTSET"
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list(node.pads) if node.pads is not None and auto == "NOTSET" else [0] * (2 * n)
    begin, end = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if auto == "SAME_UPPER" else more)
        end.append(more if auto == "SAME_UPPER" else less)
    return begin + end


def flat_pads(pads: Sequence[int]) -> list[int]:
    """Pads in torch's order: begin and end of the last axis first."""
    n = len(pads) // 2
    return [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]


def ones(value: Any, n: int) -> list[int]:
    """Strides or dilations, which default to 1."""
    return list(value) if value is not None else [1] * n


def convolve(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """A convolution by the attributes of a node, of its operands as numbers with a point."""
    n = w.dim() - 2
    strides, dilations = ones(node.strides, n), ones(node.dilations, n)
    pads = window_pads(node, x.shape[2:], w.shape[2:], strides, dilations)
    if pads[:n] != pads[n:] or min(pads, default=0) < 0:
        x, pads = F.pad(x, flat_pads(pads)), [0] * n
    return CONVOLVE[n](x, w, b, strides, pads[:n], dilations, node.get("group", 1))


@operator("Conv", filters=(1,))
def convolution(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return convolve(node, x, w, b)


@operator("FusedConv", domain=MICROSOFT, filters=(1,))
def fused_convolution(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """activation(conv(x) + z)"""
    y = convolve(node, x, w, b)
    return activation(node.get("activation", ""), node.activation_params)(y if z is None else y + z)


@operator("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def convolution_nhwc(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    y = convolve(node, x.movedim(-1, 1), w, b).movedim(1, -1)
    return activation(node.get("activation", ""), node.activation_params)(y if z is None else y + z)


@operator("ConvTranspose", filters=(1,))
def convolution_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """The whole output, then cut by the pads; `output_padding` adds positions at the end."""
    n = w.dim() - 2
    strides, dilations = ones(node.strides, n), ones(node.dilations, n)
    extra = list(node.output_padding) if node.output_padding is not None else [0] * n
    pads = _transposed_pads(node, x.shape[2:], w.shape[2:], strides, dilations, extra)
    group = node.get("group", 1)
    plain = pads[:n] == pads[n:] and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if plain and min(pads, default=0) >= 0:
        return TRANSPOSED[n](x, w, b, strides, pads[:n], extra, group, dilations)
    y = TRANSPOSED[n](x, w, None, strides, 0, 0, group, dilations)
    y = F.pad(y, flat_pads([*(-p for p in pads[:n]), *(e - p for e, p in zip(extra, pads[n:], strict=True))]))
    return y if b is None else y + b.reshape(-1, *[1] * n)


def _transposed_pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    extra: Sequence[int],
) -> list[int]:  # fmt: skip
    auto, n = node.auto_pad or "NOTSET", len(kernel)
    wanted = node.output_shape
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list(node.pads) if node.pads is not None and auto == "NOTSET" else [0] * (2 * n)
    wanted = [s * i for s, i in zip(strides, sizes, strict=True)] if wanted is None else list(wanted)[-n:]
    begin, end = [], []
    for size, k, s, d, e, out in zip(sizes, kernel, strides, dilations, extra, wanted, strict=True):
        total = s * (size - 1) + e + (k - 1) * d + 1 - out
        less, more = total // 2, total - total // 2
        begin.append(less if auto == "SAME_UPPER" else more)
        end.append(more if auto == "SAME_UPPER" else less)
    return begin + end


@operator("CausalConvWithState", domain=MICROSOFT)
@operator("CausalConvWithState")
def causal_convolution(
    node: Node, x: Tensor, w: Tensor, b: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A depthwise convolution over time that begins with the last inputs of the call before; x [N, c, T], w [c, 1, k]."""
    k = w.shape[-1]
    past = state if state is not None else x.new_zeros(*x.shape[:2], k - 1)
    whole = torch.cat([past, x], -1)
    y = F.conv1d(whole, w, b, groups=w.shape[0])
    name = node.get("activation", "none").lower()
    y = F.silu(y) if name in ("silu", "swish") else y
    return y, whole[..., whole.shape[-1] - (k - 1) :]


@operator("DeformConv")
def deformable_convolution(
    node: Node, x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Each kernel position reads where its offset says, by bilinear interpolation with zeros outside.

    x [N, C, h, w], w [O, C/g, kh, kw], offset [N, og * kh * kw * 2, oh, ow], mask [N, og * kh * kw, oh, ow]
    """
    (n, c), (oh, ow) = x.shape[:2], offset.shape[2:]
    kh, kw = w.shape[2:]
    strides, dilations = ones(node.strides, 2), ones(node.dilations, 2)
    pads = list(node.pads) if node.pads is not None else [0] * 4
    groups, k = node.get("offset_group", 1), kh * kw
    shift = offset.reshape(n, groups, k, 2, oh, ow)
    base_y = torch.arange(oh, device=x.device).reshape(-1, 1) * strides[0] - pads[0]
    base_x = torch.arange(ow, device=x.device).reshape(1, -1) * strides[1] - pads[1]
    rows = torch.arange(kh, device=x.device).repeat_interleave(kw).reshape(k, 1, 1) * dilations[0]
    columns = torch.arange(kw, device=x.device).repeat(kh).reshape(k, 1, 1) * dilations[1]
    ys, xs = shift[:, :, :, 0] + base_y + rows, shift[:, :, :, 1] + base_x + columns
    h, width = x.shape[2:]
    grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / h - 1], -1).reshape(n * groups, k * oh, ow, 2)
    taken = F.grid_sample(x.reshape(n * groups, c // groups, h, width), grid, align_corners=False)
    taken = taken.reshape(n, groups, c // groups, k, oh, ow)
    if mask is not None:
        taken = taken * mask.reshape(n, groups, 1, k, oh, ow)
    g = node.get("group", 1)
    parts = taken.reshape(n, g, c // g, k, oh, ow)
    kernel = w.reshape(g, w.shape[0] // g, w.shape[1], k)
    y = torch.einsum("ngckhw,gock->ngohw", parts, kernel).reshape(n, w.shape[0], oh, ow)
    return y if b is None else y + b.reshape(-1, 1, 1)


@operator("Col2Im", host=(1, 2))
def col2im(node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Add up overlapping blocks: x [N, c * prod(block), L] -> y [N, c, *image], by the gradient of taking blocks."""
    sizes, kernel = image.tolist(), block.tolist()
    n = len(sizes)
    strides, dilations = ones(node.strides, n), ones(node.dilations, n)
    pads = list(node.pads) if node.pads is not None else [0] * (2 * n)
    k = block.prod().item()
    counts = [
        (s + pads[i] + pads[n + i] - d * (q - 1) - 1) // t + 1
        for i, (s, q, t, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True))
    ]
    y = x.reshape(x.shape[0] * (x.shape[1] // int(k)), int(k), *counts)
    unit = torch.eye(int(k), dtype=x.dtype, device=x.device).reshape(int(k), 1, *kernel)
    full = TRANSPOSED[n](y, unit, None, strides, 0, 0, 1, dilations)
    cut = [*(-p for p in pads[:n]), *(sizes[i] + pads[i] - full.shape[2 + i] for i in range(n))]
    full = F.pad(full, flat_pads(cut))
    return full.reshape(x.shape[0], -1, *sizes)
