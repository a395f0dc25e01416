"""Reports: their types, plain data from them and back, and the page. Importing it takes nothing but the standard library."""

from onnxprune.report.plain import from_json, make_json_schema, render_json, to_json
from onnxprune.report.types import (
    CandidateReport,
    InspectReport,
    PatternReport,
    PruneReport,
    SensitivityReport,
    TrainedReport,
    ValidateReport,
)

__all__ = [
    "CandidateReport", "InspectReport", "PatternReport", "PruneReport", "SensitivityReport", "TrainedReport", "ValidateReport",
    "from_json", "make_json_schema", "render_json", "to_json",
]  # fmt: skip
