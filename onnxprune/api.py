"""The few functions that most programs need: load, analyze, plan, apply, validate, save; `prune` does all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import onnx

from onnxprune.allocate import COMPARISON_SAMPLES, RATIOS, Options, Table, candidates, make_plan, measure
from onnxprune.calibration import Preprocess
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import save
from onnxprune.groups import Analysis
from onnxprune.groups import analyze as _analyze
from onnxprune.pipeline import Data, Inputs, NotCompared, Pruned, Work, as_batches, make_evaluator, run, runnable
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.sparsity import Sparsity
from onnxprune.surgery import apply_plan
from onnxprune.validation import Result
from onnxprune.validation import validate as _validate

__all__ = [
    "NotCompared", "Pruned", "analyze", "apply", "load", "plan", "prune", "save", "sensitivity", "sparsify", "validate",
]  # fmt: skip

Source = str | PathLike[str] | onnx.ModelProto | Model


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
    batches = Inputs(calib, samples).calibration(analysis.model)
    return make_plan(analysis, options, make_evaluator(analysis, options, batches, cache, None))


def sensitivity(
    source: Source | Analysis,
    calib: Data,
    options: Options | None = None,
    *,
    samples: int = COMPARISON_SAMPLES,
    preprocess: Preprocess | None = None,
    ratios: Sequence[float] = RATIOS,
    cache: str | PathLike[str] | None = None,
    progress: StageProgress | None = None,
    **changes: Any,
) -> dict[str, Table]:
    """How far the outputs move where each group is pruned alone, at several ratios; a table for each group.

    Of the options, those count that choose groups and rank channels. Every measurement is written to `cache` as soon as it
    is made, and what is found there is not measured again.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = (options or Options(**changes)).resolved(True)
    batches = Inputs(calib, samples, preprocess=preprocess).calibration(analysis.model)
    evaluator = replace(make_evaluator(analysis, options, batches, cache, progress), comparison_samples=samples)
    chosen = candidates(analysis, options, evaluator.watch(analysis, options))
    return measure(chosen, evaluator.comparer, ratios, evaluator.cache, progress=evaluator.stage_progress("measure"))


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
    evaluator = make_evaluator(analysis, options, Inputs(calib, samples).calibration(analysis.model), None, None)
    return apply_plan(analysis, plan) if evaluator.repair == "none" else evaluator.finish(plan)[0]


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
    a, b = runnable(original), runnable(candidate)
    batches = None if data is None else as_batches(data, _model(original), preprocess)
    return _validate(a, b, data=batches, seed=seed, threads=threads, timed=timed, profile=profile)


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
    sparsity: Sparsity | None = None,
    cast: str | None = None,
    seed: int = 0,
    progress: StageProgress | None = None,
    **changes: Any,
) -> Pruned:
    """Load, analyze, plan (or take `plan`), apply, repair, save, validate: the whole pipeline, as the command line runs it.

    `out` None is a dry run: the report predicts, nothing is repaired, saved or validated. `plan_out` is written as soon as
    the plan is made. `calib`, `samples` and `cache` are those of `plan`; `data` is what outputs and layers are compared on,
    else `calib`. Both data take what `calibration.load_data` takes; `preprocess` is for pictures among them. `check` False
    leaves validation out, `profile` adds peak memory to it. `progress` is called with the stage, the steps done and the steps
    in all. `changes` are fields of `Options`, of which a given `plan` leaves but `repair`. `sparsity` and `cast` are those of
    `sparsify`, done to what stays. Raises NotCompared where only the validation fails.
    """
    options = options or Options(**{"seed": seed, **changes})
    work = Work(options, plan, sparsity, cast, False, plan_out, check, profile, seed)
    return run(source, out, work, Inputs(calib, samples, data, preprocess, cache), progress)


def sparsify(
    source: str | PathLike[str] | onnx.ModelProto,
    out: str | PathLike[str] | None,
    options: Sparsity | None = None,
    *,
    plan: Plan | None = None,
    cast: str | None = None,
    gemm: bool = False,
    calib: Data | None = None,
    samples: int | None = None,
    data: Data | None = None,
    preprocess: Preprocess | None = None,
    check: bool = True,
    profile: bool = False,
    seed: int = 0,
    progress: StageProgress | None = None,
    **changes: Any,
) -> Pruned:
    """Zeros in a pattern that hardware is fast on, 2:4 unless said otherwise; no channel goes, unless a plan says so.

    `changes` are fields of `Sparsity`: `sparsify("model.onnx", "sparse.onnx", pattern="2:4", calib="pictures.npz")`. `cast`
    "fp16" writes half precision; `gemm` turns a MatMul with a constant matrix into a Gemm. The rest is as in `prune`, and so
    is what it returns; the report's `sparsity` has a row for each layer.
    """
    work = Work(None, plan, options or Sparsity(**{"seed": seed, **changes}), cast, gemm, None, check, profile, seed)
    return run(source, out, work, Inputs(calib, samples, data, preprocess), progress)
