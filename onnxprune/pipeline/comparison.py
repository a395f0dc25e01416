"""The end of a pipeline: the result beside the original, and the report."""

from __future__ import annotations

from pathlib import Path

from onnxprune.allocate import Evaluator
from onnxprune.allocate.evaluator import FOLDS
from onnxprune.calibration import Batches
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.save import count_saved_bytes
from onnxprune.groups import Analysis, analyze
from onnxprune.machine import read_free_memory
from onnxprune.measure import ACCURACY
from onnxprune.pipeline.batches import COPIES
from onnxprune.pipeline.sources import runnable
from onnxprune.pipeline.work import Clock, NotCompared, PipelineState, Work
from onnxprune.plans import Plan
from onnxprune.report.builders import prune_report
from onnxprune.report.types import (
    CompressedSize,
    Counts,
    EngineReport,
    HeldOutReport,
    QuantizationReport,
    Reconstruction,
)
from onnxprune.result import PruneResult, Source
from onnxprune.sparsity.compressed import measure_compressed
from onnxprune.sparsity.engines import measure_engines
from onnxprune.validation import Result, measure_layer_errors
from onnxprune.validation import validate as compare


def compare_and_report(
    source: Source, files: list[Path], state: PipelineState, analysis: Analysis, plan: Plan, work: Work, evaluator: Evaluator,
    batches: Batches | None, clock: Clock,
) -> PruneResult:  # fmt: skip
    result: Result | None = None
    before: Result | None = None  # of the pruned model that was quantized
    layers: Reconstruction | None = None
    failure: OnnxPruneError | None = None
    size = None if work.dry_run else sum(f.stat().st_size for f in files) or count_saved_bytes(state.model)
    too_large = _explain_too_large(analysis.model, size) if work.run.check and size is not None else ""
    if work.run.check and size is not None and not too_large:
        with clock.time("validate"):
            try:
                seen = batches or evaluator.batches
                pair = runnable(source), runnable(files[0] if files else state.model)
                result = compare(
                    *pair,
                    data=seen,
                    seed=work.seed,
                    timed=True,
                    profile=work.run.profile,
                    metric=None
                    if evaluator.metric is ACCURACY
                    else evaluator.metric,  # accuracy has a place of its own
                )
                of, moved = (state.sparse.analysis, state.sparse.plan) if state.sparse else (analysis, plan)
                layers = (
                    measure_layer_errors(of, state.in_float, seen, moved, memory=evaluator.memory) if seen else None
                )
                if state.pruned:
                    before = compare(pair[0], runnable(state.pruned), data=seen, seed=work.seed, timed=True)
                for model in (analysis.model, state.model):  # ONNX Runtime has opened them by their paths
                    model.check_unchanged()
            except OnnxPruneError as e:
                failure = e
    held_out: HeldOutReport | None = None
    try:
        held_out = _judge_held_out(work, evaluator, state.plan or plan, state, clock)
    except OnnxPruneError as e:  # a metric may fail on a part of the data
        failure = failure or e
    if state.sparse:
        with clock.time("tally"):
            state.sparse.measure()
    after = analyze(state.in_float, analysis.data)
    compressed: CompressedSize | None = None
    if state.sparse and size is not None:
        with clock.time("compress"):
            compressed = measure_compressed(analysis.model, files, state.sparse, after, size)
    engines = _forecast_engines(work, analysis, after, batches or evaluator.batches, size, evaluator, clock)
    options = None if work.plan else work.options
    report = prune_report(
        analysis, plan, after, files, size, result, clock.seconds, options, evaluator, state.repaired, layers, state.sparse,
        too_large or None, _report_quantization(state, before, work), compressed, held_out, state.trained,
        engines,
    )  # fmt: skip
    done = PruneResult(files, state.model, state.given, report, plan)
    if failure:
        raise NotCompared(str(failure), done) from failure
    return done


def _forecast_engines(
    work: Work, before: Analysis, after: Analysis, seen: Batches | None, size: int | None, evaluator: Evaluator, clock: Clock
) -> EngineReport | None:  # fmt: skip
    """What sparse engines would gain, where that was asked for, and a model was made."""
    if not work.run.sparse_engines or seen is None or work.dry_run:
        return None
    with clock.time("count"):
        return measure_engines(before, after, seen, Counts(before.model.size_bytes, size), evaluator.memory)


def _judge_held_out(
    work: Work, evaluator: Evaluator, plan: Plan, state: PipelineState, clock: Clock
) -> HeldOutReport | None:
    """The quality of the repaired plan on calibration samples that a repair has not seen, if there are no other data."""
    options = work.options
    if options is None or evaluator.batches is None or state.sparse or evaluator.repair == "none":
        return None
    if state.trained and options.limit is None:  # it was judged on samples that it did not learn
        return None
    left_out = options.effort == "low" or work.dry_run or work.run.data is not None or not work.run.check
    if options.limit is None and left_out:  # a limit has had a look already
        return None
    with clock.time("hold out"):
        return evaluator.judge(plan, FOLDS if options.limit or options.effort == "high" else 1)


def _report_quantization(state: PipelineState, before: Result | None, work: Work) -> QuantizationReport | None:
    if state.quantized is None or state.pruned is None:
        return None
    return QuantizationReport(
        element_type=work.run.then_quantize or "",
        symmetric=state.quantized.symmetric,
        weight_bits=state.quantized.weight_bits,
        layers=state.quantized.products,
        float_layers=state.quantized.in_float,
        pruned_bytes=count_saved_bytes(state.pruned),
        pruned_error=before.error if before else None,
        pruned_latency=before.latency if before else None,
    )


def _explain_too_large(model: Model, size: int) -> str:
    """Why the model and one of `size` bytes cannot be run here; empty where they can."""
    need, room = COPIES * (model.size_bytes + size), read_free_memory()
    if room is None or need <= room:
        return ""
    where = "'onnxprune validate' does it where there is more"
    return f"not compared: that takes about {need / 1e9:.1f} GB of memory, {room / 1e9:.1f} GB are free; {where}"
