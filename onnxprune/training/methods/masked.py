"""Methods with masks: the outputs are those of the masked weights, and the weights behind the masks are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onnxprune.errors import OnnxPruneError
from onnxprune.training.methods.base import MethodContext, TrainMethod, train_method
from onnxprune.training.student import Student, Weights

UPDATES = 100  # of the masks in a training
RISE = 0.5  # the share of the steps in which the number of zeros grows
SETTLED = 0.75  # the share of the steps after which masks stay as they are
SLACK = 0.1  # how much larger than a masked weight one has to be to be masked again


class Masked(TrainMethod):
    """w' = w m for the outputs; the gradient of w' moves w, masked or not."""

    def __init__(self, context: MethodContext) -> None:
        assert context.zeros is not None
        self.zeros, self.masks, self.dense = context.zeros, Weights(), Weights()
        self.settings = (type(self).__name__, repr(context.zeros))
        self.updated = -1

    def begin(self, student: Student) -> None:
        """Raises OnnxPruneError where no layer that is trained gets the pattern."""
        self.names = [name for name in self.zeros.forms if name in student.weights]
        if not self.names:
            raise OnnxPruneError("no layer that is trained gets the pattern; see --include, --exclude and --layers")
        self.masks = {name: torch.ones_like(student.weights[name]) for name in self.names}
        others = [name for name in self.zeros.forms if name not in student.weights]
        self.others = {
            name: np.ones(form.file_shape, np.float32) for name, form in self.zeros.forms.items() if name in others
        }

    @torch.no_grad()
    def before_step(self, student: Student, share: float) -> None:
        if (number := int(share * UPDATES)) != self.updated and share <= SETTLED:
            self.updated = number
            self._choose(student, share)
        self.dense = {name: student.weights[name].detach().clone() for name in self.names}
        self._apply(student)

    @torch.no_grad()
    def take_gradients(self, student: Student, gradients: Sequence[torch.Tensor]) -> None:
        for name, w in self.dense.items():
            student.weights[name].copy_(w)

    def _choose(self, student: Student, share: float) -> None:
        """New masks, with the share of the zeros that there are to be by now: 1 - (1 - t)^3 of them, t the time of the rise.

        Source: Zhu and Gupta 2017, arXiv 1710.01878, eq. 1
        """
        grown = 1 - (1 - min(share / RISE, 1.0)) ** 3
        scores = {name: x.detach().numpy().astype(np.float32) for name, x in self.score(student).items()}
        for name, keep in self.zeros.masks({**scores, **self.others}, grown).items():
            if name in self.masks:
                self.masks[name] = torch.from_numpy(np.ascontiguousarray(keep)).to(self.masks[name].dtype)

    def score(self, student: Student) -> Weights:
        """What decides which weights stay: those with the highest."""
        raise NotImplementedError

    @torch.no_grad()
    def _apply(self, student: Student) -> None:
        for name, mask in self.masks.items():
            student.weights[name].mul_(mask)

    def end_round(self, student: Student) -> None:
        self._apply(student)

    @property
    def state(self) -> dict[str, Any]:
        return {"masks": self.masks, "updated": self.updated}

    def resume(self, student: Student, state: Mapping[str, Any]) -> None:
        self.masks, self.updated = dict(state["masks"]), state["updated"]


@train_method("surgery")
class Surgery(Masked):
    """Kept are the largest |w| (1.1 where w is there, 0.9 where it is masked); masked weights are trained on, and come back

    The paper sets two thresholds for each layer; here they are 0.9 and 1.1 of the one that the sparsity asks for. The mask is fixed
    after three quarters of the steps.
    Source: Guo et al. 2016, Dynamic Network Surgery, arXiv 1608.04493, eq. 2 and 3
    """

    def score(self, student: Student) -> Weights:
        w = student.weights
        return {name: w[name].detach().abs() * (1 + SLACK * (2 * self.masks[name] - 1)) for name in self.names}


@train_method("movement")
class Movement(Masked):
    """Kept are the weights with the highest s = -sum over steps of (dL/dw') w: those that moved away from zero

    Source: Sanh et al. 2020, Movement Pruning, arXiv 2005.07683, eq. 4 to 6
    """

    def begin(self, student: Student) -> None:
        super().begin(student)
        self.moved = {name: torch.zeros_like(student.weights[name]) for name in self.names}

    @torch.no_grad()
    def take_gradients(self, student: Student, gradients: Sequence[torch.Tensor]) -> None:
        super().take_gradients(student, gradients)
        for (name, w), g in zip(student.weights.items(), gradients, strict=True):
            if name in self.moved:
                self.moved[name] -= g * w

    def score(self, student: Student) -> Weights:
        return self.moved

    @property
    def state(self) -> dict[str, Any]:
        return {**super().state, "moved": self.moved}

    def resume(self, student: Student, state: Mapping[str, Any]) -> None:
        super().resume(student, state)
        self.moved = dict(state["moved"])
