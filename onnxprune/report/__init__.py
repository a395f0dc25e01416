"""Reports: their types, plain data from them and back, and the page. Importing it takes nothing but the standard library."""

from onnxprune.report.plain import from_json, json_schema, json_text, to_json
from onnxprune.report.types import (
    CandidateReport,
    InspectReport,
    PatternReport,
    PruneReport,
    SensitivityReport,
    ValidateReport,
)

__all__ = [
    "CandidateReport", "InspectReport", "PatternReport", "PruneReport", "SensitivityReport", "ValidateReport", "from_json",
    "json_schema", "json_text", "to_json",
]  # fmt: skip
