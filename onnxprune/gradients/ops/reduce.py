"""Reductions, cumulative sums, and what runs along one axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from onnxprune.gradients.operators import Node, operator


def integers(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """A list of integers that old opsets keep in an attribute and new ones in an input; None where it is in neither."""
    if given is not None:
        return [int(v) for v in given.reshape(-1).tolist()]
    value = node.get(name, None)
    return None if value is None else [int(v) for v in value] if isinstance(value, list) else [int(value)]


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for d in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.prod(d, keepdim=keep)
    return x


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.mean(dims, keepdim=keep) if x.is_floating_point() else x.double().mean(dims, keepdim=keep).to(x.dtype)


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.dtype == torch.bool:
        return x.any(dims, keepdim=keep)
    return x.amax(dims, keepdim=keep) if x.numel() else _fill(x, dims, keep, _least(x.dtype))


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.dtype == torch.bool:
        return x.all(dims, keepdim=keep)
    return x.amin(dims, keepdim=keep) if x.numel() else _fill(x, dims, keep, _most(x.dtype))


def _least(dtype: torch.dtype) -> float:
    return float("-inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _most(dtype: torch.dtype) -> float:
    return float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max


def _fill(x: Tensor, dims: list[int], keep: bool, value: float) -> Tensor:
    return torch.full_like(x.sum(dims, keepdim=keep, dtype=x.dtype), value)


def _norm(order: int) -> Callable[[Tensor, list[int], bool], Tensor]:
    def reduce(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        y = x if x.is_floating_point() else x.double()
        return torch.linalg.vector_norm(y, order, dims, keepdim=keep).to(x.dtype)

    return reduce


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    y = x if x.is_floating_point() else x.double()
    return torch.logsumexp(y, dims, keepdim=keep).to(x.dtype)


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": _sum, "ReduceMean": _mean, "ReduceMax": _largest, "ReduceMin": _smallest, "ReduceProd": _product,
    "ReduceL1": _norm(1), "ReduceL2": _norm(2), "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda x, dims, keep: _sum(x * x, dims, keep),
    "ReduceLogSum": lambda x, dims, keep: torch.log(_sum(x, dims, keep)),
}  # fmt: skip


WITHOUT_AXES: dict[str, Callable[[Tensor], Tensor]] = {  # noop_with_empty_axes: what is left of it for one element
    "ReduceL1": torch.abs, "ReduceL2": torch.abs, "ReduceSumSquare": torch.square, "ReduceLogSum": torch.log,
}  # fmt: skip


def _reduction(name: str, reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = integers(node, "axes", axes)
        if not dims:
            if node.noop_with_empty_axes:
                return WITHOUT_AXES[name](x) if name in WITHOUT_AXES else x
            dims = list(range(x.dim()))
        return reduce(x, dims, bool(node.keepdims))

    return run


for _name, _reduce in REDUCTIONS.items():
    operator(_name, host=(1,))(_reduction(_name, _reduce))


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node, x: Tensor) -> Tensor:
    """The first position, or the last, of the largest or smallest entry along `axis`."""
    axis = node.axis % max(x.dim(), 1)
    find = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    if node.select_last_index:
        return x.shape[axis] - 1 - find(x.flip(axis), dim=axis, keepdim=bool(node.keepdims))
    return find(x, dim=axis, keepdim=bool(node.keepdims))


def _accumulate(node: Node, x: Tensor, axis: Tensor, run: Callable[..., Tensor], start: int) -> Tensor:
    dim = int(axis.item()) % x.dim()
    x = x.flip(dim) if node.reverse else x
    if node.exclusive:
        x = torch.cat([torch.full_like(x.narrow(dim, 0, 1), start), x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    y = run(x, dim, dtype=x.dtype)
    return y.flip(dim) if node.reverse else y


@operator("CumSum", host=(1,))
def cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _accumulate(node, x, axis, torch.cumsum, 0)


@operator("CumProd", host=(1,))
def cumulative_product(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _accumulate(node, x, axis, torch.cumprod, 1)


@operator("TopK", host=(1,))
def top_k(node: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first k entries of a stable order: of equal ones the first wins, as in ONNX."""
    count = int(node.k if k is None else k.item())
    descending = bool(node.get("largest", 1))
    axis = node.axis % x.dim()
    values, indices = torch.sort(x, dim=axis, descending=descending, stable=True)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _as_matrix(node: Node, x: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Below opset 13 all axes from `axis` on are one."""
    if node.version >= 13:
        return run(x, node.axis)
    axis = node.axis % max(x.dim(), 1)
    if axis == x.dim() - 1:
        return run(x, axis)
    return run(x.flatten(axis), axis).reshape(x.shape)


@operator("Softmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    return _as_matrix(node, x, torch.softmax)


@operator("LogSoftmax")
def log_softmax(node: Node, x: Tensor) -> Tensor:
    return _as_matrix(node, x, torch.log_softmax)


@operator("Hardmax")
def hardmax(node: Node, x: Tensor) -> Tensor:
    return _as_matrix(node, x, lambda y, axis: _one_hot(y, axis))


def _one_hot(x: Tensor, axis: int) -> Tensor:
    return F.one_hot(x.argmax(axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)
