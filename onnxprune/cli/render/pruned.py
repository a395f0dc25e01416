"""The reports of `prune` and `sparsify`, for people to read: what stays, how far the outputs moved, where the file is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.cli.console import Facts, count, duration, facts, more, percent, table, text
from onnxprune.cli.render.compared import (
    describe_metric,
    render_engines,
    render_error,
    render_machine,
    render_outputs,
    render_sizes,
    warn_degraded,
)
from onnxprune.cli.render.inspected import count_units
from onnxprune.cli.render.reasons import count_reasons, join_reasons, say_where
from onnxprune.cli.render.sparse import explain_none, render_layer_facts, render_layer_table
from onnxprune.cli.render.trained import render_distillation
from onnxprune.report.promises import explain_weak_promise
from onnxprune.report.stages import STAGES, compare_stages, explain_slow
from onnxprune.report.types import (
    FrozenAxis,
    HeldOutReport,
    PrunedGroup,
    PruneReport,
    QuantizationReport,
    RepairReport,
    TimingReport,
    UnitReport,
)
from onnxprune.wording import plural

RenderedReport = tuple[Group, str]  # the report for people, and a warning ('': there is none)
FEW_GROUPS, FEW_UNITS = 24, 8
EXCLUDED = "excluded by"  # how the reason of a plan begins
INSPECTED = "see 'onnxprune inspect'"  # which tells of frozen axes


def render_pruned(report: PruneReport, chosen_by: str, verbose: bool) -> RenderedReport:
    """What `prune` says when it is done, and a warning where nothing went: the groups, what is left, where the file is."""
    parts: list[RenderableType] = [*_render_groups(report.groups, verbose), ""] if report.groups else []
    sparse = render_layer_facts(report.sparsity, verbose) if report.sparsity else []
    blocks = [("blocks", _describe_units(report.units))] if report.units else []
    rows = [
        ("channels", _count_channels(report.groups)),
        *blocks,
        ("chosen by", chosen_by),
        *_render_notes(report, verbose),
        *sparse,
    ]
    unexpected = (explain_nothing(report, verbose), explain_none(report.sparsity, verbose))
    warnings = (
        *unexpected,
        report.not_compared,
        warn_degraded(report.error),
        explain_slow(report),
        warn_no_faster(report),
        explain_weak_promise(report),
    )
    return Group(*parts, *_render_outcome(report, rows)), "; ".join(filter(None, warnings))


def render_sparsified(report: PruneReport, verbose: bool) -> RenderedReport:
    """What `sparsify` says when it is done; a warning where no layer was made sparse."""
    assert report.sparsity is not None
    parts, rows = render_layer_table(report.sparsity.layers, verbose), render_layer_facts(report.sparsity, verbose)
    warnings = (explain_none(report.sparsity, verbose), report.not_compared, warn_degraded(report.error))
    return Group(*parts, *_render_outcome(report, rows)), "; ".join(filter(None, warnings))


def _render_outcome(report: PruneReport, rows: Facts) -> list[RenderableType]:
    """What is left, what there is to say of it, how far the outputs moved, where the file is."""
    rows = list(rows)
    if seen := report.calibration:
        rows.append(("calibrated on", f"{seen.samples} samples, {seen.data}"))
        rows += render_stand_ins(report.judged_by)
    if report.repair:
        rows.append(("repaired", _describe_repair(report.repair)))
    if report.distillation:
        rows += render_distillation(report.distillation)
    if report.timing:
        rows.append(("time", _describe_timing(report.timing)))
    if report.quantization:
        rows.append(("quantized", _describe_quantization(report.quantization)))
    outputs: list[RenderableType] = []
    if report.held_out:
        rows += render_held_out(report.held_out)
    if report.error:
        rows += [*render_error(report.error, report.held_out is not None), *render_machine(report)]
        outputs = render_outputs(report.error)
    rows += render_engines(report.engines)
    return [render_sizes(report), "", facts(rows), *outputs, *_render_stages(report), "", _describe_files(report)]


def render_held_out(report: HeldOutReport) -> Facts:
    """How good the result is on calibration samples that a repair has not seen, with how sure that is."""
    seen = plural(report.samples, "sample")
    l2 = "" if report.relative_l2 is None else f"relative L2 {report.relative_l2:.4g}, "
    rest = (
        f"; {plural(report.folds, 'part')}, {report.held_out} held out in turn"
        if report.folds > 1
        else ", none held out"
    )
    rows: Facts = [("held out", f"{l2}{seen}{rest}")]
    if report.agreement is not None and report.rows:
        least = (
            "" if report.least_agreement is None else f", at least {math.floor(100 * report.least_agreement)} % of all"
        )
        rows.append(
            (
                "",
                text(f"the same class for {round(report.agreement * report.rows):,} of {report.rows:,}{least}", "bold"),
            )
        )
    if report.metric:
        rows.append(("", text(f"{report.metric.name} {describe_metric(report.metric)}", "bold green")))
    return rows


def _describe_timing(timing: TimingReport) -> str:
    left = timing.predicted / timing.before
    return (
        f"{left:.1%} predicted ({duration(timing.before)} -> {duration(timing.predicted)}; such predictions are off by "
        f"{timing.error:.1%}, the median), {timing.measured:.1%} measured"
    )


def _render_stages(report: PruneReport) -> list[RenderableType]:
    """The original, the pruned model and what int8 made of it, side by side."""
    if report.quantization is None:
        return []
    shown: dict[str, Callable[[float], str]] = {
        "bytes": lambda x: count(int(x), "B"),
        "share": percent,
        "number": lambda x: f"{x:.3g}",
        "times": lambda x: f"{x:.2f}x",
    }
    missing = {"times": "too noisy"}
    rows = [
        [text(row.name, "bold")]
        + [
            missing.get(row.unit, "") if x is None else shown[row.unit](x)
            for x in (row.original, row.pruned, row.quantized)
        ]
        for row in compare_stages(report)
    ]
    return ["", table(("", *(f">{stage}" for stage in STAGES)), rows)]


def _describe_quantization(report: QuantizationReport) -> str:
    """Which layers are of integers now, and how."""
    activations = "int8 around 0" if report.symmetric else "uint8"
    left = f", {plural(report.float_layers, 'layer')} left in float" if report.float_layers else ""
    weights = "" if report.weight_bits == 8 else f", weights of {report.weight_bits} bits"
    return f"{plural(report.layers, 'layer')} in {report.element_type}, activations {activations}{weights}{left}"


def render_stand_ins(stand_ins: Mapping[str, Sequence[str]]) -> Facts:
    """What errors were measured on where an output does not stand for itself."""
    replacements = (f"{', '.join(by) or 'nothing'} in place of '{name}'" for name, by in stand_ins.items())
    return [("judged by", f"{'; '.join(replacements)} (no tensor, or the data decide its size)")] if stand_ins else []


def _describe_repair(repair: RepairReport) -> str:
    """What the repair did to the error of the outputs on the calibration data."""
    before, after = (f"{error:.4g}" for error in (repair.error_before, repair.error_after))
    if not repair.layers and repair.method != "merge":
        return "nothing: there was no layer to fit" + (f", {len(repair.left_out)} left out" if repair.left_out else "")
    if not repair.kept:
        return f"nothing: every change raised the relative L2 of {before}"
    summary = f"{plural(repair.kept, 'layer')}, by {repair.method}: relative L2 {before} -> {after}"
    return summary + (f"; {len(repair.left_out)} left out" if repair.left_out else "")


def _describe_files(report: PruneReport) -> Text:
    took = f"{sum(report.seconds.values()):.1f} s"
    if report.output is None:
        return text(f"dry run: no model was written ({took})", "bold")
    return text(f"wrote {' and '.join(report.files)} in {took}", "bold")


def _render_groups(groups: Sequence[PrunedGroup], verbose: bool) -> list[RenderableType]:
    shown = groups if verbose else groups[:FEW_GROUPS]
    parts: list[RenderableType] = [table(("group", "kind", ">channels", ">kept", "remark"), map(_render_group, shown))]
    if len(shown) < len(groups):
        parts.append(more(len(groups) - len(shown), "groups"))
    return parts


def _render_group(g: PrunedGroup) -> list[object]:
    remark = "; ".join(r for r in ("" if g.exact else "approximate", _say_free([g]), g.reason or "") if r)
    return [text(g.name), g.kind, g.size, text(g.kept, "dim" if g.kept == g.size else "bold"), text(remark, "dim")]


def _describe_units(units: Sequence[UnitReport]) -> str:
    named = ", ".join(u.name for u in units[:FEW_UNITS])
    rest = f", and {len(units) - FEW_UNITS} more" if len(units) > FEW_UNITS else ""
    return f"{count_units(units)} removed: {named}{rest}"


def _say_free(groups: Sequence[PrunedGroup]) -> str:
    """How many of the removed channels changed no output, by why."""
    counts = Counter[str]()
    for g in groups:
        counts.update(g.free or {})
    return ", ".join(f"{n:,} {why}" for why, n in counts.items())


def _count_channels(groups: Sequence[PrunedGroup]) -> str:
    if not groups:
        return "the model has no group that could be pruned"
    size, kept = sum(g.size for g in groups), sum(g.kept for g in groups)
    changed = sum(g.kept < g.size for g in groups)
    return f"{size - kept:,} of {size:,} removed, from {changed} of {plural(len(groups), 'group')}"


def _render_notes(report: PruneReport, verbose: bool) -> Facts:
    rows: Facts = []
    if free := _say_free(report.groups):
        rows.append(("free", f"{free}: of the removed channels, no output depends on these"))
    whole = count_reasons(g.reason for g in report.groups if g.kept == g.size)
    if whole:
        rows.append(("left whole", f"{plural(whole.total(), 'group')}: {join_reasons(whole, say_where(verbose))}"))
    if any(not g.exact and g.kept < g.size for g in report.groups):
        rows.append(
            ("approximate", "an operator mixes along these channels (a norm's mean, say): valid, but not neutral")
        )
    frozen = _count_frozen(report.frozen)
    if frozen:
        rows.append(
            ("frozen", f"{plural(frozen.total(), 'weight axis', 'weight axes')}: {join_reasons(frozen, INSPECTED)}")
        )
    return rows


def _count_frozen(axes: Sequence[FrozenAxis]) -> Counter[str]:
    return Counter(f.reason for f in axes if not f.structural)


def warn_no_faster(report: PruneReport) -> str:
    """Where pruning did not pay, or may not where the model is to run: why, and what to type."""
    time, target = report.latency, (report.options or {}).get("target")
    slow = [g for g in report.groups if g.unaligned and g.kept < g.size]
    took = {"same": "the result is no faster here: ", "slower": "the result is slower here than the original: "}
    verdict = took.get(time.verdict or "", "") if time else ""
    if report.removes_nothing or report.quantization or not (slow or verdict):
        return ""
    if slow:
        why = f"{plural(len(slow), 'group keeps', 'groups keep')} a count that is slow on {target}"
        return f"{verdict}{why}; keep more, or --exclude {slow[0].name!r}"
    if target in (None, "none"):
        return f"{verdict}any channel count was allowed; --target cpu keeps fast ones"
    return f"{verdict}the removed channels take little of the time; --latency F is a budget of time"


def explain_nothing(report: PruneReport, verbose: bool = False) -> str:
    """In words, why no channel went; empty where some did, or weights became zero instead."""
    if not report.removes_nothing:
        return ""
    if report.groups:
        reasons = join_reasons(count_reasons(g.reason for g in report.groups), say_where(verbose))
        excluded = all((g.reason or "").startswith(EXCLUDED) for g in report.groups)
        return f"nothing was removed: {reasons}" + ("; exclude fewer groups" if excluded else "")
    why = join_reasons(_count_frozen(report.frozen), INSPECTED) or (
        "it has no weights with channels that both a producer and a consumer share"
    )
    return f"nothing was removed, the model has no group that could be pruned: {why}; see 'onnxprune inspect'"
