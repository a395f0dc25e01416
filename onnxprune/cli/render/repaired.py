"""What became of a candidate of any tool, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from onnxprune.cli.console import Facts, facts, more, table, text
from onnxprune.cli.render.compared import render_error, render_outputs
from onnxprune.report.types import CandidateReport, LayerRepair, RepairReport
from onnxprune.wording import plural

FEW_LAYERS = 24


def render_candidate(report: CandidateReport, verbose: bool) -> Group:
    """What `repair` says: each layer's error before and after, what was left and why, how far the outputs are apart."""
    seen, took = report.calibration, f"{sum(report.seconds.values()):.1f} s"
    rows: Facts = [("calibrated on", f"{seen.samples} samples, {seen.data}")]
    rows.append(("repaired", _describe(report.repair)))
    rows += [("left out", f"{name}: {why}") for name, why in report.repair.left_out.items()]
    outputs: list[RenderableType] = []
    if report.error_before and report.error_after:
        (where, *before), (_, *after) = map(render_error, (report.error_before, report.error_after))
        rows += [where, *((f"{name} before", value) for name, value in before), *after]
        outputs = render_outputs(report.error_after)
    wrote = f"wrote {' and '.join(report.files)} in {took}" if report.files else f"no model was written ({took})"
    return Group(*_render_layers(report.repair.layers, verbose), facts(rows), *outputs, "", text(wrote, "bold"))


def _describe(repair: RepairReport) -> str:
    """What became of the error of the outputs on the calibration data, and of how many layers."""
    before, after = (f"{error:.4g}" for error in (repair.error_before, repair.error_after))
    if not repair.layers:
        return "nothing: there was no layer to fit"
    if not repair.error_before:
        return "nothing: the outputs are the original's"
    if not repair.improved:
        return f"nothing: no change lowers the relative L2 of {before}"
    better = sum(x.after < x.before for x in repair.layers)
    return f"{min(better, repair.kept)} of {plural(len(repair.layers), 'layer')}: relative L2 {before} -> {after}"


def _render_layers(layers: Sequence[LayerRepair], verbose: bool) -> list[RenderableType]:
    shown = layers if verbose else layers[:FEW_LAYERS]
    rows = [(text(x.name), x.op, f"{x.before:.3g}", text(f"{x.after:.3g}", "bold")) for x in shown]
    rest = [more(len(layers) - len(shown), "layers")] if len(shown) < len(layers) else []
    return [table(("layer", "operator", ">error before", ">after"), rows), *rest, ""] if rows else []
