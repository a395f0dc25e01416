"""What became of a candidate of any tool: the report of `repair`."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Report
from onnxprune.report.types.comparison import ErrorReport
from onnxprune.report.types.pruning import CalibrationReport, RepairReport


@dataclass(frozen=True)
class CandidateReport(Report):
    """What `repair` did. No `output`: nothing was written.

    `repair` is as `prune` has it; in `left_out` it says of each layer that was not fitted why. `error_before` and `error_after`
    are the candidate and the repaired model next to the original, None where the comparison was left out.
    """

    original: str
    candidate: str
    output: str | None
    files: list[str]
    calibration: CalibrationReport
    repair: RepairReport
    error_before: ErrorReport | None
    error_after: ErrorReport | None
    seconds: dict[str, float]

    @property
    def failed(self) -> str:
        """In words, why the candidate is as it was though it differs from the original; empty where it is better, or was equal."""
        repair = self.repair
        if repair.improved or not repair.error_before:
            return ""
        if not repair.layers:
            return "no layer could be fitted"
        return f"no change lowers the relative L2 error of {repair.error_before:.4g} on the calibration data"
