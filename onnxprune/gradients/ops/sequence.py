"""Sequences of tensors are Python lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator


@operator("SequenceConstruct", dynamic=True)
def construct(node: Node, *xs: Tensor) -> list[Tensor]:
    return list(xs)


@operator("SequenceEmpty", dynamic=True)
def make_empty(node: Node) -> list[Tensor]:
    return []


@operator("SequenceAt", host=(1,), dynamic=True)
def take(node: Node, xs: list[Tensor], at: Tensor) -> Tensor:
    return xs[int(at.item())]


@operator("SequenceInsert", host=(2,), dynamic=True)
def insert(node: Node, xs: list[Tensor], x: Tensor, at: Tensor | None = None) -> list[Tensor]:
    place = len(xs) if at is None else int(at.item())
    place = place if place >= 0 else place + len(xs)
    return [*xs[:place], x, *xs[place:]]


@operator("SequenceErase", host=(1,), dynamic=True)
def erase(node: Node, xs: list[Tensor], at: Tensor | None = None) -> list[Tensor]:
    place = (-1 if at is None else int(at.item())) % len(xs)
    return [*xs[:place], *xs[place + 1 :]]


@operator("SequenceLength", dynamic=True)
def count(node: Node, xs: list[Tensor]) -> Tensor:
    return torch.tensor(len(xs))


@operator("SplitToSequence", host=(1,), dynamic=True)
def split(node: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    if sizes is None:
        parts = list(torch.split(x, 1, node.axis))
        return parts if node.keepdims else [p.squeeze(node.axis) for p in parts]
    given: Any = sizes.tolist()
    return list(torch.split(x, given, node.axis))


@operator("ConcatFromSequence", dynamic=True)
def join(node: Node, xs: list[Tensor]) -> Tensor:
    return torch.stack(xs, node.axis) if node.new_axis else torch.cat(xs, node.axis)


@operator("Optional", dynamic=True)
def make_optional(node: Node, x: Any = None) -> Any:
    return x


@operator("OptionalHasElement", dynamic=True)
def has_element(node: Node, x: Any = None) -> Tensor:
    return torch.tensor(x is not None)


@operator("OptionalGetElement", dynamic=True)
def get_element(node: Node, x: Any) -> Any:
    return x
