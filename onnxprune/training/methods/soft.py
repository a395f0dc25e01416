"""Soft filter pruning: after each pass the filters that would go are set to zero, and trained on."""

from __future__ import annotations

import torch

from onnxprune.training.methods.base import MethodContext, TrainMethod, train_method
from onnxprune.training.methods.channels import find_rows
from onnxprune.training.student import Student


@train_method("soft")
class SoftPruning(TrainMethod):
    """w_c := 0 after each pass for the channels c that the budget would remove by |w_c|_2; all are trained in between

    Only what makes a channel is set to zero, so that its gradient may bring it back.
    Source: He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, algorithm 1
    """

    settings = ("soft",)

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def after_step(self, student: Student, done: int, steps_in_pass: int) -> None:
        if done % steps_in_pass == 0:
            self._clear(student)

    def end_round(self, student: Student) -> None:
        self._clear(student)

    @torch.no_grad()
    def _clear(self, student: Student) -> None:
        assert self.context.plan is not None
        plan = self.context.plan(student.module.to_model())
        for g in self.context.groups:
            choice = plan.groups.get(g.name)
            if choice is None or len(choice.keep) == g.size:
                continue
            stays = torch.zeros(g.size)
            stays[list(choice.keep)] = 1
            for r in find_rows(self.context.analysis, g, student.weights, ("out",)):
                w = student.weights[r.weight]
                w.mul_(r.spread(stays, w))
