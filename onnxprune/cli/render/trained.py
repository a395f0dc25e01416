"""What training did, for people to read."""

from __future__ import annotations

from rich.console import Group, RenderableType

from onnxprune.cli.console import Facts, duration, facts, text
from onnxprune.cli.render.compared import render_error, render_outputs
from onnxprune.report.types import DistillationReport, TrainedReport
from onnxprune.wording import plural


def render_trained(report: TrainedReport) -> Group:
    """What `distill` says: the loss on samples that were held out, how far the outputs are apart, where the file is."""
    took = f"{sum(report.seconds.values()):.1f} s"
    rows: Facts = [("data", report.data), *render_distillation(report.distillation)]
    outputs: list[RenderableType] = []
    if report.error_before and report.error_after:
        (where, *before), (_, *after) = map(render_error, (report.error_before, report.error_after))
        rows += [where, *((f"{name} before", value) for name, value in before), *after]
        outputs = render_outputs(report.error_after)
    wrote = f"wrote {' and '.join(report.files)} in {took}" if report.files else f"no model was written ({took})"
    return Group(facts(rows), *outputs, "", text(wrote, "bold"))


def render_distillation(report: DistillationReport) -> Facts:
    """How long, on what, and what it brought on the samples that were held out."""
    passes = f"{report.passes_done:g} of {plural(report.passes, 'pass', 'passes')}"
    seen = f"{plural(report.samples, 'sample')}{', augmented' if report.augmented else ''}"
    stopped = ", interrupted" if report.interrupted else ""
    rows: Facts = [("trained", f"{passes} over {seen}, in {duration(report.seconds)}{stopped}")]
    before, after = (f"{x:.4g}" if x is not None else "no number" for x in (report.loss_before, report.loss_after))
    if not report.improved:
        return [
            *rows,
            ("", f"nothing was better than the loss of {before} on {report.held_out:,} held out: it is as it was"),
        ]
    summary = f"loss {before} -> {after} on {report.held_out:,} held out, best after {report.best_pass:g}"
    if report.agreement_before is not None and report.agreement_after is not None:
        summary += f"; the same class for {report.agreement_before:.1%} -> {report.agreement_after:.1%}"
    return [*rows, ("", f"{summary}; learning rate {report.learning_rate:.2g}")]
