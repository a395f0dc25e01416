"""An open-division record: a model, its quality target, the data, the machine, and what was measured; the report of `record`."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Counts, Report, Settings
from onnxprune.report.types.comparison import Latency


@dataclass(frozen=True)
class ModelRecord:
    """A model: the SHA-256 of its `files` by their names, the model file first, and its size."""

    name: str
    files: dict[str, str]
    opset: dict[str, int]
    params: int
    macs: int | None
    bytes: int


@dataclass(frozen=True)
class DataRecord:
    """The data that quality was measured on: the SHA-256 of what each input was fed, of the labels, and of the file, if any."""

    name: str
    file: str | None
    samples: int
    preprocess: list[str]
    inputs: dict[str, str]
    labels: str | None


@dataclass(frozen=True)
class QualityRecord:
    """The measure, the least value that the result may have, and what both models have; `share` is the target / the original's."""

    metric: str
    target: float
    share: float | None
    original: float
    result: float
    met: bool


@dataclass(frozen=True)
class AccuracyRecord:
    """What another run gives again, byte for byte, with the same files and the same software."""

    division: str
    original: ModelRecord
    result: ModelRecord
    data: DataRecord
    quality: QualityRecord
    threads: int
    software: dict[str, str]


@dataclass(frozen=True)
class SystemRecord:
    """Where time was measured. `memory` is in bytes, None where the system does not tell."""

    processor: str
    architecture: str
    cores: int
    memory: int | None
    system: str
    provider: str


@dataclass(frozen=True)
class PerformanceRecord:
    """What the machine decides: one sample after the other, both models in turns."""

    scenario: str
    system: SystemRecord
    software: dict[str, str]
    latency: Latency | None
    peak_memory: Counts | None  # bytes


@dataclass(frozen=True)
class RecordReport(Report):
    """What `record` wrote to `folder`; `made_with` are the settings that made the result, from a report of `prune`."""

    folder: str
    files: list[str]
    accuracy: AccuracyRecord
    performance: PerformanceRecord
    made_with: Settings | None
