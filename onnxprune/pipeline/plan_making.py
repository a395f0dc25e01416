"""The plan of a pipeline, and the evaluator that measures for it."""

from __future__ import annotations

from pathlib import Path

from onnxprune.allocate import Cache, Evaluator, make_plan
from onnxprune.allocate.timing.timing_table import TimingTable, find_default_path
from onnxprune.calibration import Batches
from onnxprune.forecast import forecast
from onnxprune.groups import Analysis
from onnxprune.measure import ACCURACY, load_metric
from onnxprune.pipeline.batches import choose_memory
from onnxprune.pipeline.work import Clock, Work
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.settings import Options, RunSettings


def make_evaluator(
    analysis: Analysis,
    options: Options,
    batches: Batches | None,
    run: RunSettings,
    progress: StageProgress | None,
) -> Evaluator:
    """Make the evaluator for planning and repair; `run` names the files of stored measurements."""
    method = options.resolved(batches is not None).repair or "none"
    kept = Cache(None if run.cache is None else Path(run.cache))
    timed = TimingTable(Path(run.timings or find_default_path()) if options.latency is not None else None)
    metric = load_metric(run.metric)
    if metric is None and options.max_drop is not None and batches is not None and batches.has_labels:
        metric = ACCURACY
    report = progress or (lambda *_: None)
    memory = choose_memory(run)
    return Evaluator(
        analysis, batches, method, kept, timed, report, options.seed, metric, memory=memory,
        effort=options.effort,
    )  # fmt: skip


def find_plan(analysis: Analysis, evaluator: Evaluator, work: Work, clock: Clock) -> Plan:
    """The plan that was given, or one that is made; where that is interrupted, the best so far is written where one was wanted."""
    expect, passes = getattr(clock.progress, "expect", None), work.training.passes if work.training.distill else 0
    if (
        expect
        and work.options
        and not work.plan
        and (expected := forecast(evaluator, work.options, work.run.check, passes))
    ):
        expect(expected)
    try:
        with clock.time("plan"):
            used = work.plan or (make_plan(analysis, work.options, evaluator) if work.options else Plan("", {}))
    except KeyboardInterrupt:
        if work.plan_out is None or evaluator.best is None:
            raise
        evaluator.best.save(Path(work.plan_out))
        raise KeyboardInterrupt(f"the best plan so far is in '{work.plan_out}'; --plan applies it") from None
    if work.plan_out is not None:
        used.save(Path(work.plan_out))
    return used
