"""The whole pipeline, from file to file: load, plan, apply, repair, make sparse or int8, save, compare, report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import onnx

from onnxprune.allocate import Cache, Evaluator, make_plan
from onnxprune.allocate.evaluator import FOLDS
from onnxprune.allocate.rounds import Rounds
from onnxprune.allocate.schedule import composed
from onnxprune.allocate.selection import left_out
from onnxprune.allocate.timing.timing_table import TimingTable, default_path
from onnxprune.calibration import (
    Batches,
    Preprocess,
    check_finite,
    input_specs,
    load_data,
    random_batches,
    read_preprocess,
)
from onnxprune.calibration.array_store import MEMORY_BYTES, Memory
from onnxprune.calibration.own import write_text
from onnxprune.calibration.substitutes import substitute_batches, takes_pictures
from onnxprune.convert import cast, flush_subnormals, gemms
from onnxprune.errors import OnnxPruneError
from onnxprune.forecast import forecast
from onnxprune.free import make_alike, settle
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.save import fits_message, full_proto, save, saved_bytes
from onnxprune.groups import Analysis, analyze
from onnxprune.machine import memory_bytes
from onnxprune.measure import ACCURACY, load_metric
from onnxprune.plans import Plan
from onnxprune.progress import StageProgress
from onnxprune.quantize import Quantized, check_quantization, quantize, refuse_quantized
from onnxprune.report.builders import prune_report
from onnxprune.report.types import (
    CompressedSize,
    Counts,
    DistillationReport,
    EngineReport,
    HeldOutReport,
    QuantizationReport,
    Reconstruction,
    RepairReport,
)
from onnxprune.result import PruneResult, Source
from onnxprune.settings import Options, RunSettings, Sparsity, Training
from onnxprune.settings.data import is_own
from onnxprune.settings.quantities import size_bytes
from onnxprune.settings.training import OF_WEIGHTS, SOFT
from onnxprune.sparsity import Sparsified, sparsify
from onnxprune.sparsity.compressed import measure_compressed
from onnxprune.sparsity.engines import measure_engines
from onnxprune.sparsity.patterns import NofM
from onnxprune.sparsity.resolve import check_sparsity, resolve_sparsity
from onnxprune.surgery import apply_plan
from onnxprune.targets import choose_target
from onnxprune.training import (
    TrainingRecipe,
    check_request,
    hold_out,
    make_recipe,
    make_task,
    take_zeros,
    train,
    train_before_pruning,
    with_labels,
)
from onnxprune.validation import Result, layer_errors
from onnxprune.validation import validate as compare

Data = str | PathLike[str] | Batches | Iterable[Any] | Callable[[], Iterable[Any]]
# What a plan takes that is made after each pass of a training.
QUICK_PLAN: dict[str, Any] = {
    "criterion": "l2",
    "repair": "none",
    "effort": "low",
    "depth": False,
    "steps": 1,
    "scope": "local",
}
COPIES = 2.5  # of both models together that comparing them takes, at the least


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


def calibration_batches(
    run: RunSettings, model: Model, seed: int = 0, progress: StageProgress | None = None
) -> Batches | None:
    """The calibration data that the settings name, or what the model makes itself; None without."""
    if is_own(run.calib):
        return _own_batches(run, model, seed, progress)
    if run.text_length is not None or run.start_token is not None:
        raise OnnxPruneError(
            "text-length and start-token are for texts that the model writes itself; give --calib self"
        )
    batches = as_batches(run.calib, model, run.preprocess)
    if batches is not None and run.samples is not None:
        batches = batches.limit(run.samples)
    if batches is not None:
        check_finite(batches, model)
    return batches


def _own_batches(run: RunSettings, model: Model, seed: int, progress: StageProgress | None) -> Batches:
    """Texts of a language model, scenes for one of pictures."""
    if takes_pictures(model):
        return substitute_batches(analyze(model), seed, run.samples)
    report = progress and partial(progress, "write")
    return write_text(
        model, texts=run.samples, length=run.text_length, start=run.start_token, seed=seed, progress=report
    )


def as_batches(source: Data | None, model: Model, preprocess: Preprocess | Sequence[str] | None) -> Batches | None:
    """The data that `load_data` reads from a source; a text is a list of one part of the preprocessing."""
    if source is None:
        return None
    parsed = preprocess if isinstance(preprocess, Preprocess) else None
    if preprocess and not isinstance(preprocess, Preprocess):
        parsed = read_preprocess([preprocess] if isinstance(preprocess, str) else preprocess)
    return load_data(source, input_specs(model.proto), preprocess=parsed)


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
class _PipelineState:
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
    clock, given = Clock(progress or (lambda *_: None)), type(source)
    with clock.time("load"):
        source = convert_once(source, work.example_inputs)
        model = load(source)
        if work.run.gemm:
            model = gemms(model)
        batches = as_batches(work.run.data, model, work.run.preprocess) if work.run.check else None
        recipe, unseen = None, None
        calibration = given_data = calibration_batches(work.run, model, work.seed, clock.progress)
        if work.training.distill and calibration is not None:
            recipe = make_recipe(work.training, work.seed)
            calibration, unseen = hold_out(with_labels(calibration, work.training, recipe.label_weight))
    options = work.options or Options(seed=work.seed, repair="none")
    in_rows = work.sparsity is not None and isinstance(check_sparsity(work.sparsity), NofM)
    target = choose_target(options.target, in_rows, work.run.then_quantize is not None)
    drawn = work.sparsity is None and draws_inputs(options, model, calibration)
    options = replace(options, target=target.name).resolved(calibration is not None, drawn)
    sparsity = work.sparsity
    if sparsity is not None and work.training.train_method in OF_WEIGHTS:
        sparsity = take_zeros(sparsity, work.training)
    if sparsity is not None:
        options, sparsity = _fit_together(options, sparsity, work, calibration is not None)
    if work.options is not None:
        work = replace(work, options=options)
    with clock.time("analyze"):
        analysis = analyze(model, calibration.measure_sizes() if calibration else {})
        analysis = make_alike(analysis, work.run.hash_weights, work.run.merge_near)
    if work.run.then_quantize is not None:
        refuse_quantized(analysis)
    teach = _Teaching(analysis, calibration, unseen, recipe, work, clock) if calibration and recipe and unseen else None
    trained = analysis
    if teach is not None and work.training.train_method and not work.dry_run:
        trained = teach.prepare(options, sparsity)
    rest, done, options = _prune_in_rounds(trained, options, work, teach)
    evaluator = make_evaluator(rest, options, calibration, work.run, clock.progress)
    used = _plan(rest, evaluator, replace(work, options=options if work.options else None), clock)
    with clock.time("plan"):
        settled, settled_plan = settle(rest, used, evaluator.free)
    evaluator.turn_to(settled)
    state = _make(settled, settled_plan, evaluator, sparsity, clock, work.dry_run)
    state.plan, state.given = settled_plan, given
    if teach is not None and not work.dry_run:
        state.model, state.trained = teach.train(state.model, evaluator)
        if not state.trained.improved:  # then the repair may have the samples that were held out, too
            evaluator.turn_to_data(given_data)
            state = replace(_make(settled, settled_plan, evaluator, sparsity, clock, dry=False), trained=state.trained)
            state.plan, state.given = settled_plan, given
    if done is not None:
        used = composed(done, used)
        if work.plan_out is not None:
            used.save(Path(work.plan_out))
    if target.slow_subnormals and used.groups:
        state.model = flush_subnormals(state.model)
    if work.run.cast is not None:
        state.model = cast(state.model, work.run.cast)
        for layer in state.sparse.layers if state.sparse else ():
            layer.verdict = layer.verdict and replace(layer.verdict, note="")
    if work.run.then_quantize is not None and calibration is not None and not work.dry_run:
        with clock.time("quantize"):
            state.pruned = _in_memory(state.model) if fits_message(state.model) else state.model
            state.quantized = quantize(state.pruned, calibration, target.symmetric, target.weight_bits)
            state.model = state.quantized.model
    files: list[Path] = []
    if not work.dry_run:
        with clock.time("save"):
            files = [] if out is None else save(state.model, out)
            state.model = load(files[0]) if files else _in_memory(state.model)
    return _compare_and_report(source, files, state, analysis, used, work, evaluator, batches, clock)


@dataclass(frozen=True)
class _Teaching:
    """The original, and what it teaches on: candidates learn what it makes of the data."""

    original: Analysis
    batches: Batches
    unseen: Batches
    recipe: TrainingRecipe
    work: Work
    clock: Clock

    def prepare(self, options: Options, sparsity: Sparsity | None) -> Analysis:
        """The original, trained so that less is lost, or with zeros already; the same groups and layers."""
        a, training = self.original, self.work.training
        if training.train_method == SOFT and (options.limit or options.latency is not None):
            raise OnnxPruneError(
                "train-method 'soft' plans after each pass, for a ratio, --macs, --params or --bytes; give one"
            )
        stays = left_out(a, options)
        quick = replace(options, **QUICK_PLAN, allocation="uniform" if options.budget else None)

        def plan(model: Model) -> Plan:
            return make_plan(analyze(model, a.data), quick)

        of_weights = training.train_method in OF_WEIGHTS
        with self.clock.time("distill"):
            task = make_task(a, _in_memory(a.model), self.batches, self.unseen, choose_memory(self.work.run))
            trained = train_before_pruning(
                task, self.recipe, training, a, [g for g in a.groups if g.name not in stays], plan,
                sparsity if of_weights else None, self.clock.progress,
            )  # fmt: skip
        return analyze(_in_memory(trained), a.data)

    def train(
        self, candidate: Model, evaluator: Evaluator, round: int | None = None
    ) -> tuple[Model, DistillationReport]:
        """Each round has a checkpoint of its own."""
        kept = self.work.training.checkpoint
        path = Path(f"{kept}.{round + 1}") if kept is not None and round is not None else kept
        with self.clock.time("distill"):
            task = make_task(self.original, _in_memory(candidate), self.batches, self.unseen, evaluator.memory)
            return train(task, self.recipe, path, self.clock.progress)


def _prune_in_rounds(
    original: Analysis, options: Options, work: Work, teach: _Teaching | None
) -> tuple[Analysis, Plan | None, Options]:
    """All rounds of pruning and training but the last: what they leave, their plan, and what the last one is asked for."""
    rounds = Rounds(original, options, work.training.iterative if work.options and not work.plan else 1)
    rest, done = original, None
    several = rounds.number > 1 and teach is not None and not work.dry_run
    for at, fraction, before in rounds.ask() if several else ():
        options_of_round = rounds.options_of(rest, fraction, before)
        if at == rounds.number - 1:
            return rest, done, options_of_round
        assert teach is not None
        evaluator = make_evaluator(rest, options_of_round, teach.batches, work.run, teach.clock.progress)
        used = _plan(rest, evaluator, replace(work, options=options_of_round, plan_out=None), teach.clock)
        settled, plan = settle(rest, used, evaluator.free)
        evaluator.turn_to(settled)
        state = _make(settled, plan, evaluator, None, teach.clock, dry=False)
        trained, _ = teach.train(state.model, evaluator, at)
        rest, done = analyze(_in_memory(trained), original.data), used if done is None else composed(done, used)
    return rest, done, options


def _plan(analysis: Analysis, evaluator: Evaluator, work: Work, clock: Clock) -> Plan:
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


def _in_memory(model: Model) -> Model:
    """The model as it would be read from its file: no weight waits to be cut until somebody asks for it."""
    return replace(load(full_proto(model)), external=model.external)


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
    timed = TimingTable(Path(run.timings or default_path()) if options.latency is not None else None)
    metric = load_metric(run.metric)
    if metric is None and options.max_drop is not None and batches is not None and batches.has_labels:
        metric = ACCURACY
    report = progress or (lambda *_: None)
    memory = choose_memory(run)
    return Evaluator(
        analysis, batches, method, kept, timed, report, options.seed, metric, memory=memory,
        effort=options.effort,
    )  # fmt: skip


def draws_inputs(options: Options, model: Model, batches: Batches | None) -> bool:
    """May a repair that nobody asked for be made on drawn inputs: are there no data, pictures, and does the model run here?"""
    room = memory_bytes()
    fits = room is None or 2 * COPIES * model.size_bytes <= room  # with the original beside it
    if batches is not None or options.repair is not None or not fits or not takes_pictures(model):
        return False
    try:
        random_batches(model, options.seed, 1)
    except OnnxPruneError:
        return False
    return True


def choose_memory(run: RunSettings) -> Memory:
    """The memory for data: the setting, else half of the free memory, up to the limit above which files are no slower."""
    free = memory_bytes()
    if run.memory is not None:
        return Memory(size_bytes(run.memory))
    return Memory() if free is None else Memory(min(free // 2, MEMORY_BYTES), free)


def _fit_together(options: Options, sparsity: Sparsity, work: Work, calibrated: bool) -> tuple[Options, Sparsity]:
    """Options that fit each other: channel counts that the pattern divides, one way of repair."""
    pattern = check_sparsity(sparsity)
    if isinstance(pattern, NofM):
        options = replace(options, round_to=math.lcm(options.round_to, pattern.m))
    if options.repair == "merge":
        raise OnnxPruneError(
            "repair merge moves weights of channels, not single ones; choose another --repair beside a pattern"
        )
    if work.options is not None and work.options.target is not None and sparsity.target is None:
        sparsity = replace(sparsity, target=work.options.target)
    if work.options is not None and sparsity.repair is None and sparsity.scope == "local":
        sparsity = replace(sparsity, repair=options.repair if calibrated else None)
    return options, resolve_sparsity(sparsity, calibrated)


def _make(
    analysis: Analysis, plan: Plan, evaluator: Evaluator, sparsity: Sparsity | None, clock: Clock, dry: bool
) -> _PipelineState:
    if sparsity is not None:
        with clock.time("sparsify"):
            if dry:  # nothing is fitted
                sparsity = replace(sparsity, method="magnitude", repair="none")
            sparse = sparsify(
                analysis, sparsity, None if dry else evaluator.batches, plan=plan, progress=clock.progress,
                memory=evaluator.memory,
            )  # fmt: skip
        return _PipelineState(sparse.model, sparse.repair, sparse)
    if evaluator.repair != "none" and not dry:
        with clock.time("repair"):
            return _PipelineState(*evaluator.finish(plan))
    with clock.time("apply"):
        return _PipelineState(apply_plan(analysis, plan))


def _compare_and_report(
    source: Source, files: list[Path], state: _PipelineState, analysis: Analysis, plan: Plan, work: Work, evaluator: Evaluator,
    batches: Batches | None, clock: Clock,
) -> PruneResult:  # fmt: skip
    result: Result | None = None
    before: Result | None = None  # of the pruned model that was quantized
    layers: Reconstruction | None = None
    failure: OnnxPruneError | None = None
    size = None if work.dry_run else sum(f.stat().st_size for f in files) or saved_bytes(state.model)
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
                layers = layer_errors(of, state.in_float, seen, moved, memory=evaluator.memory) if seen else None
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
    work: Work, evaluator: Evaluator, plan: Plan, state: _PipelineState, clock: Clock
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


def _report_quantization(state: _PipelineState, before: Result | None, work: Work) -> QuantizationReport | None:
    if state.quantized is None or state.pruned is None:
        return None
    return QuantizationReport(
        element_type=work.run.then_quantize or "",
        symmetric=state.quantized.symmetric,
        weight_bits=state.quantized.weight_bits,
        layers=state.quantized.products,
        float_layers=state.quantized.in_float,
        pruned_bytes=saved_bytes(state.pruned),
        pruned_error=before.error if before else None,
        pruned_latency=before.latency if before else None,
    )


def _explain_too_large(model: Model, size: int) -> str:
    """Why the model and one of `size` bytes cannot be run here; empty where they can."""
    need, room = COPIES * (model.size_bytes + size), memory_bytes()
    if room is None or need <= room:
        return ""
    where = "'onnxprune validate' does it where there is more"
    return f"not compared: that takes about {need / 1e9:.1f} GB of memory, {room / 1e9:.1f} GB are free; {where}"


def convert_once(source: Source, example_inputs: Any = None) -> Source:
    """A path or a ModelProto as it is, of which sessions are opened; what another library has as a Model."""
    return source if isinstance(source, str | PathLike | onnx.ModelProto) else load(source, example_inputs)


def runnable(source: Source) -> Path | onnx.ModelProto | Model:
    """The source for sessions: the model's file, else the message with its weights, else the model."""
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, str | PathLike):
        return Path(source)
    model = load(source)
    return full_proto(model) if fits_message(model) else model
