"""The whole pipeline, from file to file: load, plan, apply, repair, make sparse or int8, save, compare, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from onnxprune.allocate import Evaluator
from onnxprune.allocate.schedule import compose_plans
from onnxprune.calibration import Batches
from onnxprune.convert import cast, flush_subnormals, write_gemms
from onnxprune.free import make_alike, settle
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import fits_message, save
from onnxprune.groups import Analysis, analyze
from onnxprune.pipeline.batches import draws_inputs, make_calibration_batches, read_batches
from onnxprune.pipeline.comparison import compare_and_report
from onnxprune.pipeline.model_making import fit_together, make_model
from onnxprune.pipeline.plan_making import find_plan, make_evaluator
from onnxprune.pipeline.sources import convert_once, settle_weights
from onnxprune.pipeline.teaching import Teaching, prune_in_rounds
from onnxprune.pipeline.work import Clock, PipelineState, Work
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.quantize import check_quantization, quantize, refuse_quantized
from onnxprune.result import PruneResult, Source
from onnxprune.settings import Options, Sparsity
from onnxprune.settings.training import OF_WEIGHTS
from onnxprune.sparsity.patterns import NofM
from onnxprune.sparsity.resolve import check_sparsity
from onnxprune.targets import Target, choose_target
from onnxprune.training import TrainingRecipe, add_labels, check_request, hold_out, make_recipe, take_zeros


@dataclass(frozen=True)
class _Inputs:
    """A model and its data.

    compared  the data to compare with the original, where they are others than those for calibration
    given     all calibration data
    learned   those that plan, repair and training see: all, unless a training holds out the `unseen` ones
    recipe    of a training, where one is asked for
    """

    source: Source
    model: Model
    compared: Batches | None
    given: Batches | None
    learned: Batches | None
    unseen: Batches | None = None
    recipe: TrainingRecipe | None = None


def run(
    source: Source,
    out: str | PathLike[str] | None,
    work: Work,
    progress: StageProgress | None = None,
) -> PruneResult:
    """Do it; `out` None writes no file. Raises NotCompared where only the comparison fails."""
    work.run.check_values()
    check_quantization(work.run, work.sparsity)
    check_request(work.training, work.run.calib is not None, prunes=work.sparsity is None or work.options is not None)
    clock, kind = Clock(progress or (lambda *_: None)), type(source)
    with clock.time("load"):
        inputs = _read(source, work, clock.progress)
    options, sparsity, target = _resolve(work, inputs)
    if work.options is not None:
        work = replace(work, options=options)
    with clock.time("analyze"):
        analysis = analyze(inputs.model, inputs.learned.measure_sizes() if inputs.learned else {})
        analysis = make_alike(analysis, work.run.hash_weights, work.run.merge_near)
    if work.run.then_quantize is not None:
        refuse_quantized(analysis)
    teaching = _start_teaching(analysis, inputs, work, clock)
    begun = analysis
    if teaching is not None and work.training.train_method and not work.dry_run:
        begun = teaching.prepare(options, sparsity)
    rest, done, options = prune_in_rounds(begun, options, work, teaching)
    evaluator = make_evaluator(rest, options, inputs.learned, work.run, clock.progress)
    plan = find_plan(rest, evaluator, replace(work, options=options if work.options else None), clock)
    state = _make_state(rest, plan, evaluator, inputs, sparsity, teaching, work, clock)
    state.given = kind
    if done is not None:
        plan = compose_plans(done, plan)
        if work.plan_out is not None:
            plan.save(Path(work.plan_out))
    _convert(state, plan, inputs.learned, target, work, clock)
    files = _save(state, out, clock) if not work.dry_run else []
    return compare_and_report(inputs.source, files, state, analysis, plan, work, evaluator, inputs.compared, clock)


def _read(source: Source, work: Work, progress: StageProgress) -> _Inputs:
    """The model, and the data that the settings name."""
    source = convert_once(source, work.example_inputs)
    model = load(source)
    if work.run.gemm:
        model = write_gemms(model)
    compared = read_batches(work.run.data, model, work.run.preprocess) if work.run.check else None
    given = make_calibration_batches(work.run, model, work.seed, progress)
    if not work.training.distill or given is None:
        return _Inputs(source, model, compared, given, given)
    recipe = make_recipe(work.training, work.seed)
    learned, unseen = hold_out(add_labels(given, work.training, recipe.label_weight))
    return _Inputs(source, model, compared, given, learned, unseen, recipe)


def _resolve(work: Work, inputs: _Inputs) -> tuple[Options, Sparsity | None, Target]:
    """The settings with all that they leave open decided by the model, its data, and each other."""
    options, sparsity = work.options or Options(seed=work.seed, repair="none"), work.sparsity
    in_rows = sparsity is not None and isinstance(check_sparsity(sparsity), NofM)
    target = choose_target(options.target, in_rows, work.run.then_quantize is not None)
    drawn = sparsity is None and draws_inputs(options, inputs.model, inputs.learned)
    options = replace(options, target=target.name).resolved(inputs.learned is not None, drawn)
    if sparsity is not None and work.training.train_method in OF_WEIGHTS:
        sparsity = take_zeros(sparsity, work.training)
    if sparsity is not None:
        options, sparsity = fit_together(options, sparsity, work, inputs.learned is not None)
    return options, sparsity, target


def _start_teaching(analysis: Analysis, inputs: _Inputs, work: Work, clock: Clock) -> Teaching | None:
    if inputs.learned is None or inputs.unseen is None or inputs.recipe is None:
        return None
    return Teaching(analysis, inputs.learned, inputs.unseen, inputs.recipe, work, clock)


def _make_state(
    analysis: Analysis, plan: Plan, evaluator: Evaluator, inputs: _Inputs, sparsity: Sparsity | None, teaching: Teaching | None,
    work: Work, clock: Clock,
) -> PipelineState:  # fmt: skip
    """The model of a plan, trained where that is asked for. What is free moves into the weights of others first."""
    with clock.time("plan"):
        settled, settled_plan = settle(analysis, plan, evaluator.free)
    evaluator.turn_to(settled)
    state = make_model(settled, settled_plan, evaluator, sparsity, clock, work.dry_run)
    if teaching is not None and not work.dry_run:
        state.model, state.trained = teaching.train(state.model, evaluator)
        if not state.trained.improved:  # then the repair may have the samples that were held out, too
            evaluator.turn_to_data(inputs.given)
            trained = state.trained
            state = make_model(settled, settled_plan, evaluator, sparsity, clock, dry=False)
            state.trained = trained
    state.plan = settled_plan
    return state


def _convert(
    state: PipelineState, plan: Plan, calibration: Batches | None, target: Target, work: Work, clock: Clock
) -> None:
    """Give the weights the form that the target and the settings ask for."""
    if target.slow_subnormals and plan.groups:
        state.model = flush_subnormals(state.model)
    if work.run.cast is not None:
        state.model = cast(state.model, work.run.cast)
        for layer in state.sparse.layers if state.sparse else ():
            layer.verdict = layer.verdict and replace(layer.verdict, note="")
    if work.run.then_quantize is not None and calibration is not None and not work.dry_run:
        with clock.time("quantize"):
            state.pruned = settle_weights(state.model) if fits_message(state.model) else state.model
            state.quantized = quantize(state.pruned, calibration, target.symmetric, target.weight_bits)
            state.model = state.quantized.model


def _save(state: PipelineState, out: str | PathLike[str] | None, clock: Clock) -> list[Path]:
    with clock.time("save"):
        files = [] if out is None else save(state.model, out)
        state.model = load(files[0]) if files else settle_weights(state.model)
    return files
