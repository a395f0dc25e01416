"""The few functions that most programs need: load, analyze, plan, apply, validate, save; `prune` does all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.allocate import Options, make_plan
from onnxprune.calibration import Batches, Preprocess, input_specs, load_data, random_batches
from onnxprune.calibration.statistics import Progress, Statistics, gather
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import Model, full_proto, load, save
from onnxprune.groups import Analysis
from onnxprune.groups import analyze as _analyze
from onnxprune.plans import Plan
from onnxprune.report.result import prune_report
from onnxprune.scoring import needed
from onnxprune.surgery import apply_plan
from onnxprune.validation import Result
from onnxprune.validation import validate as _validate

Source = str | PathLike[str] | onnx.ModelProto | Model
Data = str | PathLike[str] | Batches | Iterable[Any] | Callable[[], Iterable[Any]]
Stage = Callable[[str, int, int], None]  # name of the stage, steps done, steps in all (0: unknown)


def _model(source: Source) -> Model:
    return source if isinstance(source, Model) else load(source)


def analyze(source: Source) -> Analysis:
    """The groups of a model, what is frozen and why. Raises ModelError for a file that is not a valid model."""
    return _analyze(_model(source))


def plan(
    source: Source | Analysis, options: Options | None = None, *, calib: Data | None = None, **changes: Any
) -> Plan:
    """Score and rank: what stays of each group. `changes` are fields of `Options`: `plan(model, ratio=0.3)`.

    `calib` is what a criterion of activations watches the network on: whatever `calibration.load_data` takes, else seeded
    random inputs.
    Raises OnnxPruneError for an impossible ratio, an unknown criterion, a glob that matches nothing, NaN weights.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = options or Options(**changes)
    batches = None if calib is None else load_data(calib, input_specs(analysis.model.proto))
    return make_plan(analysis, options, statistics=watch(analysis, options, batches))


def watch(
    analysis: Analysis, options: Options, batches: Batches | None, progress: Progress | None = None
) -> Statistics | None:
    """What the criterion has to know of the activations: nothing, or statistics of `batches`, else of random inputs."""
    wanted = needed(analysis, analysis.groups, options.criterion)
    if not wanted:
        return None
    return gather(analysis, batches or random_batches(analysis.model, options.seed), wanted, progress=progress)


def apply(source: Source | Analysis, plan: Plan) -> Model:
    """A new model with the plan's channels gone; the source is not changed. Raises PlanError where it does not fit."""
    analysis = source if isinstance(source, Analysis) else analyze(source)
    return apply_plan(analysis, plan)


def validate(
    original: Source,
    candidate: Source,
    *,
    data: Data | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Result:
    """Run both models on the same inputs in ONNX Runtime and measure how far the outputs moved.

    `data` is whatever `calibration.load_data` takes; without it, seeded random inputs.
    """
    a, b = _runnable(original), _runnable(candidate)
    batches = None if data is None else load_data(data, input_specs(_model(original).proto))
    return _validate(a, b, data=batches, seed=seed, threads=threads)


def _runnable(source: Source) -> Path | onnx.ModelProto:
    """What ONNX Runtime can open: the file where the model is one, else the message with its weights."""
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, Model):
        return full_proto(source)
    return Path(source)


def _data(source: Data | None, model: Model, preprocess: Preprocess | None) -> Batches | None:
    return None if source is None else load_data(source, input_specs(model.proto), preprocess=preprocess)


@dataclass
class Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: the files it wrote, the plan, and the report (a dictionary, see the README)."""

    files: list[Path]
    plan: Plan
    report: dict[str, Any]


class NotCompared(OnnxPruneError):
    """The model is written, but could not be compared with the original; `made` is the rest of what `prune` did."""

    def __init__(self, why: str, made: Pruned) -> None:
        super().__init__(f"{why}; {made.files[0]} is written, but not compared (--no-validate leaves that out)")
        self.made = made


def prune(
    source: str | PathLike[str] | onnx.ModelProto,
    out: str | PathLike[str] | None,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    plan_out: str | PathLike[str] | None = None,
    calib: Data | None = None,
    samples: int | None = None,
    data: Data | None = None,
    preprocess: Preprocess | None = None,
    check: bool = True,
    seed: int = 0,
    stage: Stage | None = None,
    **changes: Any,
) -> Pruned:
    """Load, analyze, plan (or take `plan`), apply, save, validate: the whole pipeline, as the command line runs it.

    `out` None is a dry run: the report predicts, nothing is saved or validated. `plan_out` is written as soon as the
    plan is made. `calib` is what a criterion of activations watches the network on, at most `samples` of it, else random
    inputs; `data` is what the outputs are compared on. Both take what `calibration.load_data` takes; `preprocess` is for
    pictures among them. `check` False leaves validation out. `stage` is told of progress. `changes` are fields of `Options`.
    Raises NotCompared where only the validation fails.
    """
    clock, tell = Clock(), stage or (lambda *_: None)
    options = options or Options(**{"seed": seed, **changes})
    tell("load", 0, 0)
    with clock.time("load"):
        model = load(source)
        batches = _data(data, model, preprocess) if check else None
        calibration = _data(calib, model, preprocess)
        if calibration is not None and samples is not None:
            calibration = calibration.limit(samples)
    tell("analyze", 0, 0)
    with clock.time("analyze"):
        analysis = _analyze(model)
    with clock.time("calibrate"):
        seen = None if plan else watch(analysis, options, calibration, lambda done, of: tell("calibrate", done, of))
    with clock.time("plan"):
        used = plan or make_plan(analysis, options, lambda done, of: tell("plan", done, of), seen)
        if plan_out is not None:
            used.save(Path(plan_out))
    tell("apply", 0, 0)
    with clock.time("apply"):
        smaller = apply_plan(analysis, used)
    files: list[Path] = []
    if out is not None:
        tell("save", 0, 0)
        with clock.time("save"):
            files = save(smaller, out)
    result, failure = None, None
    if check and files:
        tell("validate", 0, 0)
        with clock.time("validate"):
            try:
                result = validate(source, files[0], data=batches, seed=seed)
            except OnnxPruneError as e:
                failure = e
    report = prune_report(analysis, used, smaller, files, result, clock.seconds, None if plan else options, seen)
    if failure:
        raise NotCompared(str(failure), Pruned(files, used, report)) from failure
    return Pruned(files, used, report)
