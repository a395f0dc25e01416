"""What planning may use beside the model: calibration data, repair, and measurements that were made before."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from onnxprune.allocate.error import OutputComparer
from onnxprune.allocate.tables import Cache, Table
from onnxprune.allocate.timing.table import TimingTable
from onnxprune.calibration import Batches, random_batches
from onnxprune.calibration.statistics import Statistics, gather
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis
from onnxprune.plans import Plan
from onnxprune.progress import Progress, StageProgress
from onnxprune.repair import RepairReport, repair
from onnxprune.report.types import TimingReport
from onnxprune.scoring import needed
from onnxprune.settings import Options
from onnxprune.surgery import apply_plan

COMPARISON_SAMPLES = 256  # samples that an error is measured on
QUICK_SAMPLES = 64  # the same, where one of many is
TRIAL_SAMPLES = 256  # samples that a plan is repaired on while channels are still removed
TRIAL_ROWS = 0.25  # the share of a layer's rows that it is fitted on then
WATCHED_SAMPLES = 512  # samples whose activations are watched


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
    comparison_samples: int = COMPARISON_SAMPLES
    tables: dict[str, Table] = field(default_factory=dict)  # what was measured of the original's groups, for the report
    timing: TimingReport | None = None  # what was predicted and measured of the plan's time, for the report

    def stage_progress(self, stage: str) -> Progress:
        return lambda done, of: self.progress(stage, done, of)

    def watch(self, a: Analysis, options: Options) -> Statistics | None:
        """What the criterion has to know of the activations: nothing, or statistics of the data, else of random inputs."""
        wanted = needed(a, a.groups, options.criterion or "")
        if not wanted:
            return None
        return gather(a, self.data.limit(WATCHED_SAMPLES), wanted, progress=self.stage_progress("calibrate"))

    @cached_property
    def comparer(self) -> OutputComparer:
        """Raises OnnxPruneError without calibration data."""
        return self._comparer(self.comparison_samples)

    @cached_property
    def quick_comparer(self) -> OutputComparer:
        """The same on fewer samples."""
        return self._comparer(QUICK_SAMPLES)

    def _comparer(self, samples: int) -> OutputComparer:
        if self.batches is None:
            raise OnnxPruneError("errors are measured on calibration data; give some with --calib")
        return OutputComparer(self.original, self.batches.limit(samples))

    def make(self, plan: Plan) -> Model:
        """The model that comes of a plan for the original, repaired on some of the data."""
        if self.repair == "none":
            return apply_plan(self.original, plan)
        return self._repaired(plan, self.data.limit(TRIAL_SAMPLES), "try", TRIAL_ROWS)[0]

    def finish(self, plan: Plan) -> tuple[Model, RepairReport]:
        """The same, repaired on all of the data."""
        return self._repaired(plan, self.data, "repair")

    @cached_property
    def data(self) -> Batches:
        """The calibration data, or seeded random inputs."""
        return self.batches or random_batches(self.original.model, self.seed)

    @property
    def used(self) -> Batches | None:
        """The data, where somebody asked for them."""
        return self.batches or vars(self).get("data")

    def _repaired(self, plan: Plan, batches: Batches, stage: str, share: float = 1.0) -> tuple[Model, RepairReport]:
        return repair(
            self.original, plan, batches, self.repair, seed=self.seed, progress=self.stage_progress(stage), share=share
        )
