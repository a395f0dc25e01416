"""Network slimming: the scales of norms are made small, and channels with small ones go."""

from __future__ import annotations

import torch

from onnxprune.errors import OnnxPruneError
from onnxprune.training.methods.base import MethodContext, TrainMethod, train_method
from onnxprune.training.methods.channels import find_rows
from onnxprune.training.student import Student

PENALTY = 0.01


@train_method("slimming")
class Slimming(TrainMethod):
    """R = w sum_c |gamma_c| / (the same before training), over the scales of norms of all groups

    Source: Liu et al. 2017, Network Slimming, arXiv 1708.06519, eq. 1; the sum before training makes the weight one without a unit
    """

    def __init__(self, context: MethodContext) -> None:
        self.context, self.weight = context, PENALTY if context.penalty is None else context.penalty
        self.settings = ("slimming", self.weight)

    def begin(self, student: Student) -> None:
        """Raises OnnxPruneError for a model without such scales."""
        rows = [
            r for g in self.context.groups for r in find_rows(self.context.analysis, g, student.weights, ("scale",))
        ]
        self.rows = list({r.weight: r for r in rows}.values())
        if not self.rows:
            raise OnnxPruneError(
                "train-method 'slimming' makes scales of norms small, and no group has one (an exporter may have folded "
                "BatchNormalization into convolutions); use train-method 'group-lasso'"
            )
        self.start = float(self._sum(student).detach())

    def _sum(self, student: Student) -> torch.Tensor:
        return torch.stack([r.sum(student.weights[r.weight].abs()).sum() for r in self.rows]).sum()

    def penalize(self, student: Student, share: float) -> torch.Tensor:
        return self.weight * self._sum(student) / self.start
