"""The numbers of a comparison, for people to read: sizes, how far the outputs moved, which layers go wrong."""

from __future__ import annotations

from rich.console import Group, RenderableType

from onnxprune.cli.console import Facts, count, duration, facts, percent, relative, table, text
from onnxprune.report.degraded import explain_degraded, get_agreement
from onnxprune.report.types import (
    EngineReport,
    ErrorNumbers,
    ErrorReport,
    Latency,
    LayerError,
    MetricReport,
    NotComparable,
    OutputMismatch,
    OutputReport,
    PruneReport,
    Reconstruction,
    Shares,
    ValidateReport,
)
from onnxprune.wording import plural

FEW_OUTPUTS, FEW_LAYERS = 8, 3
WRONG = 0.1  # the relative error from which on a layer is said to go wrong


def render_comparison(report: ValidateReport) -> Group:
    """What `validate` says: both models' sizes, how far the outputs are apart and where that begins, each output."""
    rows = [*render_error(report), *render_machine(report), *render_engines(report.engines)]
    return Group(render_sizes(report), "", facts(rows), *render_outputs(report))


def render_sizes(report: PruneReport | ValidateReport) -> RenderableType:
    """What is left of parameters, MACs, bytes, time and memory."""
    rows: list[tuple[object, ...]] = []
    sizes = (("parameters", report.params, ""), ("MACs", report.macs, ""), ("file", report.bytes, "B"))
    for name, size, unit in sizes:
        if size.before is None or (size.after is None and name == "file"):
            why = "unknown, see 'onnxprune inspect'" if name == "MACs" else "not written"
            rows.append((text(name, "bold"), count(size.before, unit), why, ""))
        else:
            rows.append(
                _left(name, count(size.before, unit), count(size.after, unit), percent(size.after, size.before))
            )
    if time := report.latency:
        rows.append(
            _left("latency", duration(time.before), duration(time.after), "")
        )  # the speed-up has a line of its own
    peak = report.peak_memory
    if peak and peak.before is not None and peak.after is not None:
        left = percent(peak.after, peak.before)
        rows.append(_left("peak memory", count(peak.before, "B"), count(peak.after, "B"), left))
    return table(("", ">before", ">after", ">left"), rows)


def _left(name: str, before: str, after: str, left: str) -> tuple[object, ...]:
    return text(name, "bold"), before, after, text(left, "bold green")


def render_error(error: ErrorReport, fitted: bool = False) -> Facts:
    """How far the outputs moved, in lines; on data that weights were `fitted` to."""
    outputs = list(error.outputs.values())
    rows: Facts = [("compared on", _measured(error) + (", to which the repair was fitted" if fitted else ""))]
    rows.append(("error", _output(outputs[0]) if len(outputs) == 1 else _numbers(error)))
    if (agreement := get_agreement(error)) is not None:
        rows.append(("top-1", f"the same class for {percent(agreement)} of {plural(error.samples, 'sample')}"))
    if error.accuracy:
        rows.append(("accuracy", text(_accuracy(error.accuracy, error.accuracy_drop), "bold green")))
    if error.metric:
        rows.append((error.metric.name, text(describe_metric(error.metric), "bold green")))
    if why := explain_degraded(error):
        rows.append(("degraded", text(why, "bold red")))
    n = error.nonfinite
    if n.reference or n.candidate:
        counts = f"{n.candidate:,} NaN or infinite values, the original has {n.reference:,}"
        rows.append(("non-finite", text(counts, "bold red")))
    return rows


def describe_metric(metric: MetricReport) -> str:
    drop = metric.before - metric.after
    return f"{metric.before:.4g} -> {metric.after:.4g}" + (
        f", {abs(drop):.3g} {'less' if drop > 0 else 'more'}" if drop else ""
    )


def warn_degraded(error: ErrorReport | None) -> str:
    """One line for stderr where the result is ruined; empty where it is not."""
    why = explain_degraded(error)
    return f"the result is degraded: {why}; remove less, or give --calib, which repairs" if why else ""


def render_outputs(error: ErrorReport) -> list[RenderableType]:
    """A table of the outputs where there are several."""
    outputs = [(name, _output(o)) for name, o in error.outputs.items()]
    if len(outputs) < 2:
        return []
    parts: list[RenderableType] = ["", table(("output", "error"), outputs[:FEW_OUTPUTS])]
    if len(outputs) > FEW_OUTPUTS:
        parts.append(text(f"... and {len(outputs) - FEW_OUTPUTS} more outputs (--json lists them)", "dim"))
    return parts


