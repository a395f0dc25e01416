"""A group lasso on whole channels: all weights that go together become small together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from onnxprune.training.methods.base import MethodContext, TrainMethod, train_method
from onnxprune.training.methods.channels import ChannelRows, find_rows
from onnxprune.training.student import Student

PENALTY = 0.1
ALPHA = 4.0  # the least important channel of a group is pulled 2^ALPHA times as hard as the most important one
TINY = 1e-12


@train_method("group-lasso")
class GroupLasso(TrainMethod):
    """R(t) = w t sum_c 2^(4 (max I - I_c) / (max I - min I)) |w_c|_2 / (the same before training), t from 0 to 1, I_c = |w_c|^2

    w_c are all weights of channel c in all layers that the group couples, each divided by its tensor's root mean square before
    training: exporters fold norms into convolutions, whose sizes then differ a lot.
    Source: Fang et al. 2023, DepGraph, arXiv 2301.12900, eq. 4 and 5; the penalty grows as in Wang et al. 2021, Neural Pruning via
    Growing Regularization, arXiv 2012.09243
    """

    def __init__(self, context: MethodContext) -> None:
        self.context, self.weight = context, PENALTY if context.penalty is None else context.penalty
        self.settings = ("group-lasso", self.weight)

    def begin(self, student: Student) -> None:
        rows_of_groups = (find_rows(self.context.analysis, g, student.weights) for g in self.context.groups)
        self.groups = [rows for rows in rows_of_groups if rows]
        used = {r.weight for rows in self.groups for r in rows}
        self.powers = {n: float(student.weights[n].detach().square().mean()) or 1.0 for n in used}
        self.start = max(float(self._sum(student.weights).detach()), TINY)

    def _sum(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        sums = [weigh(self._measure_power(rows, weights)) for rows in self.groups]
        return torch.stack(sums).sum() if sums else torch.zeros(())

    def _measure_power(self, rows: Sequence[ChannelRows], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """|w_c|^2 of each channel of a group, [n]."""
        return torch.stack([r.sum(weights[r.weight].square()) / self.powers[r.weight] for r in rows]).sum(0)

    def penalize(self, student: Student, share: float) -> torch.Tensor:
        return self.weight * share * self._sum(student.weights) / self.start


def weigh(power: torch.Tensor) -> torch.Tensor:
    """The penalty of a group from |w_c|^2 of its channels: those that matter least are pulled hardest."""
    known = power.detach()
    spread = float(known.max() - known.min())
    pull = 2.0 ** (ALPHA * (known.max() - known) / spread) if spread > 0 else torch.ones_like(known)
    return (pull * power.clamp_min(TINY).sqrt()).sum()
