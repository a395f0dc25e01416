"""The few functions that most programs need: load, analyze, plan, apply, validate, save; `prune` does all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.allocate import RATIOS, Cache, Judge, Means, Options, Table, candidates, make_plan, measure
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import Model, full_proto, load, save
from onnxprune.groups import Analysis
from onnxprune.groups import analyze as _analyze
from onnxprune.plans import Plan
from onnxprune.report.result import prune_report
from onnxprune.surgery import apply_plan
from onnxprune.validation import Batches, Result, input_specs, load_data
from onnxprune.validation import validate as _validate

Source = str | PathLike[str] | onnx.ModelProto | Model
Data = str | PathLike[str] | Iterable[Mapping[str, Any]]  # a file or folder, or batches: dictionaries of arrays
SAMPLES = 256  # of the calibration data, for each measurement of an error
Stage = Callable[[str, int, int], None]  # name of the stage, steps done, steps in all (0: unknown)


def _model(source: Source) -> Model:
    return source if isinstance(source, Model) else load(source)


def analyze(source: Source) -> Analysis:
    """The groups of a model, what is frozen and why. Raises ModelError for a file that is not a valid model."""
    return _analyze(_model(source))


def plan(
    source: Source | Analysis,
    options: Options | None = None,
    *,
    calib: Data | None = None,
    samples: int = SAMPLES,
    cache: str | PathLike[str] | None = None,
    **changes: Any,
) -> Plan:
    """Score and rank: what stays of each group. `changes` are fields of `Options`: `plan(model, ratio=0.3)`.

    With a budget, `calib` (inputs as `validate` takes them, the first `samples`) lets the allocation measure errors, and
    `cache` names a file that keeps what was measured.
    Raises OnnxPruneError for an impossible ratio, an unknown criterion, a glob that matches nothing, NaN weights.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = options or Options(**changes)
    return make_plan(analysis, options, _means(analysis, options, calib, samples, cache, None))


def sensitivity(
    source: Source | Analysis,
    calib: Data,
    options: Options | None = None,
    *,
    samples: int = SAMPLES,
    ratios: Sequence[float] = RATIOS,
    cache: str | PathLike[str] | None = None,
    stage: Stage | None = None,
    **changes: Any,
) -> dict[str, Table]:
    """How far the outputs move where each group is pruned alone, at several ratios; a table for each group.

    Of the options, those count that choose groups and rank channels. Every measurement is written to `cache` as soon as it
    is made, and what is found there is not measured again.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = options or Options(**changes)
    judge = _judge(analysis, calib, samples)
    progress = None if stage is None else lambda done, of: stage("measure", done, of)
    return measure(candidates(analysis, options), judge, ratios, _cache(cache), progress=progress)


def _means(
    analysis: Analysis,
    options: Options,
    calib: Data | None,
    samples: int,
    cache: str | PathLike[str] | None,
    stage: Stage | None,
) -> Means:
    wanted = options.budget or options.limit
    judge = _judge(analysis, calib, samples) if calib is not None and wanted else None
    return Means(judge, _cache(cache), tell=stage or (lambda *_: None))


def _judge(analysis: Analysis, calib: Data, samples: int) -> Judge:
    if isinstance(calib, str | PathLike):
        calib = load_data(Path(calib), input_specs(analysis.model.proto))
    return Judge(analysis, calib, samples=samples)


def _cache(path: str | PathLike[str] | None) -> Cache:
    return Cache(None if path is None else Path(path))


def apply(source: Source | Analysis, plan: Plan) -> Model:
    """A new model with the plan's channels gone; the source is not changed. Raises PlanError where it does not fit."""
    analysis = source if isinstance(source, Analysis) else analyze(source)
    return apply_plan(analysis, plan)


def validate(
    original: Source,
    candidate: Source,
    *,
    data: str | PathLike[str] | Batches | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Result:
    """Run both models on the same inputs in ONNX Runtime and measure how far the outputs moved.

    `data` is an .npz or a folder of .npy (see `validate.data.load_data`); without it, seeded random inputs.
    """
    a, b = _runnable(original), _runnable(candidate)
    if data is not None and not isinstance(data, Batches):
        data = load_data(Path(data), input_specs(_model(original).proto))
    return _validate(a, b, data=data, seed=seed, threads=threads)


def _runnable(source: Source) -> Path | onnx.ModelProto:
    """What ONNX Runtime can open: the file where the model is one, else the message with its weights."""
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, Model):
        return full_proto(source)
    return Path(source)


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
    samples: int = SAMPLES,
    cache: str | PathLike[str] | None = None,
    data: str | PathLike[str] | None = None,
    check: bool = True,
    seed: int = 0,
    stage: Stage | None = None,
    **changes: Any,
) -> Pruned:
    """Load, analyze, plan (or take `plan`), apply, save, validate: the whole pipeline, as the command line runs it.

    `out` None is a dry run: the report predicts, nothing is saved or validated. `plan_out` is written as soon as the
    plan is made. `calib`, `samples` and `cache` are those of `plan`. `check` False leaves validation out. `stage` is told
    of progress. `changes` are fields of `Options`.
    Raises NotCompared where only the validation fails.
    """
    clock, tell = Clock(), stage or (lambda *_: None)
    options = options or Options(**{"seed": seed, **changes})
    tell("load", 0, 0)
    with clock.time("load"):
        model = load(source)
        batches = load_data(Path(data), input_specs(model.proto)) if check and data is not None else None
    tell("analyze", 0, 0)
    with clock.time("analyze"):
        analysis = _analyze(model)
    with clock.time("plan"):
        used = plan or make_plan(analysis, options, _means(analysis, options, calib, samples, cache, tell))
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
    report = prune_report(analysis, used, smaller, files, result, clock.seconds, None if plan else options)
    if failure:
        raise NotCompared(str(failure), Pruned(files, used, report)) from failure
    return Pruned(files, used, report)
