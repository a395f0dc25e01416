"""The few functions that most programs need: load, analyze, plan, apply, validate, save; `prune` does all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.allocate import JUDGED, RATIOS, Cache, Means, Options, Table, candidates, make_plan, measure
from onnxprune.calibration import Batches, Preprocess, input_specs, load_data
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import Model, full_proto, load, save
from onnxprune.groups import Analysis
from onnxprune.groups import analyze as _analyze
from onnxprune.plans import Plan
from onnxprune.report.result import prune_report
from onnxprune.surgery import apply_plan
from onnxprune.validation import Result, layer_errors
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
    source: Source | Analysis,
    options: Options | None = None,
    *,
    calib: Data | None = None,
    samples: int | None = None,
    cache: str | PathLike[str] | None = None,
    **changes: Any,
) -> Plan:
    """Score and rank: what stays of each group. `changes` are fields of `Options`: `plan(model, ratio=0.3)`.

    `calib` is what the network is watched on, and what errors are measured on: whatever `calibration.load_data` takes, at
    most `samples` of it; without, criteria of activations get seeded random inputs. `cache` names a file that keeps what was
    measured.
    Raises OnnxPruneError for an impossible ratio, an unknown criterion, a glob that matches nothing, NaN weights.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = options or Options(**changes)
    batches = _calibration(calib, samples, analysis.model, None)
    return make_plan(analysis, options, _means(analysis, options, batches, cache, None))


def sensitivity(
    source: Source | Analysis,
    calib: Data,
    options: Options | None = None,
    *,
    samples: int = JUDGED,
    preprocess: Preprocess | None = None,
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
    options = (options or Options(**changes)).resolved(True)
    batches = _calibration(calib, samples, analysis.model, preprocess)
    means = replace(_means(analysis, options, batches, cache, stage), judged=samples)
    chosen = candidates(analysis, options, means.watch(analysis, options))
    return measure(chosen, means.judge, ratios, means.cache, progress=means.progress("measure"))


def _means(
    analysis: Analysis,
    options: Options,
    batches: Batches | None,
    cache: str | PathLike[str] | None,
    stage: Stage | None,
) -> Means:
    method = options.resolved(batches is not None).repair or "none"
    kept = Cache(None if cache is None else Path(cache))
    return Means(analysis, batches, method, kept, stage or (lambda *_: None), options.seed)


def _calibration(
    source: Data | None, samples: int | None, model: Model, preprocess: Preprocess | None
) -> Batches | None:
    batches = _data(source, model, preprocess)
    return batches if batches is None or samples is None else batches.limit(samples)


def apply(
    source: Source | Analysis,
    plan: Plan,
    *,
    calib: Data | None = None,
    samples: int | None = None,
    repair: str | None = None,
    seed: int = 0,
) -> Model:
    """A new model with the plan's channels gone; the source is not changed.

    With `calib` (as in `plan`) the layers that stay take over what the removed channels did, by the method `repair`: lstsq
    where it is None. A method without data gets seeded random inputs.
    Raises PlanError where the plan does not fit, OnnxPruneError for an unknown method.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = Options(repair=repair, seed=seed)
    options.check()
    means = _means(analysis, options, _calibration(calib, samples, analysis.model, None), None, None)
    return apply_plan(analysis, plan) if means.repair == "none" else means.finish(plan)[0]


def validate(
    original: Source,
    candidate: Source,
    *,
    data: Data | None = None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    threads: int | None = None,
    timed: bool = False,
    profile: bool = False,
) -> Result:
    """Run both models on the same inputs in ONNX Runtime and measure how far the outputs moved.

    `data` is whatever `calibration.load_data` takes; without it, seeded random inputs. `preprocess` is for pictures among
    them. `timed` measures latency too, `profile` peak memory, for which each model runs in a process of its own.
    """
    a, b = _runnable(original), _runnable(candidate)
    batches = None if data is None else load_data(data, input_specs(_model(original).proto), preprocess=preprocess)
    return _validate(a, b, data=batches, seed=seed, threads=threads, timed=timed, profile=profile)


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
    cache: str | PathLike[str] | None = None,
    data: Data | None = None,
    preprocess: Preprocess | None = None,
    check: bool = True,
    profile: bool = False,
    seed: int = 0,
    stage: Stage | None = None,
    **changes: Any,
) -> Pruned:
    """Load, analyze, plan (or take `plan`), apply, repair, save, validate: the whole pipeline, as the command line runs it.

    `out` None is a dry run: the report predicts, nothing is repaired, saved or validated. `plan_out` is written as soon as
    the plan is made. `calib`, `samples` and `cache` are those of `plan`; `data` is what outputs and layers are compared on,
    else `calib`. Both data take what `calibration.load_data` takes; `preprocess` is for pictures among them. `check` False
    leaves validation out, `profile` adds peak memory to it. `stage` is told of progress. `changes` are fields of `Options`,
    of which a given `plan` leaves but `repair`. Raises NotCompared where only the validation fails.
    """
    clock, tell = Clock(), stage or (lambda *_: None)
    options = options or Options(**{"seed": seed, **changes})
    tell("load", 0, 0)
    with clock.time("load"):
        model = load(source)
        batches = _data(data, model, preprocess) if check else None
        calibration = _calibration(calib, samples, model, preprocess)
    options = options.resolved(calibration is not None)
    tell("analyze", 0, 0)
    with clock.time("analyze"):
        analysis = _analyze(model)
    with clock.time("plan"):
        means = _means(analysis, options, calibration, cache, tell)
        used = plan or make_plan(analysis, options, means)
        if plan_out is not None:
            used.save(Path(plan_out))
    repaired = None
    if means.repair != "none" and out is not None:
        tell("repair", 0, 0)
        with clock.time("repair"):
            smaller, repaired = means.finish(used)
    else:
        tell("apply", 0, 0)
        with clock.time("apply"):
            smaller = apply_plan(analysis, used)
    files: list[Path] = []
    if out is not None:
        tell("save", 0, 0)
        with clock.time("save"):
            files = save(smaller, out)
    result, layers, failure = None, None, None
    if check and files:
        tell("validate", 0, 0)
        with clock.time("validate"):
            try:
                seen = batches or calibration
                result = validate(source, files[0], data=seen, seed=seed, timed=True, profile=profile)
                layers = layer_errors(analysis, smaller, seen, used) if seen else None
            except OnnxPruneError as e:
                failure = e
    after, took = _analyze(smaller), clock.seconds
    report = prune_report(
        analysis, used, after, files, result, took, None if plan else options, means, repaired, layers
    )
    if failure:
        raise NotCompared(str(failure), Pruned(files, used, report)) from failure
    return Pruned(files, used, report)
