"""Derivatives by masks: what a loss would change by if a channel, or a weight, were multiplied by a number near 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from onnxprune.gradients.module import Feeds, Module
from onnxprune.graph.weights import Array

Pull = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class MaskDerivatives:
    """`values` has [rows, n] for each axis of a value, `weights` and `slopes` arrays like each weight: a dL/da, w dL/dw, dL/dw."""

    values: Sequence[Array]
    weights: Mapping[str, Array]
    slopes: Mapping[str, Array]


def measure_masks(
    module: Module,
    feeds: Feeds,
    values: Sequence[tuple[str, int]],
    weights: Sequence[str],
    outputs: Sequence[str],
    pull: Pull,
) -> MaskDerivatives:
    """Compute the derivatives of the loss with respect to masks and weights, in one forward and one backward pass.

    Args:
        module: the model in torch.
        feeds: one batch of inputs, by name.
        values: names and axes of n positions; the product a dL/da is summed over all other axes but the first.
        weights: initializers that the module trains.
        outputs: names of the outputs that `pull` reads.
        pull: takes the outputs as arrays, and returns dL/d(output) for those that the loss L depends on.
    """
    tensors = module.run(feeds, [*outputs, *dict.fromkeys(name for name, _ in values)])
    arrays = {name: tensors[name].detach().cpu().numpy() for name in outputs}
    pulled = {
        name: torch.as_tensor(g, dtype=tensors[name].dtype, device=tensors[name].device)
        for name, g in pull(arrays).items()
    }
    parameters = module.named_weights()
    inner = {name: tensors[name] for name, _ in values if tensors[name].requires_grad}
    wanted = [*inner.values(), *(parameters[name] for name in weights)]
    sources = [tensors[name] for name in pulled if tensors[name].requires_grad]
    gradients = torch.autograd.grad(
        sources, wanted, [g for name, g in pulled.items() if tensors[name].requires_grad], allow_unused=True
    ) if sources and wanted else [None] * len(wanted)  # fmt: skip
    by_name = dict(zip([*inner, *weights], gradients, strict=True))
    products = {
        name: None if g is None else x.detach() * g for (name, g), x in zip(by_name.items(), wanted, strict=True)
    }
    return MaskDerivatives(
        [_by_position(tensors[name], products.get(name), axis) for name, axis in values],
        {name: _or_zeros(parameters[name], products[name]).cpu().numpy() for name in weights},
        {name: _or_zeros(parameters[name], by_name[name]).cpu().numpy() for name in weights},
    )


def _or_zeros(x: torch.Tensor, product: torch.Tensor | None) -> torch.Tensor:
    """Nothing that the loss depends on has a derivative of 0."""
    return torch.zeros_like(x) if product is None else product


def _by_position(x: torch.Tensor, product: torch.Tensor | None, axis: int) -> Array:
    """[rows, n], with one row where the first axis is the one that is looked at."""
    whole = _or_zeros(x, product).movedim(axis, -1)
    rows = whole.shape[0] if axis else 1
    summed: Array = whole.reshape(rows, -1, whole.shape[-1]).sum(1).detach().cpu().numpy()
    return summed
