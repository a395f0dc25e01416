"""Where a limit that was asked for says less of the result than it seems to."""

from __future__ import annotations

from onnxprune.report.types import PruneReport
from onnxprune.settings import Options

TOO_SLOW = 1.05  # of the time that was asked for, what the clock may find without a warning


def explain_weak_promise(report: PruneReport) -> str:
    """Why a limit may not hold for the result, and what to do; empty where it was measured as it should be."""
    options = Options(**report.options) if report.options else None
    if options is None:
        return ""
    timing = report.timing
    if options.latency is not None and timing and timing.measured > options.latency * TOO_SLOW:
        predicted = timing.predicted / timing.before
        return (
            f"{options.asked} was not met: {timing.measured:.3g} of the time by the clock, {predicted:.3g} predicted; "
            "ask for less, or try again on a quiet machine"
        )
    if options.limit is None:
        return ""
    held_out, asked = report.held_out, options.asked
    if report.sparsity or report.quantization:
        after = "--then-sparsify" if report.sparsity else "--then-quantize"
        return f"{asked} was met before {after}; the figures above are of the result, compare them with it"
    if held_out is None:
        return ""
    if held_out.folds == 1 and options.repair != "none":
        return f"{asked} was measured on samples that the repair has seen, as they cannot be divided; give more, in several batches"
    metric = held_out.metric
    if options.max_drop is not None and metric and metric.before <= options.max_drop:
        return (
            f"{asked} allows anything: the original's {metric.name} is {metric.before:.3g}; are these the right labels?"
        )
    return ""
