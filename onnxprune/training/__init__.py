"""A candidate learns to make of inputs what the original makes of them: a training loop on `gradients`, without labels.

torch is optional and takes seconds to import: nothing here imports it before something is trained.
"""

from __future__ import annotations

from pathlib import Path

from onnxprune.gradients import require_torch
from onnxprune.graph.model import Model
from onnxprune.progress import StageProgress
from onnxprune.report.types import DistillationReport
from onnxprune.training.recipe import TrainingRecipe
from onnxprune.training.task import Task, check_request, check_training, hold_out, make_recipe, make_task, with_labels

__all__ = [
    "TrainingRecipe",
    "Task",
    "check_request",
    "check_training",
    "hold_out",
    "make_recipe",
    "make_task",
    "train",
    "with_labels",
]


def train(
    task: Task, recipe: TrainingRecipe, checkpoint: Path | None = None, progress: StageProgress = lambda *_: None
) -> tuple[Model, DistillationReport]:
    """The candidate, trained: never worse on held-out samples than it was.

    Ctrl-C ends it with the best so far; the report says so.

    Raises:
        OnnxPruneError: torch is missing, an operator without a torch form, nothing to train or to learn from, wrong labels, the
            checkpoint of another training.
    """
    require_torch()
    from onnxprune.training.loop import run_training

    return run_training(task, recipe, checkpoint, progress)
