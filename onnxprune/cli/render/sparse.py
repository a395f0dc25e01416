"""The layers of a sparse model, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType

from onnxprune.cli.console import Facts, count, facts, more, percent, table, text
from onnxprune.cli.render.reasons import count_reasons, join_reasons, say_where
from onnxprune.report.types import CheckedLayer, CompressedSize, PatternReport, SparseLayerReport, SparsityReport
from onnxprune.targets import TARGETS
from onnxprune.wording import plural

FEW_LAYERS = 24


def explain_none(sparse: SparsityReport | None, verbose: bool = False) -> str:
    """In words, why no layer was made sparse; empty where some were."""
    layers = sparse.layers if sparse else []
    if sparse is None or any(x.sparse for x in layers):
        return ""
    if not layers:
        return "nothing was made sparse: no operator multiplies with a constant matrix"
    why = join_reasons(count_reasons(x.reason for x in layers), say_where(verbose))
    could = any(x.eligible for x in layers) and sparse.options["layers"] == "likely"
    hint = "; '--layers eligible' takes every layer that the target can run" if could else ""
    return f"nothing was made sparse: {why}{hint}"


def render_layer_facts(sparse: SparsityReport, verbose: bool = False) -> Facts:
    """The lines about the pattern."""
    layers, options = sparse.layers, sparse.options
    chosen = [x for x in layers if x.sparse]
    weights = sum(x.params or 0 for x in chosen)
    pattern = f"{sparse.pattern} in {len(chosen)} of {plural(len(layers), 'layer')} ({weights:,} weights)"
    methods = Counter(x.method or "" for x in chosen)
    chosen_by = ", ".join(f"{m} ({n})" if len(methods) > 1 else m for m, n in methods.most_common())
    rows: Facts = [("pattern", pattern), ("runs on", sparse.runs_on), *_note_slow(sparse)]
    if chosen:
        fitted = options["repair"] != "none" and any(x.error_before_repair is not None for x in chosen)
        repaired = f", repair {options['repair']}" if fitted else ""
        rows.append(("chosen by", chosen_by + repaired))
    left = count_reasons(x.reason for x in layers if not x.sparse)
    if left:
        rows.append(("left dense", f"{plural(left.total(), 'layer')}: {join_reasons(left, say_where(verbose))}"))
    rows += [("note", note) for note in dict.fromkeys(x.note for x in chosen if x.note)]
    if sparse.compressed:
        rows.append(("compressed", _describe_compressed(sparse.compressed, sparse.pattern)))
    if sparse.permuted:
        gains = [x.after - x.before for x in sparse.permuted]
        rows.append(
            ("permuted", f"{plural(len(gains), 'group')}, whose readers keep up to {100 * max(gains):.1f} points more")
        )
    return rows


def _note_slow(sparse: SparsityReport) -> Facts:
    """A line where the model is to run somewhere that does not skip the zeros of an N:M pattern."""
    target = TARGETS[sparse.options["target"]]
    if ":" not in sparse.pattern or target.name == "none" or sparse.pattern in target.sparse:
        return []
    return [("note", f"target {target.name} has no kernels for {sparse.pattern}: the zeros make nothing faster there")]


def _describe_compressed(size: CompressedSize, pattern: str) -> str:
    """What the file takes where something compresses it; itself it has the same size for every pattern."""
    about = ", estimated" if size.estimated else ""
    packed = f"; {count(size.in_pattern, 'B')} with the layers in {pattern} form" if size.in_pattern is not None else ""
    return f"{count(size.before, 'B')} -> {count(size.after, 'B')} by gzip -1{about}{packed}"


def render_layer_table(layers: Sequence[SparseLayerReport], verbose: bool) -> list[RenderableType]:
    """A line for each layer, and an empty one."""
    shown = layers if verbose else layers[:FEW_LAYERS]
    if not shown:
        return []
    head = ("layer", "operator", ">outputs x inputs", "kernels", ">kept", ">error", "remark")
    parts: list[RenderableType] = [table(head, map(_render_row, shown))]
    if len(shown) < len(layers):
        parts.append(more(len(layers) - len(shown), "layers"))
    return [*parts, ""]


def _render_row(x: SparseLayerReport) -> list[object]:
    kernel = f" x {x.positions}" if x.positions > 1 else ""
    shape = f"{x.outputs} x {x.inputs}{kernel}" if x.params else ""
    error = "" if x.error is None else f"{x.error:.3g}"
    kept = text(percent(x.kept_magnitude), "bold") if x.sparse else "dense"
    return [text(x.name), x.op, shape, _name_kernels(x), kept, error, text(x.reason or "", "dim")]


def _name_kernels(x: SparseLayerReport) -> str:
    """Which kernels the target has for the layer."""
    if x.eligible is None:
        return ""
    return ("sparse, likely" if x.likely else "sparse, eligible") if x.eligible else "not sparse"


def render_pattern(report: PatternReport, verbose: bool) -> Group:
    """What `validate --pattern` says."""
    layers = report.layers
    wrong = [x for x in layers if x.checked and not x.holds]
    shown = layers if verbose else wrong[:FEW_LAYERS]
    rows = [[text(x.name), x.op, percent(x.zeros), _render_verdict(x), text(x.reason or "", "dim")] for x in shown]
    parts: list[RenderableType] = (
        [table(("layer", "operator", ">zeros", "pattern", "remark"), rows), ""] if rows else []
    )
    if len(wrong) > len(shown):
        parts += [more(len(wrong) - len(shown), "layers that break the pattern"), ""]
    checked = sum(x.checked for x in layers)
    others = sum(bool(x.holds) for x in layers if not x.checked)
    summary = f"{report.pattern} holds in {checked - len(wrong)} of {plural(checked, 'layer')} that were checked"
    if others:
        summary += f", and in {others} of {len(layers) - checked} others"
    return Group(*parts, facts([("pattern", summary)]))


def _render_verdict(x: CheckedLayer) -> object:
    if x.broken is None:
        return "unknown"
    if x.holds:
        return "holds"
    return text(f"broken {plural(x.broken, 'time')}", "bold red" if x.checked else "dim")
