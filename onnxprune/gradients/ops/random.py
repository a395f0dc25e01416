"""Random numbers, from torch's generator; with a seed, the same ones in each run."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxprune.gradients.operators import Node, operator
from onnxprune.gradients.types import choose_carrier


def _generator(node: Node, device: torch.device) -> torch.Generator | None:
    if node.seed is None:
        return None
    return torch.Generator(device).manual_seed(int(abs(node.seed) * 2**16))


def _dtype(node: Node, x: Tensor | None) -> torch.dtype:
    if node.dtype is not None:
        return choose_carrier(node.dtype, node.state)
    return node.state.dtype if x is None else x.dtype


@operator("RandomNormal", "RandomNormalLike", random=True)
def normal(node: Node, x: Tensor | None = None) -> Tensor:
    shape = node.shape if x is None else x.shape
    device = node.state.device
    draws = torch.randn(*shape, generator=_generator(node, device), device=device, dtype=_dtype(node, x))
    return node.mean + node.scale * draws


@operator("RandomUniform", "RandomUniformLike", random=True)
def uniform(node: Node, x: Tensor | None = None) -> Tensor:
    shape = node.shape if x is None else x.shape
    device = node.state.device
    draws = torch.rand(*shape, generator=_generator(node, device), device=device, dtype=_dtype(node, x))
    return node.low + (node.high - node.low) * draws


@operator("Bernoulli", random=True)
def bernoulli(node: Node, x: Tensor) -> Tensor:
    return torch.bernoulli(x, generator=_generator(node, x.device)).to(_dtype(node, x))


@operator("Multinomial", random=True)
def multinomial(node: Node, x: Tensor) -> Tensor:
    """Classes drawn by their unnormalized log probabilities."""
    drawn = torch.multinomial(
        torch.softmax(x, -1), node.sample_size, replacement=True, generator=_generator(node, x.device)
    )
    return drawn.to(choose_carrier(node.dtype, node.state))
