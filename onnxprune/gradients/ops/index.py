"""Reading and writing by indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator


def upwards(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front; torch takes int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.axis % x.dim()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return x.select(axis, int(indices.item()))
    at = upwards(indices, x.shape[axis])
    if at.dim() == 1:
        return x.index_select(axis, at)
    return x.index_select(axis, at.reshape(-1)).reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    return torch.gather(x, node.axis, upwards(indices, x.shape[node.axis]))


@operator("GatherND")
def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """The last axis of the indices says where, in the axes after the first `batch_dims`."""
    b, depth = node.get("batch_dims", 0), indices.shape[-1]
    columns = [upwards(c, x.shape[b + i]) for i, c in enumerate(indices.unbind(-1))]
    for i in range(b):  # each batch axis looks in its own row
        rank = columns[0].dim() if depth else indices.dim() - 1
        columns.insert(i, torch.arange(x.shape[i], device=x.device).reshape(-1, *[1] * (rank - i - 1)))
    return x[tuple(columns)]


REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    at = upwards(indices, x.shape[node.axis])
    reduction = node.get("reduction", "none")
    if reduction == "none":
        return x.scatter(node.axis, at, updates)
    return x.scatter_reduce(node.axis, at, updates, REDUCE[reduction], include_self=True)


@operator("ScatterND")
def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth = indices.shape[-1]
    columns = tuple(upwards(c, n) for c, n in zip(indices.unbind(-1), x.shape[:depth], strict=True))
    reduction = node.get("reduction", "none")
    if reduction in ("none", "add"):
        return x.index_put(columns, updates, accumulate=reduction == "add")
    row = torch.zeros_like(columns[0])
    for c, n in zip(columns, x.shape[:depth], strict=True):
        row = row * n + c
    flat = x.reshape(-1, *x.shape[depth:])
    source = updates.reshape(-1, *x.shape[depth:])
    at = row.reshape(-1, *[1] * (source.dim() - 1)).expand_as(source)
    return flat.scatter_reduce(0, at, source, REDUCE[reduction], include_self=True).reshape(x.shape)


@operator("TensorScatter", host=(2,))
def tensor_scatter(node: Node, cache: Tensor, update: Tensor, write: Tensor | None = None) -> Tensor:
    """Each sample's update goes to its own position along `axis`, around the end where the mode is circular."""
    axis = node.axis % cache.dim()
    starts = [0] * cache.shape[0] if write is None else write.tolist()
    steps, size = update.shape[axis], cache.shape[axis]
    rows = []
    for row, new, start in zip(cache, update, starts, strict=True):
        at = torch.arange(start, start + steps, device=cache.device)
        rows.append(row.index_copy(axis - 1, at % size if node.mode == "circular" else at, new))
    return torch.stack(rows)


@operator("NonZero", dynamic=True)
def non_zero(node: Node, x: Tensor) -> Tensor:
    return torch.stack(x.nonzero(as_tuple=True)) if x.dim() else x.reshape(1).nonzero().t()[:0]


@operator("Compress", dynamic=True)
def compress(node: Node, x: Tensor, condition: Tensor) -> Tensor:
    x, axis = (x.reshape(-1), 0) if node.axis is None else (x, node.axis)
    return x.index_select(axis, condition[: x.shape[axis]].nonzero().reshape(-1))


@operator("Unique", dynamic=True)
def unique(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Values, first positions, which value each entry has, and how often; in the order of the values, or of appearance."""
    x, axis = (x.reshape(-1), 0) if node.axis is None else (x, node.axis)
    _, inverse, counts = torch.unique(x.detach(), dim=axis, return_inverse=True, return_counts=True)
    n = len(counts)
    at = torch.arange(len(inverse), device=x.device)
    first = torch.full((n,), len(inverse), dtype=torch.int64, device=x.device).scatter_reduce(0, inverse, at, "amin")
    if not node.sorted:
        order = first.argsort()
        place = torch.empty_like(order).scatter(0, order, torch.arange(n, device=x.device))
        first, counts, inverse = first[order], counts[order], place[inverse]
    return x.index_select(axis, first), first, inverse, counts


@operator("NonMaxSuppression", host=(2, 3, 4), dynamic=True)
def non_max_suppression(
    node: Node, boxes: Tensor, scores: Tensor, most: Tensor | None = None, overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Rows of [batch, class, box]: the best boxes that overlap no better one by more than a share."""
    limit = int(most.reshape(-1)[0].item()) if most is not None else 0
    share = float(overlap.reshape(-1)[0].item()) if overlap is not None else 0.0
    floor = float(least.reshape(-1)[0].item()) if least is not None else None
    selected: list[Any] = []
    for b in range(scores.shape[0]):
        corners = _corners(boxes[b].detach(), node.center_point_box)
        for c in range(scores.shape[1]):
            selected += [[b, c, i] for i in _suppress(corners, scores[b, c].detach(), limit, share, floor)]
    return torch.tensor(selected, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _corners(boxes: Tensor, by_center: int) -> Tensor:
    if by_center:
        x, y, w, h = boxes.unbind(-1)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    a, b = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], -1)


def _suppress(corners: Tensor, scores: Tensor, limit: int, share: float, floor: float | None) -> list[int]:
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    kept: list[int] = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if len(kept) >= limit or (floor is not None and scores[i] <= floor):
            break
        if kept:
            inner = torch.minimum(corners[kept, 2:], corners[i, 2:]) - torch.maximum(corners[kept, :2], corners[i, :2])
            common = inner.clamp(min=0).prod(-1)
            if bool((common / (area[kept] + area[i] - common) > share).any()):
                continue
        kept.append(i)
    return kept
