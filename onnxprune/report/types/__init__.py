"""The types of all reports. They are plain data, and import nothing but the standard library."""

from onnxprune.report.types.base import FORMAT, Counts, Report, Settings, Shares, Stop
from onnxprune.report.types.comparison import (
    ErrorNumbers,
    ErrorReport,
    FedInput,
    Latency,
    LayerError,
    Measures,
    MetricReport,
    NonFinite,
    NotComparable,
    OutputMismatch,
    OutputReport,
    Reconstruction,
    ValidateReport,
)
from onnxprune.report.types.lists import OperatorRow, PlannedJob, ResultRow, SettingRow
from onnxprune.report.types.model import FrozenAxis, GroupReport, GuardedNode, InspectReport, MemberReport, UnitReport
from onnxprune.report.types.pruning import (
    CalibrationReport,
    GroupSensitivity,
    HeldOutReport,
    LayerRepair,
    PrunedGroup,
    PruneReport,
    QuantizationReport,
    RepairReport,
    SensitivityPoint,
    SensitivityReport,
    TimingReport,
    WeightReport,
)
from onnxprune.report.types.record import (
    AccuracyRecord,
    DataRecord,
    ModelRecord,
    PerformanceRecord,
    QualityRecord,
    RecordReport,
    SystemRecord,
)
from onnxprune.report.types.repaired import CandidateReport
from onnxprune.report.types.sparse import (
    CheckedLayer,
    CompressedSize,
    EngineLayer,
    EngineReport,
    LayerFacts,
    PatternReport,
    PermutedGroup,
    SparseLayerReport,
    SparsityReport,
)
from onnxprune.report.types.trained import DistillationReport, TrainedReport
from onnxprune.report.types.vocabulary import KeptTokens, VocabularyReport

__all__ = [
    "FORMAT", "CalibrationReport", "CandidateReport", "CheckedLayer", "CompressedSize", "Counts", "DistillationReport",
    "ErrorNumbers", "ErrorReport",
    "FedInput", "FrozenAxis", "GroupReport", "GroupSensitivity", "GuardedNode", "InspectReport", "Latency", "LayerError",
    "LayerFacts", "HeldOutReport",
    "LayerRepair", "Measures", "MetricReport", "MemberReport", "NonFinite", "NotComparable", "OperatorRow", "OutputMismatch",
    "OutputReport", "PatternReport", "PermutedGroup", "PlannedJob", "PruneReport", "PrunedGroup", "QuantizationReport",
    "Reconstruction", "RepairReport", "Report", "ResultRow", "SensitivityPoint", "SensitivityReport", "SettingRow", "Settings",
    "Shares", "SparseLayerReport", "SparsityReport", "Stop", "TimingReport", "TrainedReport",
    "UnitReport", "ValidateReport", "WeightReport", "EngineLayer", "EngineReport", "KeptTokens", "VocabularyReport",
    "AccuracyRecord", "DataRecord", "ModelRecord", "PerformanceRecord", "QualityRecord", "RecordReport", "SystemRecord",
]  # fmt: skip
