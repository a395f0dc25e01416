"""The page of an open-division record, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.report.types import AccuracyRecord, ModelRecord, PerformanceRecord, QualityRecord, RecordReport


def render_page(report: RecordReport) -> str:
    """The record for people, as Markdown."""
    a, p = report.accuracy, report.performance
    quality, system = a.quality, p.system
    rows = [
        ("parameters", *(f"{m.params:,}" for m in (a.original, a.result))),
        ("multiply-accumulates", *("unknown" if m.macs is None else f"{m.macs:,}" for m in (a.original, a.result))),
        ("bytes", *(f"{m.bytes:,}" for m in (a.original, a.result))),
        (quality.metric, f"{quality.original:.6g}", f"{quality.result:.6g}"),
    ]
    if p.latency:
        rows.append(("milliseconds for one sample", *(f"{1e3 * s:.4g}" for s in (p.latency.before, p.latency.after))))
    if p.peak_memory and p.peak_memory.before is not None and p.peak_memory.after is not None:
        rows.append(("bytes of memory", f"{p.peak_memory.before:,}", f"{p.peak_memory.after:,}"))
    memory = "unknown" if system.memory is None else f"{system.memory / 2**30:.1f} GiB"
    parts = [
        f"# {a.result.name}: an open-division record",
        f"Target: {quality.metric} of {quality.target:.6g} or more{_say_share(quality)}; "
        f"{'met' if quality.met else 'MISSED'}.",
        _table(("", a.original.name, a.result.name), rows),
        f"Time is of one sample after the other with {_say_threads(a.threads)}{_say_ratio(p)}.",
        "## Data\n\n" + _lines({"name": a.data.name, "samples": a.data.samples, "SHA-256 of the file": a.data.file or "none",
                              "preprocessing": ", ".join(a.data.preprocess) or "none"}),
        "## System\n\n" + _lines({"processor": f"{system.processor} ({system.architecture}), {system.cores} cores",
                                "memory": memory, "system": system.system, "runtime": system.provider, **p.software}),
        "## Files\n\n" + "\n".join(_list_files("original", a.original) + _list_files("result", a.result)),
        *(["## How the result was made\n\n" + _lines(_without_none(report.made_with))] if report.made_with else []),
        "## Measure it again\n\n`accuracy.json` is written again byte for byte with the same files and software; "
        "`performance.json` is of this machine.\n\n```sh\n" + _command(a) + "\n```",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _say_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _say_share(quality: QualityRecord) -> str:
    return "" if quality.share is None else f" ({100 * quality.share:.2f} % of the original's)"


def _say_ratio(p: PerformanceRecord) -> str:
    latency = p.latency
    if latency is None or latency.ratio is None or latency.low is None or latency.high is None:
        return ""
    return f": {latency.ratio:.2f}x ({latency.low:.2f} to {latency.high:.2f}, 95 %), {latency.runs:,} runs of each"


def _list_files(what: str, model: ModelRecord) -> list[str]:
    return [f"- {what} `{name}`: SHA-256 {digest}" for name, digest in model.files.items()]


def _command(a: AccuracyRecord) -> str:
    parts = ["onnxprune record", a.original.name, a.result.name, "--data", a.data.name]
    parts += [f"--preprocess {part}" for part in a.data.preprocess]
    parts += [f"--metric FILE.py:{a.quality.metric}"] if a.quality.metric != "accuracy" else []
    return " ".join([*parts, f"--target-accuracy {a.quality.target!r}", f"--threads {a.threads}", "-o record"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _lines(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value not in (None, [], {}, ())}
