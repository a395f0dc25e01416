"""The candidate in training: its weights, how they move, their moving average, and the zeros that stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import Module
from onnxprune.graph.model import Model
from onnxprune.training.recipe import TrainingRecipe, guess_rate

Weights = dict[str, torch.Tensor]
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # Adam's, as everywhere
LEAST_SIZE, LEAST_VECTOR = 1e-2, 1e-1  # of weights that are near zero, as biases may be


class Student:
    """A module, Adam on its weights, and a moving average of them.

    A weight moves relative to the size of its tensor: where BatchNorm was folded into convolutions, one rate for all would be too
    much for some layers and too little for others. Weights that are zero in the model stay zero, in initializers of two axes and
    more: they may be those of a pattern.
    Source: Kingma and Ba 2015, Adam, arXiv 1412.6980; the size is that of You et al. 2020, LAMB, arXiv 1904.00962.
    """

    def __init__(self, model: Model, recipe: TrainingRecipe) -> None:
        self.recipe = recipe
        self.module = Module(model)
        self.weights: Mapping[str, torch.Tensor] = self.module.named_weights()
        if not self.weights:
            raise OnnxPruneError("the candidate has no weights that could be trained")
        masks = {name: w.detach() != 0 for name, w in self.weights.items() if _is_matrix(w.shape)}
        self.masks = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        self.rate = recipe.rate or guess_rate(sum(_is_matrix(w.shape) for w in self.weights.values()))
        self.sizes = [_measure_size(w.detach()) for w in self.weights.values()]
        self.average, self.momentum, self.power = self.copy(), self._zeros(), self._zeros()

    def _zeros(self) -> Weights:
        return {name: torch.zeros_like(w) for name, w in self.weights.items()}

    def copy(self) -> Weights:
        """The weights as they are."""
        return {name: w.detach().clone() for name, w in self.weights.items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, w in self.weights.items():
            w.copy_(weights[name])

    def forget(self) -> None:
        """Begin again from the weights as they are: no momentum, no average of others."""
        self.average, self.momentum, self.power = self.copy(), self._zeros(), self._zeros()

    @torch.no_grad()
    def move(self, gradients: list[torch.Tensor], done: int, of: int) -> None:
        """Step number `done` of so many: down the gradients, in the order of the weights, and the average after it."""
        weights = list(self.weights.values())
        momentum, power = list(self.momentum.values()), list(self.power.values())
        torch._foreach_lerp_(momentum, gradients, 1 - FIRST)
        torch._foreach_mul_(power, SECOND)
        torch._foreach_addcmul_(power, gradients, gradients, 1 - SECOND)
        spread = torch._foreach_div(power, 1 - SECOND ** (done + 1))
        torch._foreach_sqrt_(spread)
        torch._foreach_add_(spread, TINY)
        rate = self.recipe.schedule_rate(self.rate, done, of)
        steps = torch._foreach_div(momentum, spread)
        torch._foreach_mul_(steps, self.sizes)
        torch._foreach_add_(weights, steps, alpha=-rate / (1 - FIRST ** (done + 1)))
        stays = min(self.recipe.average, (1 + done) / (10 + done))
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - stays)

    @torch.enable_grad()
    def measure_gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        """Clipped together; none for what is zero, so that it has no momentum either, and stays zero to the bit."""
        weights = list(self.weights.values())
        raw = torch.autograd.grad(loss, weights, allow_unused=True)
        gradients = [
            torch.zeros_like(w) if g is None else g * self.masks[name] if name in self.masks else g
            for (name, w), g in zip(self.weights.items(), raw, strict=True)
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if not math.isfinite(norm):
            return [torch.zeros_like(w) for w in weights]
        return list(torch._foreach_mul(gradients, min(self.recipe.clip / (norm + TINY), 1.0)))

    @property
    def state(self) -> dict[str, Any]:
        """All that moves."""
        return {"weights": self.copy(), "average": self.average, "momentum": self.momentum, "power": self.power}

    def resume(self, state: Mapping[str, Any]) -> None:
        self.load(state["weights"])
        for name in ("average", "momentum", "power"):
            setattr(self, name, dict(state[name]))

    def export(self, weights: Mapping[str, torch.Tensor]) -> Model:
        """The model with those weights."""
        for name, w in self.weights.items():
            w.data = weights[name].clone()
        return self.module.to_model()


def _measure_size(w: torch.Tensor) -> float:
    return max(float(w.square().mean().sqrt()), LEAST_SIZE if _is_matrix(w.shape) else LEAST_VECTOR)


def _is_matrix(shape: Iterable[int]) -> bool:
    return sum(n != 1 for n in shape) > 1
