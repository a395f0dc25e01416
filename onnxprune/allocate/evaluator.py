"""Measurements for planning: calibration data, repair, and stored results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onnxprune.allocate.behind import Difference
from onnxprune.allocate.error import OutputComparer, store_batches
from onnxprune.allocate.need import check_memory
from onnxprune.allocate.selection import list_left_out
from onnxprune.allocate.tables import Cache, Table
from onnxprune.allocate.timing.timing_table import TimingTable
from onnxprune.calibration import Batches, reunite, split_samples
from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.sessions import count
from onnxprune.calibration.statistics import Statistics, gather
from onnxprune.calibration.substitutes import substitute_batches
from onnxprune.errors import OnnxPruneError
from onnxprune.free import Found
from onnxprune.graph.model import Model
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.groups import Analysis
from onnxprune.measure import Metric, ShiftSums
from onnxprune.measure.mask_statistics import gather_masks
from onnxprune.measure.shift import Feeds
from onnxprune.plans import Plan
from onnxprune.progress import Progress, StageProgress
from onnxprune.repair import FindStart, RepairReport, repair
from onnxprune.repair.network import restore_calls
from onnxprune.repair.solve import FITS
from onnxprune.report.types import HeldOutReport, MetricReport, TimingReport
from onnxprune.scoring import list_needed_statistics
from onnxprune.settings import Options
from onnxprune.signals import OF_GRADIENTS, StatisticKey
from onnxprune.surgery import apply_plan

COMPARISON_SAMPLES = 256  # samples that an error is measured on
FEW_SAMPLES, QUICK_SAMPLES = 16, 64  # the same, where one of many is
QUICK_PASSES = 3  # of the data, that many such errors cost
QUICK_LAYERS, QUICK_ROWS = 2, 0.125  # the layers that are fitted for such an error, and the share of their rows
QUICK_RUNS = 3  # of the samples, for such an error: of the original, of what is fitted, and of the result
TRIAL_SAMPLES = 256  # samples that a plan is repaired on while channels are still removed, or half of the data
LEAST_TRIAL_SAMPLES = 64  # unless that is fewer
TRIAL_ROWS = 0.125  # the share of a layer's rows that it is fitted on then
DRAWN_ROWS = 0.25  # the same where inputs were drawn: they say little, however many rows there are
WATCHED_SAMPLES = 512  # samples whose activations are watched
FOLDS = 5  # parts of the data, each of which is held out once
NO_DATA = "errors are measured on calibration data; give some with --calib"


def count_trial_samples(known: int | None) -> int:
    """On how many of so many samples (None: nobody knows how many) a plan is tried."""
    return TRIAL_SAMPLES if known is None else min(max(known // 2, LEAST_TRIAL_SAMPLES), TRIAL_SAMPLES)


@dataclass(frozen=True)
class _Fold:
    """Samples that are held out, and the rest of them; None: they are not held out."""

    original: Analysis
    rest: Batches | None
    samples: Batches
    shown: Sequence[str]
    memory: Memory

    @cached_property
    def held_out(self) -> OutputComparer:
        return OutputComparer(self.original, self.samples, shown=self.shown, memory=self.memory)


@dataclass
class Evaluator:
    """`batches` are calibration data for the model `original`; None: there are none."""

    original: Analysis
    batches: Batches | None = None
    repair: str = "none"
    cache: Cache = field(default_factory=Cache)
    timings: TimingTable = field(default_factory=TimingTable)
    progress: StageProgress = lambda stage, done, of: None
    seed: int = 0
    metric: Metric | None = None
    comparison_samples: int = COMPARISON_SAMPLES
    memory: Memory = field(default_factory=Memory)  # for what data become on the way
    effort: str = "default"  # of the last repair: which layers before a pruned group may change, too
    tables: dict[str, Table] = field(default_factory=dict)  # what was measured of the original's groups, for the report
    timing: TimingReport | None = None  # what was predicted and measured of the plan's time, for the report
    best: Plan | None = None  # of those that were found so far
    free: Found | None = None  # what is free in the original, once a plan was made
    _dampings: dict[str | None, dict[str, float]] = field(default_factory=dict)  # of layers, by stage
    _judged: dict[tuple[Any, ...], HeldOutReport] = field(default_factory=dict)

    def turn_to(self, original: Analysis) -> None:
        """Go on with another file of the same function and the same groups."""
        if original is not self.original:
            self.original = original
            self._forget("comparer", "_folds")

    def turn_to_data(self, batches: Batches | None) -> None:
        """Go on with other data for the same model."""
        self.batches = batches
        self._judged.clear()
        self._forget("comparer", "data", "_folds")

    def _forget(self, *names: str) -> None:
        """Compute these cached properties again when they are asked for."""
        for name in names:
            vars(self).pop(name, None)

    def stage_progress(self, stage: str) -> Progress:
        return lambda done, of: self.progress(stage, done, of)

    def watch(self, a: Analysis, options: Options) -> Statistics | None:
        """The statistics of activations that the criterion needs: none, or those of the data, else of seeded random inputs."""
        # Names that steps of pruning left may match no more.
        out = list_left_out(a, options) if a is self.original else {}
        groups = [g for g in a.groups if g.name not in out]
        wanted = list_needed_statistics(a, groups, options.criterion or "")
        if options.allocation == "fisher":
            wanted += list_needed_statistics(a, groups, "fisher")
        if not wanted:
            return None
        watched = self.data.limit(WATCHED_SAMPLES)
        check_memory(a, groups, options.criterion or "", watched, self.memory)
        return self._gather(a, watched, wanted)

    def _gather(self, a: Analysis, batches: Batches, wanted: Sequence[StatisticKey]) -> Statistics:
        """The statistics from forward passes and from backward passes."""
        progress, back = self.stage_progress("calibrate"), [want for want in wanted if want[2] in OF_GRADIENTS]
        if not back:
            return gather(a, batches, wanted, progress=progress, memory=self.memory)
        masks = gather_masks(a, batches, back, seed=self.seed, progress=progress, memory=self.memory)
        rest = [want for want in wanted if want[2] not in OF_GRADIENTS]
        arrays = gather(a, batches, rest, progress=progress, memory=self.memory) if rest else {}
        return Statistics({**arrays, **masks}, batches.samples or 0, batches.source)

    @cached_property
    def comparer(self) -> OutputComparer:
        """Raises OnnxPruneError without calibration data."""
        return self._comparer(self.comparison_samples)

    def quick_comparer(self, measurements: int) -> OutputComparer:
        """The same on fewer samples, so that all measurements together cost some runs of the data."""
        return self._comparer(self._quick_samples(measurements))

    def _quick_samples(self, measurements: int) -> int:
        known = self.data.samples or QUICK_SAMPLES * max(measurements, 1)
        samples = QUICK_PASSES * known // max(measurements, 1)
        return min(max(samples, FEW_SAMPLES), QUICK_SAMPLES)

    def quick_trials(self, measurements: int) -> Callable[[Plan], float]:
        """Measures so many plans' errors on few samples, each with the layers next to the gaps repaired on others.

        The part before these layers runs once for all plans that come in the order of the graph.
        """
        fold, samples = self._folds[0], self._quick_samples(measurements * QUICK_RUNS)
        comparer = OutputComparer(self.original, fold.samples.limit(samples), memory=self.memory)
        data = store_batches((fold.rest or self.data).limit(samples), self.memory)
        whole = restore_calls(self.original.flat, self.original.model)
        start = Difference(whole, data, None, self.memory).find_start

        def measure(plan: Plan) -> float:
            candidate, _ = self._repaired(plan, data, None, QUICK_ROWS, is_step=True, layers=QUICK_LAYERS, start=start)
            return comparer.of(candidate).error

        return measure

    def _comparer(self, samples: int) -> OutputComparer:
        if self.batches is None:
            raise OnnxPruneError(NO_DATA)
        return OutputComparer(self.original, self.batches.limit(samples), memory=self.memory)

    def make(self, plan: Plan) -> Model:
        """The model that comes of a plan for the original, repaired on some of the data."""
        if self.repair == "none":
            return apply_plan(self.original, plan)
        return self._try(plan, self.data)

    def _try(self, plan: Plan, data: Batches) -> Model:
        enough = max(count_trial_samples(self.data.samples), count(data.first()))  # of a static batch there is no part
        return self._repaired(plan, data.limit(enough), "try", TRIAL_ROWS, is_step=True)[0]

    def judge(self, plan: Plan, held_out: int = 1) -> HeldOutReport:
        """The error of the outputs on samples that the repair has not seen.

        Of FOLDS parts of the data so many are held out in turn, while the others repair the plan.

        Raises OnnxPruneError without calibration data.
        """
        key = held_out, plan.units, *((name, choice.keep) for name, choice in plan.groups.items())
        if key not in self._judged:
            self._judged[key] = self._judge(plan, self._folds[:held_out])
        return self._judged[key]

    def _judge(self, plan: Plan, folds: Sequence[_Fold]) -> HeldOutReport:
        sums, outputs = ShiftSums(find_vocabulary_size(self.original.flat.proto)), []
        for fold in folds:
            candidate = self.make(plan) if fold.rest is None else self._try(plan, fold.rest)
            outputs.append(fold.held_out.add(candidate, sums))
        shift, seen = sums.value(), sum(fold.held_out.samples for fold in folds)
        least = shift.least_agreement if shift.rows == seen else None
        measured = self._measure(folds, outputs) if self.metric else None
        return HeldOutReport(
            len(self._folds),
            len(folds),
            seen,
            shift.error,
            shift.relative_l2,
            shift.agreement,
            shift.rows,
            least,
            measured,
        )

    def _measure(self, folds: Sequence[_Fold], outputs: Sequence[Sequence[Feeds]]) -> MetricReport:
        """The metric of the original and of what the folds made, on all samples that were held out."""
        assert self.metric is not None
        parts = [fold.samples for fold in folds]
        known = [labels_of_part for part in parts if (labels_of_part := part.read_labels()) is not None]
        labels = reunite(parts, known) if len(known) == len(parts) else None

        counts = [[count(feeds) for feeds in fold.held_out.feeds] for fold in folds]

        def measure(batches: Sequence[Sequence[Feeds]]) -> float:
            shown = {n: split_samples([[x[n] for x in part] for part in batches], counts) for n in folds[0].shown}
            whole = {n: reunite(parts, split) for n, split in shown.items() if split is not None}
            return self.metric.measure(whole, labels)  # type: ignore[union-attr]

        return MetricReport(self.metric.name, measure([f.held_out.reference for f in folds]), measure(outputs))

    @cached_property
    def _folds(self) -> list[_Fold]:
        """A single one that holds out nothing where nothing is fitted, or there is a single batch."""
        if self.batches is None:
            raise OnnxPruneError(NO_DATA)
        number = self.batches.count_parts(FOLDS) if self.repair in FITS else 1
        shown = [v.name for v in self.original.model.proto.graph.output] if self.metric else []
        if number < 2:
            return [_Fold(self.original, None, self.batches, shown, self.memory)]
        return [_Fold(self.original, *self.batches.hold_out(k, number), shown, self.memory) for k in range(number)]

    def finish(self, plan: Plan) -> tuple[Model, RepairReport]:
        """The same, repaired on all of the data. It is the last thing that is made, so what plans were compared by is let go."""
        self._forget("comparer")
        return self._repaired(plan, self.data, "repair", 1.0 if self.batches else DRAWN_ROWS)

    @cached_property
    def data(self) -> Batches:
        """The calibration data, or seeded inputs in their place."""
        return self.batches or substitute_batches(self.original, self.seed)

    @property
    def used(self) -> Batches | None:
        """The data, where somebody asked for them."""
        return self.batches or vars(self).get("data")

    def _repaired(
        self,
        plan: Plan,
        batches: Iterable[Feeds],
        stage: str | None,
        share: float = 1.0,
        is_step: bool = False,
        layers: int | None = None,
        start: FindStart | None = None,
    ) -> tuple[Model, RepairReport]:
        return repair(
            self.original, plan, batches, self.repair, seed=self.seed, share=share, is_step=is_step, layers=layers, start=start,
            progress=self.stage_progress(stage) if stage else None, memory=self.memory,
            dampings=self._dampings.setdefault(stage, {}) if is_step else self._dampings.get("try"),
            producers=self.effort != "low", convolutions=self.effort == "high",
        )  # fmt: skip
