"""An open-division record, for people to read."""

from __future__ import annotations

from rich.console import Group

from onnxprune.cli.console import Facts, count, duration, facts, relative, text
from onnxprune.report.types import RecordReport
from onnxprune.wording import plural


def render_record(report: RecordReport) -> Group:
    """What `record` says: the target and whether it is met, quality and time of both models, where the record is."""
    quality, latency, system = report.accuracy.quality, report.performance.latency, report.performance.system
    verdict = text("met", "bold green") if quality.met else text("missed", "bold red")
    share = "" if quality.share is None else f", {100 * quality.share:.2f} % of the original's"
    rows: Facts = [("target", f"{quality.metric} {quality.target:.4g} or more{share}"), ("", verdict)]
    rows.append((quality.metric, f"{quality.original:.4g} -> {quality.result:.4g}"))
    if latency:
        ratio = f"{latency.ratio:.2f}x" if latency.ratio and latency.verdict != "noisy" else "too noisy to say"
        rows.append(("latency", f"{duration(latency.before)} -> {duration(latency.after)} ({ratio})"))
    rows.append(("data", f"{report.accuracy.data.name}, {plural(report.accuracy.data.samples, 'sample')}"))
    memory = f", {count(system.memory, 'B')}" if system.memory else ""
    rows.append(
        ("machine", f"{system.processor}, {plural(report.accuracy.threads, 'thread')} of {system.cores}{memory}")
    )
    return Group(facts(rows), "", text(f"wrote {relative(report.folder)}", "bold"))
