"""How far a candidate is from the original: outputs, layers, time and memory; the report of `validate`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from onnxprune.report.types.base import Counts, Report, Shares, added
from onnxprune.report.types.sparse import EngineReport, PatternReport


@dataclass(frozen=True)
class ErrorNumbers:
    """The numbers of `measure.metrics.compare`; None for what does not exist or is not finite."""

    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    sqnr_db: float | None
    nonfinite_reference: int
    nonfinite_candidate: int


@dataclass(frozen=True)
class OutputMismatch:
    """An output that is not of floats: the share of elements that differ, None where it has none."""

    mismatch: float | None


@dataclass(frozen=True)
class NotComparable:
    """An output that the two models do not have alike: what is wrong."""

    error: str


OutputReport = ErrorNumbers | OutputMismatch | NotComparable


@dataclass(frozen=True)
class FedInput:
    """What an input was fed in the first batch."""

    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class NonFinite:
    """How many values of the float outputs are NaN or infinite."""

    reference: int
    candidate: int


@dataclass(frozen=True)
class MetricReport:
    """The user's own measure of the original and of the candidate, higher is better."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class ErrorReport(ErrorNumbers):
    """How far the outputs moved: the numbers over all (also as `overall`), and those of each of the `outputs`.

    `degraded` says that the candidate is ruined, see `report.degraded`.
    """

    outputs: dict[str, OutputReport]
    overall: ErrorNumbers
    top1_agreement: float | None
    class_output: str | None
    accuracy: Shares | None
    accuracy_drop: float | None
    inputs: dict[str, FedInput]
    dynamic_sizes: dict[str, int]
    samples: int
    dropped: int
    data: str
    nonfinite: NonFinite
    _: KW_ONLY
    degraded: bool | None = added()
    metric: MetricReport | None = added()  # noqa: RUF009


@dataclass(frozen=True)
class Latency:
    """Seconds of a run of the original and of the candidate, from `runs` of each on `samples` samples with `threads` threads.

    `ratio` is before / after; the interval from `low` to `high` has it with 95 % confidence (None where there was time for
    one heat only). `verdict` is faster, slower, same, or noisy where the interval is too wide to say.
    """

    before: float
    after: float
    runs: int
    samples: int
    ratio: float | None = added()
    low: float | None = added()
    high: float | None = added()
    verdict: str | None = added()
    threads: int | None = added()


@dataclass(frozen=True)
class LayerError:
    """`relative_l2` is |candidate - original| / |original| of `tensor`, the output of the node `name` or of what follows it."""

    name: str
    operator: str
    tensor: str
    relative_l2: float | None


@dataclass
class Reconstruction:
    """The errors of layers in the order of the graph; of those that could not be compared, why."""

    data: str
    samples: int = 0
    layers: list[LayerError] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measures:
    """What two models are to each other; None where it is unknown or nothing was run.

    `weight_sparsity` is the share of zeros among the parameters that are floats, `compression_ratio` bytes before / after,
    `speedup_theoretical` MACs before / after, `speedup_measured` latency before / after (None
    where it was too noisy to say); reductions are what is gone.
    """

    weight_sparsity: Shares
    compression_ratio: float | None
    params_reduction: float | None
    macs_reduction: float | None
    speedup_theoretical: float | None
    speedup_measured: float | None


@dataclass(frozen=True)
class ValidateReport(ErrorReport, Report):
    """What `validate` finds of two models; `sparsity` where it was asked for a pattern too."""

    original: str
    candidate: str
    params: Counts
    macs: Counts
    bytes: Counts
    measures: Measures
    latency: Latency | None
    peak_memory: Counts | None  # bytes
    reconstruction: Reconstruction | None
    sparsity: PatternReport | None = None
    engines: EngineReport | None = added()  # noqa: RUF009
