"""Original, pruned, and pruned + int8 beside each other: the numbers that a person compares, for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxprune.report.degraded import get_agreement
from onnxprune.report.types import Latency, PruneReport

Unit = Literal["bytes", "share", "number", "times"]
EQUAL = 0.03  # of two ratios: nearer to each other they are no difference
STAGES = ("original", "pruned", "pruned + int8")


@dataclass(frozen=True)
class StageRow:
    """One number of each model; None where the original has none, or nothing was measured, or it was too noisy to say."""

    name: str
    unit: Unit
    original: float | None
    pruned: float | None
    quantized: float | None


def compare_stages(report: PruneReport) -> list[StageRow]:
    """The measurements of the three models; empty if the result is not quantized."""
    quantization = report.quantization
    if quantization is None:
        return []
    rows = [StageRow("file", "bytes", report.bytes.before, quantization.pruned_bytes, report.bytes.after)]
    first, last = quantization.pruned_error, report.error
    if first and last:
        if first.accuracy and last.accuracy:
            rows.append(StageRow("accuracy", "share", last.accuracy.before, first.accuracy.after, last.accuracy.after))
        rows.append(StageRow("same class", "share", None, get_agreement(first), get_agreement(last)))
        rows.append(StageRow("relative L2", "number", None, first.relative_l2, last.relative_l2))
    if quantization.pruned_latency and report.latency:
        rows.append(StageRow("speed-up", "times", 1.0, _ratio(quantization.pruned_latency), _ratio(report.latency)))
    return [row for row in rows if row.pruned is not None or row.quantized is not None]


def explain_slow(report: PruneReport) -> str:
    """In words, that the quantized model is slower here than the pruned one in float; empty where it is not, or nobody knows."""
    quantization = report.quantization
    before = _ratio(quantization.pruned_latency) if quantization and quantization.pruned_latency else None
    after = _ratio(report.latency) if report.latency else None
    if quantization is None or before is None or after is None or after > before * (1 - EQUAL):
        return ""
    name = quantization.element_type
    return f"{name} is slower here than the pruned model in float ({after:.2f}x against {before:.2f}x); drop --then-quantize"


def _ratio(latency: Latency) -> float | None:
    return None if latency.verdict == "noisy" else latency.ratio