def _accuracy(accuracy: Shares, drop: float | None) -> str:
    before, after = (percent(share) or "unknown" for share in (accuracy.before, accuracy.after))
    return f"{before} -> {after}" + (f", {100 * abs(drop):.1f} points {'less' if drop > 0 else 'more'}" if drop else "")


def render_machine(report: PruneReport | ValidateReport) -> Facts:
    """Which layers go wrong, and how much faster it is."""
    errors = report.reconstruction
    rows: Facts = [("layers", _layers(errors))] if errors and (errors.layers or errors.left_out) else []
    speed, latency = report.measures, report.latency
    speedups = [f"{speed.speedup_theoretical:.2f}x by MACs"] if speed.speedup_theoretical else []
    if latency:
        conditions = f"with {plural(latency.samples, 'sample')}, {plural(latency.threads or 1, 'thread')}"
        speedups.append(f"{_speedup(latency)} measured here, {latency.runs:,} runs of each {conditions}")
    return rows + ([("speed-up", "; ".join(speedups))] if speedups else [])


def render_engines(engines: EngineReport | None) -> Facts:
    """What engines that skip zeros would multiply and store."""
    if engines is None:
        return []
    before, after = (percent(share) or "unknown" for share in (engines.both_nonzero.before, engines.both_nonzero.after))
    counted = "" if engines.counted.after is None else f" ({percent(engines.counted.after)} of all were counted)"
    rows: Facts = [
        ("both non-zero", f"{before} -> {after} of the multiplications, {plural(engines.samples, 'sample')}{counted}")
    ]
    if engines.bytes.before is not None and engines.bytes.after is not None:
        sizes = " -> ".join(count(n, "B") for n in (engines.bytes.before, engines.bytes.after))
        rows.append(("sparse file", f"{sizes} with 4-bit places and 16 values per layer"))
    return rows


def _speedup(latency: Latency) -> str:
    """`1.21x (1.18 to 1.24)`, before / after; or that it cannot be said."""
    known = latency.low is not None and latency.high is not None
    if latency.verdict == "noisy" or latency.ratio is None:
        return "too noisy to say" + (f" ({latency.low:.2f}x to {latency.high:.2f}x)" if known else "")
    return f"{latency.ratio:.2f}x" + (f" ({latency.low:.2f} to {latency.high:.2f})" if known else "")


def _layers(reconstruction: Reconstruction) -> str:
    layers = [(layer.relative_l2, layer) for layer in reconstruction.layers if layer.relative_l2 is not None]
    if not layers:
        return f"none could be compared: {next(iter(reconstruction.left_out.values()), 'no finite numbers')}"
    worst = [layer for _, layer in sorted(layers, key=lambda pair: -pair[0])[:FEW_LAYERS]]
    wrong = [(at, layer) for at, (error, layer) in enumerate(layers, 1) if error > WRONG]
    if not wrong:
        return f"no error above {WRONG:g}; the largest is {_layer(worst[0])}"
    at, first = wrong[0]
    named = ", ".join(map(_layer, worst))
    return f"first error above {WRONG:g}: {_layer(first)} ({at} of {len(layers)}); worst: {named}"


def _layer(layer: LayerError) -> str:
    return f"{layer.name} {layer.relative_l2:.3g}"


def _numbers(o: ErrorNumbers) -> str:
    if o.relative_l2 is None and o.max_abs is None:
        return "no finite numbers to compare"
    if o.max_abs == 0:
        rest = max(o.nonfinite_reference, o.nonfinite_candidate)
        return (
            f"none where both are finite; {rest:,} values cannot be compared" if rest else "none, the outputs are equal"
        )
    numbers = [("relative L2", o.relative_l2, ""), ("cosine", o.cosine, ""), ("SQNR", o.sqnr_db, " dB")]
    numbers.append(("largest", o.max_abs, ""))
    return ", ".join(f"{name} {value:.4g}{unit}" for name, value, unit in numbers if value is not None)


def _output(o: OutputReport) -> str:
    match o:
        case NotComparable(why):
            return f"not compared: {why}"
        case OutputMismatch(share):
            return "empty" if share is None else f"{percent(share)} of the elements differ"
        case _:
            return _numbers(o)


def _measured(error: ErrorReport) -> str:
    random = error.data.startswith("random")
    where = error.data.replace("random seed", "random inputs, seed") if random else relative(error.data)
    sizes = "".join(f", {name} = {n}" for name, n in error.dynamic_sizes.items()) if random else ""
    hint = "; --data FILE.npz measures on yours" if random else ""
    dropped = f", {error.dropped} left over" if error.dropped else ""
    return f"{plural(error.samples, 'sample')}, {where}{sizes}{dropped}{hint}"
