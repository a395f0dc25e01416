"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.ops.records import MICROSOFT


def _column(v: Tensor, rank: int) -> Tensor:
    """A vector that lies along axis 1."""
    return v.reshape(-1, *[1] * (rank - 2))


@operator("BatchNormalization", "SpatialBN")
def batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
    """With the statistics that it carries, or (training_mode) with those of its input, which it then hands on.

    torch's own kernel has no gradient for statistics that the graph computes: then the formula is written out.
    """
    epsilon = node.get("epsilon", 1e-5)
    if node.training_mode:
        dims = [0, *range(2, x.dim())]
        now, spread = x.mean(dims), x.var(dims, unbiased=False)
        y = _scaled(x, scale, bias, now, spread, epsilon)
        old = node.momentum
        return (y, mean * old + now * (1 - old), var * old + spread * (1 - old))[: len(node.outputs)]
    if node.version < 9 and node.get("spatial", 1) == 0:
        return (x - mean) / torch.sqrt(var + epsilon) * scale + bias
    if mean.requires_grad or var.requires_grad or x.dim() < 2:
        return _scaled(x, scale, bias, mean, var, epsilon)
    return F.batch_norm(x, mean.to(x.dtype), var.to(x.dtype), scale.to(x.dtype), bias.to(x.dtype), False, 0.0, epsilon)


def _scaled(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, epsilon: float) -> Tensor:
    factor = scale * torch.rsqrt(var + epsilon)
    shift = bias - mean * factor
    if x.dim() < 2:
        return x * factor + shift
    return x * _column(factor, x.dim()) + _column(shift, x.dim())


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if x[0, 0].numel() > 1:
        return F.instance_norm(x, weight=scale, bias=bias, eps=node.epsilon)
    return torch.zeros_like(x) * x.detach() + _column(bias, x.dim())


@operator("GroupNormalization")
def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias for each channel, or for each group below opset 21."""
    c, g = x.shape[1], node.num_groups
    if len(scale) != c:
        scale, bias = scale.repeat_interleave(c // g), bias.repeat_interleave(c // g)
    return F.group_norm(x, g, scale, bias, node.epsilon)


@operator("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm_nhwc(
    node: Node, x: Tensor, gamma: Tensor, beta: Tensor, skip: Tensor | None = None, bias: Tensor | None = None
) -> Any:
    if skip is not None:
        x = x + (skip[:, None, None] if skip.dim() == 2 else skip)
    total = x if bias is None else x + bias
    last = node.get("channels_last", 1)
    y = total.movedim(-1, 1) if last else total
    y = F.group_norm(y, node.groups, gamma, beta, node.get("epsilon", 1e-5))
    y = F.silu(y) if node.activation else y
    return (y.movedim(1, -1) if last else y, total)[: len(node.outputs)]


@operator("LayerNormalization")
def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    """The mean and 1 / standard deviation are further outputs."""
    axis = node.axis % x.dim()
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = F.layer_norm(x, shape, scale, bias, node.epsilon)
    else:
        y = F.layer_norm(x, shape, eps=node.epsilon) * scale
        y = y if bias is None else y + bias
    if len(node.outputs) == 1:
        return y
    dims = list(range(axis, x.dim()))
    mean = x.mean(dims, keepdim=True)
    return y, mean, torch.rsqrt(x.var(dims, unbiased=False, keepdim=True) + node.epsilon)


def rms(x: Tensor, dims: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """x over its root mean square, and 1 over that."""
    inverse = torch.rsqrt((x * x).mean(tuple(dims), keepdim=True) + epsilon)
    return x * inverse, inverse


@operator("SimplifiedLayerNormalization", "RMSNormalization")
@operator("SimplifiedLayerNormalization", domain=MICROSOFT)
def rms_norm(node: Node, x: Tensor, scale: Tensor) -> Any:
    axis = node.get("axis", -1) % x.dim()
    y, inverse = rms(x, range(axis, x.dim()), node.get("epsilon", 1e-5))
    return (y * scale, inverse)[: len(node.outputs)]


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    node: Node, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
) -> Any:
    """The outputs after the first are the mean, 1 / standard deviation, and the sum itself."""
    total = x + skip if bias is None else x + skip + bias
    epsilon = node.get("epsilon", 1e-12)
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if len(node.outputs) == 1:
        return y
    mean = total.mean(-1, keepdim=True)
    return y, mean, torch.rsqrt(total.var(-1, unbiased=False, keepdim=True) + epsilon), total


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(node: Node, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Any:
    total = x + skip if bias is None else x + skip + bias
    y, inverse = rms(total, [-1], node.get("epsilon", 1e-5))
    return (y * gamma, None, inverse, total)[: len(node.outputs)] if len(node.outputs) > 1 else y * gamma


@operator("GatedRMSNorm", domain=MICROSOFT)
def gated_rms_norm(node: Node, x: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """rms_norm(x) scale silu(gate), over groups as long as the scale."""
    parts = x.reshape(*x.shape[:-1], -1, len(scale))
    y, _ = rms(parts, [-1], node.get("epsilon", 1e-5))
    return (y * scale).reshape(x.shape) * F.silu(gate)


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    node: Node, ids: Tensor, segments: Tensor | None, words: Tensor, positions: Tensor, types: Tensor | None,
    gamma: Tensor, beta: Tensor, mask: Tensor | None = None, at: Tensor | None = None,
) -> Any:  # fmt: skip
    """norm(words[ids] + positions + types[segments]) -> y, the lengths of the mask, the sum."""
    where = torch.arange(ids.shape[1], device=words.device) if at is None else at.to(torch.int64)
    total = words[ids.to(torch.int64)] + positions[where]
    if segments is not None and types is not None:
        total = total + types[segments.to(torch.int64)]
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, node.get("epsilon", 1e-12))
    lengths = (mask if mask is not None else torch.zeros_like(ids)).sum(1).to(torch.int32)
    return (y, lengths, total)[: len(node.outputs)]


@operator("MeanVarianceNormalization")
def mean_variance_norm(node: Node, x: Tensor) -> Tensor:
    """(x - mean) / standard deviation over `axes`; below opset 9 over all but the channels, or over them too."""
    old = [d for d in range(x.dim()) if d != 1 or node.get("across_channels", 0)]
    dims = old if node.version < 9 else list(node.axes)
    centered = x - x.mean(dims, keepdim=True)
    if node.version < 9 and not node.get("normalize_variance", 1):
        return centered
    return centered / (torch.sqrt((centered * centered).mean(dims, keepdim=True)) + 1e-9)


@operator("LpNormalization")
def lp_norm(node: Node, x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, node.p, node.axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / torch.where(length == 0, torch.ones_like(length), length))
