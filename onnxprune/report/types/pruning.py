"""What was pruned, repaired and measured: the reports of `prune`, `sparsify` and `sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.report.types.base import Counts, Report, Settings, added
from onnxprune.report.types.comparison import ErrorReport, Latency, Measures, MetricReport, Reconstruction
from onnxprune.report.types.model import FrozenAxis, UnitReport
from onnxprune.report.types.sparse import EngineReport, SparsityReport
from onnxprune.report.types.trained import DistillationReport


@dataclass(frozen=True)
class CalibrationReport:
    """The data that a plan was made or repaired with."""

    data: str
    samples: int | None


@dataclass(frozen=True)
class PrunedGroup:
    """How many channels of a group stay; `reason` where something was left or changed.

    The target wants `kept` to be a multiple of `multiple` (1: of any number). `free` counts the removed channels that changed no
    output, by why: dead, constant, merged.
    """

    name: str
    kind: str
    size: int
    kept: int
    exact: bool
    reason: str | None
    multiple: int | None = added()
    free: Mapping[str, int] | None = added()

    @property
    def unaligned(self) -> bool:
        """Is it slow where the model is to run?"""
        return self.kept % (self.multiple or 1) != 0


@dataclass(frozen=True)
class WeightReport:
    """A weight, the nodes that read it, and for each axis the groups whose channels lie along it."""

    name: str
    nodes: list[str]
    shape: list[int]
    groups: list[list[str]]


@dataclass(frozen=True)
class SensitivityPoint:
    """One group with `kept` channels left, the rest of the model whole: how far the outputs moved."""

    kept: int
    ratio: float  # of its channels, what is removed
    error: float
    relative_l2: float | None
    agreement: float | None


@dataclass(frozen=True)
class GroupSensitivity:
    """What was measured of a group that is pruned alone."""

    name: str
    kind: str
    size: int
    points: list[SensitivityPoint]


@dataclass
class LayerRepair:
    """One layer. Errors are |pruned - original| / |original| at its output, behind the activation that follows it."""

    name: str
    op: str
    before: float
    after: float
    rows: int
    damping: float  # relative to the mean of the Gram matrix's diagonal
    condition: float
    seconds: float
    output: str = ""  # the first one that the node has
    slot: int = 1  # which of its inputs has the weights


@dataclass(frozen=True)
class HeldOutReport:
    """How far the outputs are from the original's on calibration samples that the repair has not seen.

    Of `folds` parts of the samples `held_out` were held out in turn, `samples` in all: each ran through a model whose weights were
    fitted on the other parts. The channels were chosen with all of them.
    `error` is what the search makes small (see `measure.shift`). Both models prefer the same class in the share `agreement` of
    `rows`, and with 95 % confidence in `least_agreement` of all there are, where each row is a sample.
    """

    folds: int
    held_out: int
    samples: int
    error: float
    relative_l2: float | None
    agreement: float | None
    rows: int | None
    least_agreement: float | None
    metric: MetricReport | None

    @property
    def loss(self) -> float:
        """What is to be small when plans are compared."""
        return self.error if self.metric is None else self.metric.before - self.metric.after


@dataclass
class RepairReport:
    """`error_before` and `error_after` are of the network's outputs on the calibration data, |pruned - original| / |original|.

    `kept` says how many of the layers, in their order, have their new weights: all, unless that would raise the error.
    """

    method: str
    samples: int
    error_before: float | None
    error_after: float | None
    layers: list[LayerRepair] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # layer -> why
    kept: int = 0
    seconds: float = 0.0

    @property
    def improved(self) -> bool:
        """Is the error less than without repair?"""
        before, after = self.error_before, self.error_after
        return before is not None and after is not None and after < before


@dataclass(frozen=True)
class QuantizationReport:
    """How the pruned model became one of integers, and what it was before that.

    `layers` multiply with constant integers, `float_layers` still with constant floats. `pruned_bytes`, `pruned_error` and
    `pruned_latency` are of the pruned model in float, next to the original; None where the two were not compared.
    """

    element_type: str
    symmetric: bool  # activations are int8 around 0, rather than uint8
    weight_bits: int  # that weights use, of 8
    layers: int
    float_layers: int
    pruned_bytes: int
    pruned_error: ErrorReport | None
    pruned_latency: Latency | None


@dataclass(frozen=True)
class TimingReport:
    """How long a run was predicted to take with a budget of `latency`: one sample, `threads` threads, in seconds.

    `error` is the relative error of a prediction, the median over plans that it was not learned from; `table` a hash of the timings
    that it was made with; `measured` the time after / before that the clock then found.
    """

    before: float
    predicted: float
    error: float
    threads: int
    table: str
    measured: float


@dataclass(frozen=True)
class PruneReport(Report):
    """What `prune` or `sparsify` did; None stands for what was not asked for, or could not be measured.

    No `output`: nothing was written. `options` is None where a plan was given. `judged_by` has the outputs that errors are
    not measured on, and the tensors before them that are looked at instead. `seconds` are by stage.
    Where there is a `quantization`, `error`, `latency`, `peak_memory` and `bytes` are of the quantized model, which was
    written, and all else of the pruned one in float.
    """

    model: str
    output: str | None
    files: list[str]
    options: Settings | None
    calibration: CalibrationReport | None
    judged_by: dict[str, list[str]]
    params: Counts
    macs: Counts
    bytes: Counts
    groups: list[PrunedGroup]
    weights: list[WeightReport]
    frozen: list[FrozenAxis]
    sparsity: SparsityReport | None
    sensitivity: list[GroupSensitivity] | None
    repair: RepairReport | None
    error: ErrorReport | None
    measures: Measures
    latency: Latency | None
    peak_memory: Counts | None  # bytes
    reconstruction: Reconstruction | None
    seconds: dict[str, float]
    not_compared: str | None  # why, where the models are too large to compare here
    quantization: QuantizationReport | None = added()  # noqa: RUF009
    timing: TimingReport | None = added()  # noqa: RUF009
    held_out: HeldOutReport | None = added()  # noqa: RUF009
    units: list[UnitReport] | None = added()  # those that went  # noqa: RUF009
    distillation: DistillationReport | None = added()  # noqa: RUF009
    engines: EngineReport | None = added()  # noqa: RUF009

    @property
    def removes_nothing(self) -> bool:
        """No channel and no block went, and no weight became zero."""
        sparse = self.sparsity.layers if self.sparsity else ()
        gone = any(g.kept < g.size for g in self.groups) or bool(self.units)
        return not gone and not any(x.sparse for x in sparse)


@dataclass(frozen=True)
class SensitivityReport(Report):
    """What `sensitivity` measured; `judged_by` as `prune` has it, only where there are such outputs."""

    model: str
    data: str
    samples: int
    criterion: str
    groups: list[GroupSensitivity]
    judged_by: dict[str, list[str]] | None = None
