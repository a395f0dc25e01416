"""Iterative magnitude pruning with rewinding: the weights that stay start again from what they were early in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import Module
from onnxprune.training.checkpoint import make_key
from onnxprune.training.methods.base import MethodContext, TrainMethod, train_method
from onnxprune.training.student import Student


@train_method("lottery")
class Lottery(TrainMethod):
    """Each of N rounds keeps the largest |w|, a share (1 - s)^(1/N) of those left, sets them to w_0, and trains; the last only sets

    The model as it is given has had the first training; --distill after the last round trains the ticket itself.
    Source: Frankle and Carbin 2019, The Lottery Ticket Hypothesis, arXiv 1803.03635, strategy 1 in appendix B; rewinding to weights
    early in training: Frankle et al. 2020, arXiv 1912.05671
    """

    def __init__(self, context: MethodContext) -> None:
        if context.rewind is None:
            raise OnnxPruneError("train-method 'lottery' starts again from early weights; give --rewind FILE.onnx")
        assert context.zeros is not None
        self.zeros, self.number, self.rounds, self.pruned = context.zeros, context.rounds, context.rounds - 1, 0
        self.first = {name: w.detach() for name, w in Module(context.rewind).named_weights().items()}
        early = make_key(list(self.first), (w.contiguous().numpy() for w in self.first.values()))
        self.settings = ("lottery", context.rounds, repr(context.zeros), early)

    def begin(self, student: Student) -> None:
        """Raises OnnxPruneError where the early weights are of another model."""
        for name, w in student.weights.items():
            if name not in self.first or self.first[name].shape != w.shape:
                known = list(self.first[name].shape) if name in self.first else "not there"
                raise OnnxPruneError(
                    f"rewind: initializer '{name}' is {known}, in the model {list(w.shape)}; give the same network, as "
                    "it was early in training"
                )
        if self.zeros.sparsity is None and self.number > 1:
            raise OnnxPruneError(
                "this pattern fixes the number of zeros, so it is reached in one round; leave out iterative"
            )
        self._prune(student)

    def end_round(self, student: Student) -> None:
        self._prune(student)

    @torch.no_grad()
    def _prune(self, student: Student) -> None:
        """Mask the smallest of what is left, and set the rest to what it was."""
        self.pruned += 1
        weights, final = student.weights, self.zeros.sparsity
        share = (1 - (1 - final) ** (self.pruned / self.number)) / final if final else 1.0
        scores = {name: weights[name].detach().abs().numpy() for name in self.zeros.forms if name in weights}
        scores |= {n: np.ones(f.file_shape, np.float32) for n, f in self.zeros.forms.items() if n not in weights}
        keeps = self.zeros.masks(scores, share)
        student.load(self.first)
        for name, w in weights.items():
            if name in keeps:
                keep = torch.from_numpy(np.ascontiguousarray(keeps[name]))
                student.masks[name] = keep
                w.mul_(keep)
        student.forget()

    @property
    def state(self) -> dict[str, Any]:
        return {"pruned": self.pruned}

    def resume(self, student: Student, state: Mapping[str, Any]) -> None:
        self.pruned = state["pruned"]
        student.masks |= {name: w != 0 for name, w in student.weights.items() if name in self.zeros.forms}
