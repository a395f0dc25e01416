"""What a method of training may do in a step of the loop, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from onnxprune.graph.model import Model
from onnxprune.groups import Analysis, Group
from onnxprune.plans import Plan
from onnxprune.training.student import Student
from onnxprune.training.zeros import ZeroPattern

METHODS: dict[str, Callable[[MethodContext], TrainMethod]] = {}


@dataclass(frozen=True)
class MethodContext:
    """What methods are made of; each takes what it needs.

    groups   those that may lose channels
    plan     the channels that would go from a model with other weights now
    zeros    the layers that get a pattern, and the pattern
    penalty  its weight as somebody set it
    rewind   the model whose weights a lottery ticket starts from
    rounds   how often a lottery prunes
    """

    analysis: Analysis
    groups: Sequence[Group] = ()
    plan: Callable[[Model], Plan] | None = None
    zeros: ZeroPattern | None = None
    penalty: float | None = None
    rewind: Model | None = None
    rounds: int = 1


class TrainMethod:
    """One method. This one does nothing: it is distillation as it is.

    `rounds` is how often all steps are made. `share` is the share of the steps that are done, in [0, 1).
    """

    rounds = 1
    settings: tuple[object, ...] = ()  # what decides the result beside the recipe, for the key of checkpoints

    def begin(self, student: Student) -> None:
        """Before the first step."""

    def before_step(self, student: Student, share: float) -> None:
        """Before the outputs are computed."""

    def penalize(self, student: Student, share: float) -> torch.Tensor | None:
        """What is added to the loss."""
        return None

    def take_gradients(self, student: Student, gradients: Sequence[torch.Tensor]) -> None:
        """Look at the gradients of the weights, in their order, before these move."""

    def after_step(self, student: Student, done: int, steps_in_pass: int) -> None:
        """After the weights have moved; `done` steps are done by now."""

    def end_round(self, student: Student) -> None:
        """After the last step."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and numbers."""
        return {}

    def resume(self, student: Student, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""


Kind = TypeVar("Kind", bound="Callable[[MethodContext], TrainMethod]")


def train_method(name: str) -> Callable[[Kind], Kind]:
    """Enter a class, which is made of a `MethodContext`, in the table."""

    def enter(kind: Kind) -> Kind:
        METHODS[name] = kind
        return kind

    return enter
