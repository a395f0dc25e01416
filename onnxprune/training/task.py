"""What is learned, from what, and how: from settings and data to a task and a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration import Batches
from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.arrays import read_arrays
from onnxprune.calibration.data import Stored
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.gradients import require_torch
from onnxprune.graph.flat import flatten
from onnxprune.graph.model import Model
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis
from onnxprune.measure import list_judged
from onnxprune.settings import Sparsity, Training
from onnxprune.settings.table import to_option
from onnxprune.settings.training import LOTTERY, OF_CHANNELS, OF_WEIGHTS, WITH_PENALTY
from onnxprune.training.recipe import HELD_OUT, MIXED_IN, TrainingRecipe


@dataclass(frozen=True)
class Task:
    """What is learned from what.

    held_out the samples that are not learned, and decide
    names    the tensors that both models are compared by
    tokens   how many the model knows, as `graph.vocabulary` has it
    """

    original: Model
    candidate: Model
    batches: Batches
    held_out: Batches
    names: Sequence[str]
    tokens: int | None
    memory: Memory = field(default_factory=Memory)


def hold_out(batches: Batches) -> tuple[Batches, Batches]:
    """What is learned, and one of ten samples that is not; both are all of it where there is a single batch.

    What has seen held-out samples, as a repair may, is better on them than on others: they must be unknown to it, too.
    """
    parts = batches.count_parts(HELD_OUT)
    return batches.hold_out(0, parts) if parts > 1 else (batches, batches)


def make_task(original: Analysis, candidate: Model, batches: Batches, held_out: Batches, memory: Memory) -> Task:
    """The candidate is to make of the data what the original makes of them, where plans are judged too; else at its outputs."""
    names = list_judged(original)
    computed = {name for node in flatten(candidate).proto.graph.node for name in node.output}
    if not computed.issuperset(names):
        names = [v.name for v in original.model.proto.graph.output]
    return Task(original.model, candidate, batches, held_out, names, find_vocabulary_size(original.flat.proto), memory)


def make_recipe(training: Training, seed: int, default_weight: float = 0.0) -> TrainingRecipe:
    """The numbers of a training. Without labels named or weighed, those beside the data do not count."""
    weight = training.label_weight
    if weight is None:
        weight = MIXED_IN if training.labels is not None else default_weight
    return TrainingRecipe(
        training.passes, seed, training.augment, weight, training.learning_rate,
    )  # fmt: skip


def check_request(training: Training, calibrated: bool, prunes: bool = True) -> None:
    """Raise OnnxPruneError where a pipeline cannot train as it is told to: before any work begins.

    `prunes` says whether channels are removed, or single weights become zero.
    """
    if training.distill:
        check_training(training, calibrated)
        _check_method(training, prunes)
    elif given := next((f.name for f in fields(Training) if getattr(training, f.name) != f.default), None):
        raise OnnxPruneError(f"{to_option(given)} says how 'distill' trains; give both, or neither")


def _check_method(training: Training, prunes: bool) -> None:
    method = training.train_method
    if method in (OF_WEIGHTS if prunes else OF_CHANNELS):
        other, fitting = ("sparsify", OF_CHANNELS) if prunes else ("prune", OF_WEIGHTS)
        raise OnnxPruneError(
            f"train-method '{method}' belongs to 'onnxprune {other}'; here choose one of {', '.join(fitting)}"
        )
    if training.penalty is not None and method not in WITH_PENALTY:
        raise OnnxPruneError(f"penalty is a weight of train-method {' or '.join(WITH_PENALTY)}; give both, or neither")
    lottery = method == LOTTERY
    if (training.rewind is not None) != lottery or (training.iterative > 1 and not prunes and not lottery):
        raise OnnxPruneError(
            "rewind goes with train-method lottery, and so does iterative of sparsify; give both, or neither"
        )


def take_zeros(sparsity: Sparsity, training: Training) -> Sparsity:
    """The settings that leave the zeros of a training where they are. Raises OnnxPruneError where somebody wants others."""
    if training.train_method and (sparsity.method not in (None, "magnitude") or sparsity.repair not in (None, "none")):
        raise OnnxPruneError(
            f"train-method '{training.train_method}' chooses the zeros; leave out method and repair, or choose magnitude and none"
        )
    return replace(sparsity, method="magnitude", repair="none")


def check_training(training: Training, calibrated: bool) -> None:
    """Raise OnnxPruneError where there is nothing to learn from, or no torch."""
    training.check_values()
    if not calibrated:
        raise OnnxPruneError("distillation learns what the original makes of data, and there are none; give --calib")
    require_torch()


def add_labels(batches: Batches, training: Training, weight: float) -> Batches:
    """The data with the labels that the settings name. Raises DataError where labels are wanted and missing, or do not fit."""
    if training.labels is not None:
        labels = _read_labels(training.labels)
        if not isinstance(batches, Stored) or len(labels) <= int(batches.rows.max()):
            raise DataError(
                f"labels are of {len(labels)} samples, '{batches.source}' has {batches.samples}; give one each"
            )
        batches = replace(batches, labels=labels[batches.rows])
    if weight and not batches.has_labels:
        raise DataError(
            f"data '{batches.source}' has no labels to learn; give --labels FILE, or an array 'labels' in it"
        )
    return batches


def _read_labels(source: Any) -> Array:
    """An array, or the one in a file that is called so, or the only one."""
    if not isinstance(source, str | Path):
        return np.asarray(source)
    arrays = read_arrays(Path(source))
    named = [arrays[key] for key in ("labels", "label") if key in arrays] or list(arrays.values())
    if len(named) != 1:
        raise DataError(f"labels '{source}': {len(arrays)} arrays, {sorted(arrays)}; call one of them 'labels'")
    return np.asarray(named[0])
