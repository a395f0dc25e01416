"""The few functions that most programs need: load, analyze, plan, apply, validate, save; `prune` does all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from os import PathLike
from typing import Any, TypeVar

from onnxprune.allocate import COMPARISON_SAMPLES, RATIOS, Table, make_plan, measure, select_candidates
from onnxprune.calibration import Preprocess
from onnxprune.candidates import run_repair
from onnxprune.display import choose_progress
from onnxprune.distillation import run_distillation
from onnxprune.errors import SettingError
from onnxprune.free import settle
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import save
from onnxprune.groups import Analysis
from onnxprune.groups import analyze as _analyze
from onnxprune.measure import load_metric
from onnxprune.pipeline import (
    Data,
    NotCompared,
    Work,
    convert_once,
    draws_inputs,
    make_calibration_batches,
    make_evaluator,
    read_batches,
    run,
    runnable,
)
from onnxprune.plain_settings import suggest_near
from onnxprune.plans import Plan
from onnxprune.progress import ProgressChoice
from onnxprune.result import CandidateResult, DistilledResult, PruneResult, Source
from onnxprune.settings import Options, RunSettings, Sparsity, Training
from onnxprune.settings.table import find_class_settings
from onnxprune.surgery import apply_plan
from onnxprune.validation import Result
from onnxprune.validation import validate as _validate

__all__ = [
    "CandidateResult", "DistilledResult", "NotCompared", "PruneResult", "analyze", "apply", "distill", "load", "plan", "prune",
    "repair_model", "save",
    "sensitivity", "sparsify", "validate",
]  # fmt: skip

T = TypeVar("T")
Chosen = TypeVar("Chosen", Options, Sparsity, Training)


def analyze(source: Source) -> Analysis:
    """Find the groups of a model, and what is frozen and why.

    Args:
        source: whatever `load` takes; it is not changed.

    Returns:
        The groups, with the weights they live in.

    Raises:
        ModelError: the file is not a valid model.
    """
    return _analyze(load(source))


def plan(
    source: Source | Analysis,
    options: Options | None = None,
    *,
    calib: Data | None = None,
    samples: int | None = None,
    cache: str | PathLike[str] | None = None,
    timings: str | PathLike[str] | None = None,
    metric: Any = None,
    memory: int | str | None = None,
    progress: ProgressChoice = None,
    **changes: Any,
) -> Plan:
    """Score and rank the channels of each group: `plan(model, ratio=0.3)`.

    Those that change no output go first, and with `ratio=0` no others: `Choice.free` names them.

    Args:
        source: whatever `load` takes, or what `analyze` found of one.
        options: what to remove; `changes` stand over it.
        calib: what the network is watched on, and what errors are measured on: whatever `calibration.load_data` takes.
            Without it, criteria of activations get drawn scenes where the model takes pictures, else seeded random inputs.
        samples: at most so many of `calib`.
        cache: a file that keeps what was measured.
        timings: for a budget of `latency`, the file that keeps how long layers take on this machine.
        metric: your own measure, a function of outputs and labels, higher is better; or the text "FILE.py:function".
        memory: what data may take, in bytes or as "4GB"; half of what is free, at most 4GiB, unless given.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.
        changes: fields of `Options`.

    Returns:
        The channels that stay, group by group.

    Raises:
        OnnxPruneError: an impossible ratio, an unknown criterion, a glob that matches nothing, NaN weights.
        SettingError: there is no such setting.
    """
    options = _override(options or Options(), changes)
    analysis = source if isinstance(source, Analysis) else analyze(source)
    run = RunSettings(calib, samples, cache=cache, timings=timings, metric=metric, memory=memory)
    run.check_values()
    batches = make_calibration_batches(run, analysis.model, options.seed)
    options.check()
    options = options.resolved(batches is not None, draws_inputs(options, analysis.model, batches))
    with choose_progress(progress) as shown:
        return make_plan(analysis, options, make_evaluator(analysis, options, batches, run, shown))


def sensitivity(
    source: Source | Analysis,
    calib: Data,
    options: Options | None = None,
    *,
    samples: int = COMPARISON_SAMPLES,
    preprocess: Preprocess | Sequence[str] | None = None,
    ratios: Sequence[float] = RATIOS,
    cache: str | PathLike[str] | None = None,
    memory: int | str | None = None,
    progress: ProgressChoice = None,
    **changes: Any,
) -> dict[str, Table]:
    """Measure how far the outputs move where each group is pruned alone, at several ratios.

    Args:
        source: whatever `load` takes, or what `analyze` found of one.
        calib: the data to measure on: whatever `calibration.load_data` takes.
        options: those count that choose groups and rank channels; `changes` stand over them.
        samples: at most so many of `calib`.
        preprocess: how pictures become inputs: a Preprocess, or the parts of one as text.
        ratios: the fractions of channels to remove.
        cache: a file to which every measurement is written as soon as it is made; what is found there is not measured again.
        memory: what data may take, in bytes or as "4GB"; half of what is free, at most 4GiB, unless given.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.
        changes: fields of `Options`.

    Returns:
        A table for each group, by its name.

    Raises:
        OnnxPruneError: the model, the data or the options are not what they should be.
        SettingError: there is no such setting.
    """
    options = _override(options or Options(), changes)
    # Each group is measured at the ratios that are asked for, not at the nearest count that is fast.
    options = replace(options, target=options.target or "none").resolved(True)
    analysis = source if isinstance(source, Analysis) else analyze(source)
    run = RunSettings(calib, samples, preprocess=preprocess, cache=cache, memory=memory)
    run.check_values()
    batches = make_calibration_batches(run, analysis.model, options.seed)
    with choose_progress(progress) as shown:
        evaluator = replace(make_evaluator(analysis, options, batches, run, shown), comparison_samples=samples)
        chosen = select_candidates(analysis, options, evaluator.watch(analysis, options))
        return measure(
            chosen, evaluator.comparer, ratios, evaluator.cache, progress=evaluator.stage_progress("measure")
        )


def apply(
    source: Source | Analysis,
    plan: Plan,
    *,
    calib: Data | None = None,
    samples: int | None = None,
    repair: str | None = None,
    seed: int = 0,
    memory: int | str | None = None,
    progress: ProgressChoice = None,
) -> Model:
    """Remove the channels that a plan does not keep, and repair the layers that stay.

    What read the channels that the plan calls free makes up for them exactly.

    Args:
        source: whatever `load` takes, or what `analyze` found of one; it is not changed.
        plan: the channels that stay.
        calib: as in `plan`; with it, the layers that stay take over what the removed channels did.
        samples: at most so many of `calib`.
        repair: the method; None is lstsq with `calib`, none without, so that nothing but the plan is applied. A method without
            data gets drawn scenes where the model takes pictures (`prune` does that of itself), else seeded random inputs.
        seed: of those inputs.
        memory: what data may take, in bytes or as "4GB"; half of what is free, at most 4GiB, unless given.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.

    Returns:
        A new model.

    Raises:
        PlanError: the plan does not fit the model.
        OnnxPruneError: there is no such method, or the data are not what they should be.
    """
    analysis = source if isinstance(source, Analysis) else analyze(source)
    options = Options(repair=repair, seed=seed)
    options.check()
    run = RunSettings(calib, samples, memory=memory)
    run.check_values()
    analysis, plan = settle(analysis, plan)
    batches = make_calibration_batches(run, analysis.model, options.seed)
    with choose_progress(progress) as shown:
        evaluator = make_evaluator(analysis, options, batches, run, shown)
        return apply_plan(analysis, plan) if evaluator.repair == "none" else evaluator.finish(plan)[0]


def validate(
    original: Source,
    candidate: Source,
    *,
    data: Data | None = None,
    preprocess: Preprocess | Sequence[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    timed: bool = False,
    profile: bool = False,
    metric: Any = None,
) -> Result:
    """Run both models on the same inputs in ONNX Runtime and measure how far the outputs moved.

    Args:
        original: whatever `load` takes.
        candidate: the model to judge, of any of these kinds too.
        data: whatever `calibration.load_data` takes; without it, seeded random inputs.
        preprocess: how pictures among the data become inputs: a Preprocess, or the parts of one as text.
        seed: of random inputs.
        threads: of ONNX Runtime; None leaves it to ONNX Runtime.
        timed: measure latency too.
        profile: measure peak memory too; each model runs once in a process of its own.
        metric: your own measure, a function of outputs and labels, higher is better; or the text "FILE.py:function".

    Returns:
        The errors, and what else was measured.

    Raises:
        OnnxPruneError: the models do not have the same inputs and outputs, one does not run, or the data do not fit.
    """
    original, candidate = convert_once(original), convert_once(candidate)
    a, b = runnable(original), runnable(candidate)
    batches = None if data is None else read_batches(data, load(original), preprocess)
    return _validate(
        a, b, data=batches, seed=seed, threads=threads, timed=timed, profile=profile, metric=load_metric(metric)
    )


def prune(
    source: Source,
    out: str | PathLike[str] | None = None,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    plan_out: str | PathLike[str] | None = None,
    sparsity: Sparsity | None = None,
    dry_run: bool = False,
    example_inputs: Any = None,
    progress: ProgressChoice = None,
    **settings: Any,
) -> PruneResult:
    """Load, analyze, plan (or take `plan`), apply, repair, save, validate: the whole pipeline, as the command line runs it.

    `prune("a.onnx", "b.onnx", macs=0.5, calib="pictures.npz")`; `prune(proto, ratio=0.3).model` is a ModelProto again. Without
    `data`, outputs and layers are compared on `calib`.

    Args:
        source: whatever `load` takes; it is not changed.
        out: where the pruned model is written; None writes no file, the result has the model all the same.
        options: what to remove; `settings` that are fields of `Options` stand over it.
        plan: the channels that stay, decided before; of the options only `repair`, `seed` and `target` count then.
        plan_out: where the plan is written, as soon as it is made.
        sparsity: what becomes zero of what stays, as `sparsify` does it.
        dry_run: only predict: nothing is repaired, written or compared, but for the plan.
        example_inputs: for a torch.nn.Module what it is called with when it is exported: a tensor, or a tuple of arguments.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.
        settings: fields of `Options`, of `RunSettings` and of `Training`.

    Returns:
        The model in the kind that came in, the report and the plan.

    Raises:
        NotCompared: the model is made, and only the comparison with the original failed.
        OnnxPruneError: the model, the data, the plan or the settings are not what they should be, or a file cannot be written.
        SettingError: there is no such setting, or an argument is not of its type.
    """
    _check_types(options, Options, plan, sparsity)
    run_settings, settings = _take(RunSettings, settings)
    training, settings = _take(Training, settings)
    chosen = _override(options or Options(), settings, RunSettings, Training)
    work = Work(chosen, plan, sparsity, run_settings, training, plan_out, dry_run, example_inputs)
    with choose_progress(progress) as shown:
        return run(source, out, work, shown)


def sparsify(
    source: Source,
    out: str | PathLike[str] | None = None,
    options: Sparsity | None = None,
    *,
    plan: Plan | None = None,
    dry_run: bool = False,
    progress: ProgressChoice = None,
    **settings: Any,
) -> PruneResult:
    """Zeros in a pattern that hardware is fast on, 2:4 unless said otherwise; no channel is removed, unless a plan says so.

    `sparsify("model.onnx", "sparse.onnx", pattern="2:4", calib="pictures.npz")`. Of the settings, `cast` "fp16" writes half
    precision, and `gemm` turns a MatMul with a constant matrix into a Gemm.

    Args:
        source: whatever `load` takes; it is not changed.
        out: where the sparse model is written; None writes no file, the result has the model all the same.
        options: which pattern, and where; `settings` that are fields of `Sparsity` stand over it.
        plan: the channels that stay; all of them without.
        dry_run: only predict, by magnitude: nothing is repaired, written or compared.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.
        settings: fields of `Sparsity`, of `RunSettings` and of `Training`.

    Returns:
        As `prune`; the report's `sparsity` has a row for each layer.

    Raises:
        NotCompared: the model is made, and only the comparison with the original failed.
        OnnxPruneError: the model, the data, the plan or the settings are not what they should be, or a file cannot be written.
        SettingError: there is no such setting, or an argument is not of its type.
    """
    _check_types(options, Sparsity, plan)
    run_settings, settings = _take(RunSettings, settings)
    training, settings = _take(Training, settings)
    chosen = _override(options or Sparsity(), settings, RunSettings, Training)
    work = Work(None, plan, chosen, run_settings, training, dry_run=dry_run)
    with choose_progress(progress) as shown:
        return run(source, out, work, shown)


def repair_model(
    original: Source,
    candidate: Source,
    out: str | PathLike[str] | None = None,
    *,
    calib: Data,
    samples: int | None = None,
    data: Data | None = None,
    preprocess: Preprocess | Sequence[str] | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    check: bool = True,
    progress: ProgressChoice = None,
) -> CandidateResult:
    """Fit the layers of a candidate to the original's, one after the other, by least squares and without labels.

    The candidate may be pruned, masked (its zeros stay zero) or rewritten, by any tool, from the same original. Its layers are
    found by names, or by what they read; which channels they still have, by how these move on the data. The result is
    never worse on the data than the candidate: where nothing is better, its weights are the candidate's.

    Args:
        original: whatever `load` takes; it is not changed.
        candidate: the model to repair, of any of these kinds too; it is not changed.
        out: where the repaired model is written; None writes no file.
        calib: the inputs to fit on: whatever `calibration.load_data` takes.
        samples: at most so many of `calib`.
        data: the inputs to compare on, with labels if there are any; `calib` without.
        preprocess: how pictures become inputs: a Preprocess, or the parts of one as text.
        memory: what data may take, in bytes or as "4GB"; half of what is free, at most 4GiB, unless given.
        seed: of the places in feature maps that are fitted on.
        check: compare the outputs before and after.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.

    Returns:
        The repaired model, the report and the files.

    Raises:
        OnnxPruneError: the two are no versions of one model, one does not run, the data do not fit, or a file cannot be written.
    """
    settings = RunSettings(calib, samples, data, preprocess or (), memory=memory, check=check)
    with choose_progress(progress) as shown:
        return run_repair(original, candidate, out, settings, seed, shown)


def distill(
    original: Source,
    candidate: Source,
    out: str | PathLike[str] | None = None,
    *,
    calib: Data,
    samples: int | None = None,
    data: Data | None = None,
    preprocess: Preprocess | Sequence[str] | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    check: bool = True,
    progress: ProgressChoice = None,
    **settings: Any,
) -> DistilledResult:
    """Train a candidate to make of data what the original makes of them, without labels; with torch.

    The candidate may be pruned, masked (its zeros stay zero) or rewritten, by any tool, as long as it has the original's inputs and
    outputs. One of ten samples is held out; the result is never worse on these than the candidate. Ctrl-C ends the training with
    the best so far, and the report says so.

    Args:
        original: a path, a ModelProto or a Model; it is not changed.
        candidate: the model to train, of any of these kinds too; it is not changed.
        out: where the trained model is written; None writes no file.
        calib: the inputs to learn on: whatever `calibration.load_data` takes.
        samples: at most so many of `calib`.
        data: the inputs to compare on, with labels if there are any; `calib` without.
        preprocess: how pictures become inputs: a Preprocess, or the parts of one as text.
        memory: what data may take, in bytes or as "4GB"; half of what is free, at most 4GiB, unless given.
        seed: of the order of samples and of what is changed in them.
        check: compare the outputs before and after.
        progress: called with the stage, the steps done and the steps in all; None shows a bar on a terminal or in a notebook,
            False nothing.
        settings: fields of `Training`: `passes`, `augment`, `labels` (an array, too) and others.

    Returns:
        The trained model, the report and the files.

    Raises:
        OnnxPruneError: torch is missing, an operator has no form in it, these are no versions of one model, or the data do not fit.
        SettingError: there is no such setting.
    """
    training = _override(Training(), settings)
    run_settings = RunSettings(calib, samples, data, preprocess or (), memory=memory, check=check)
    with choose_progress(progress) as shown:
        return run_distillation(original, candidate, out, run_settings, training, seed, shown)


def _take(home: type[T], settings: Mapping[str, Any]) -> tuple[T, dict[str, Any]]:
    """The settings that are fields of `home`, as one, and the others."""
    own = {k: v for k, v in settings.items() if k in find_class_settings(home)}
    return home(**own), {k: v for k, v in settings.items() if k not in own}


def _check_types(options: object, home: type, plan: object, sparsity: object = None) -> None:
    """Raise a SettingError where somebody gives a dictionary or a path for what has a type of its own."""
    for name, value, kind in (("options", options, home), ("plan", plan, Plan), ("sparsity", sparsity, Sparsity)):
        if value is not None and not isinstance(value, kind):
            hint = (
                "Plan.load(path) reads one"
                if kind is Plan
                else f"{kind.__name__}(..) makes one, its fields are settings"
            )
            raise SettingError(f"{name} is of type {type(value).__name__}; expected {kind.__name__}; {hint}")


def _override(options: Chosen, settings: Mapping[str, Any], *others: type) -> Chosen:
    """The options with these settings. A SettingError where one is unknown names those that there are, of `others` too."""
    for name in settings:
        if name not in find_class_settings(type(options)):
            known = {s: None for home in (type(options), *others) for s in find_class_settings(home)}
            raise SettingError(f"there is no setting '{name}'; {suggest_near(name, known)}")
    return replace(options, **settings)


def _document(function: Callable[..., Any], homes: Sequence[type]) -> None:
    """Give `help()` and editors the settings that a function takes."""
    own = [p for p in signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    known = [s for home in homes for s in find_class_settings(home).values()]
    taken = [Parameter(s.field, Parameter.KEYWORD_ONLY, default=s.default, annotation=s.annotation) for s in known]
    function.__signature__ = signature(function).replace(parameters=[*own, *taken])  # type: ignore[attr-defined]
    lines = [f"        {s.field}: {s.help}" for s in known]
    function.__doc__ = f"{function.__doc__}\n    Settings:\n" + "\n".join(lines) + "\n"


_document(prune, (Options, RunSettings, Training))
_document(sparsify, (Sparsity, RunSettings, Training))
