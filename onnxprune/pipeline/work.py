"""What is asked of a pipeline, how long it took, and a model on its way through it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.quantize import Quantized
from onnxprune.report.types import DistillationReport, RepairReport
from onnxprune.result import PruneResult
from onnxprune.settings import Options, RunSettings, Sparsity, Training
from onnxprune.sparsity import Sparsified


@dataclass
class Clock:
    """Seconds spent in each stage."""

    progress: StageProgress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        self.progress(stage, 0, 0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class NotCompared(OnnxPruneError):
    """The model is made, but could not be compared with the original; `result` is the pruned model and its report."""

    def __init__(self, why: str, result: PruneResult) -> None:
        there, option = ("the pruned model is there", "check=False")
        if result.files:
            there, option = f"{result.files[0]} is written", "--no-validate"
        super().__init__(f"{why}; {there}, but not compared ({option} leaves that out)")
        self.result = result


@dataclass
class Work:
    """The steps to apply to a model. `options` None: no channels are removed, unless a plan removes some."""

    options: Options | None
    plan: Plan | None = None
    sparsity: Sparsity | None = None
    run: RunSettings = field(default_factory=RunSettings)
    training: Training = field(default_factory=Training)
    plan_out: str | PathLike[str] | None = None
    dry_run: bool = False  # only predict: nothing is repaired, written or compared
    example_inputs: Any = None  # of a torch module, which is exported with them

    @property
    def seed(self) -> int:
        chosen = self.options or self.sparsity
        return chosen.seed if chosen else 0


@dataclass
class PipelineState:
    """A model on its way."""

    model: Model
    repaired: RepairReport | None = None
    sparse: Sparsified | None = None
    quantized: Quantized | None = None
    pruned: Model | None = None  # in float, where `model` is quantized
    trained: DistillationReport | None = None
    plan: Plan | None = None  # as it is for the model whose consumers make up for what is free
    given: type = Model  # the kind of what came in

    @property
    def in_float(self) -> Model:
        return self.pruned or self.model
