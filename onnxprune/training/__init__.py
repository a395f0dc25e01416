"""A candidate learns to make of inputs what the original makes of them: a training loop on `gradients`, without labels.

torch is optional and takes seconds to import: nothing here imports it before something is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from onnxprune.gradients import require_torch
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis, Group
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.report.types import DistillationReport
from onnxprune.settings import Sparsity, Training
from onnxprune.training.recipe import TrainingRecipe
from onnxprune.training.task import (
    Task,
    add_labels,
    check_request,
    check_training,
    hold_out,
    make_recipe,
    make_task,
    take_zeros,
)

__all__ = [
    "TrainingRecipe",
    "Task",
    "check_request",
    "check_training",
    "hold_out",
    "make_recipe",
    "make_task",
    "take_zeros",
    "train",
    "train_before_pruning",
    "add_labels",
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


def train_before_pruning(
    task: Task,
    recipe: TrainingRecipe,
    training: Training,
    of: Analysis,
    groups: Sequence[Group] = (),
    plan: Callable[[Model], Plan] | None = None,
    sparsity: Sparsity | None = None,
    progress: StageProgress = lambda *_: None,
) -> Model:
    """The candidate, trained so that less is lost when channels are removed, or with zeros in a pattern: see `methods`.

    Args:
        task: its candidate is the model that is to lose something.
        recipe: the numbers of the training.
        training: names the method, and its settings.
        of: the analysis of the candidate.
        groups: those that may lose channels.
        plan: the channels that would go from a model with other weights.
        sparsity: the pattern, for methods of single weights.
        progress: called with the steps done and in all.

    Raises:
        OnnxPruneError: torch is missing, or the method does not suit the model.
    """
    require_torch()
    from onnxprune.training.loop import train_toward_zeros
    from onnxprune.training.methods import METHODS, MethodContext
    from onnxprune.training.zeros import find_zeros

    zeros = None if sparsity is None else find_zeros(of, sparsity)
    rewind = None if training.rewind is None else load(training.rewind)
    context = MethodContext(of, groups, plan, zeros, training.penalty, rewind, training.iterative)
    method = METHODS[training.train_method or ""](context)
    path = None if training.checkpoint is None else Path(f"{training.checkpoint}.{training.train_method}")
    return train_toward_zeros(task, recipe, method, path, progress)
