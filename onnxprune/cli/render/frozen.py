"""What of a model stays as it is: frozen weight axes by reason, with the route from each weight to what freezes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from onnxprune.cli.console import count, indented, more, percent, text
from onnxprune.report.types import FrozenAxis
from onnxprune.wording import clean, plural

if TYPE_CHECKING:
    from onnxprune import Analysis

FEW_REASONS, FEW_AXES = 10, 3


def render_frozen(a: Analysis, frozen: Sequence[FrozenAxis], verbose: bool) -> list[RenderableType]:
    """The last part of `inspect`: reasons, those that cost most parameters first, each with the axes that it freezes."""
    axes = [f for f in frozen if not f.structural]
    from onnxprune.explain import find_whole_weights
    from onnxprune.groups import ALONE

    whole = find_whole_weights(a)
    reasons = _sort_by_reason(axes)
    order = sorted(reasons, key=lambda r: _count_cost(reasons[r], whole), reverse=True)
    shown = order if verbose else order[:FEW_REASONS]
    parts: list[RenderableType] = [_render_summary(a, axes, whole), ""]
    for reason in shown:
        parts += [_render_title(reason, reasons[reason], whole), *_render_axes(a, reasons[reason], whole, verbose), ""]
    if len(shown) < len(order):
        parts += [more(len(order) - len(shown), "reasons"), ""]
    if alone := whole.keys() - {f.tensor for f in axes}:
        parts += [Text.assemble((ALONE, "bold"), "  ", _describe_whole(alone, whole)), ""]
    never = Counter(f.reason for f in frozen if f.structural)
    shown_reasons = ", ".join(f"{reason} ({n})" for reason, n in never.most_common())
    return [*parts, text(f"never channels: {shown_reasons}", "dim")] if shown_reasons else parts[:-1]


def _describe_whole(names: Collection[str], whole: Mapping[str, int]) -> str:
    return f"{plural(len(names), 'weight')} whole: {count(sum(whole[n] for n in names))} parameters"


def _render_summary(a: Analysis, axes: Sequence[FrozenAxis], whole: Mapping[str, int]) -> Text:
    summary = f"frozen: {plural(len(axes), 'weight axis', 'weight axes')}"
    if whole:
        summary += f", {_describe_whole(whole, whole)} ({percent(sum(whole.values()), a.params())})"
    return text(summary, "bold")


def _sort_by_reason(axes: Sequence[FrozenAxis]) -> dict[str, list[FrozenAxis]]:
    from onnxprune.explain import generalize

    out: dict[str, list[FrozenAxis]] = defaultdict(list)
    for f in axes:
        out[generalize(f.reason, f.operator)].append(f)
    return out


def _count_cost(axes: Sequence[FrozenAxis], whole: Mapping[str, int]) -> tuple[int, int]:
    names = {f.tensor for f in axes}
    return sum(whole.get(n, 0) for n in names), len(axes)


def _render_title(reason: str, axes: Sequence[FrozenAxis], whole: Mapping[str, int]) -> Text:
    kept = {f.tensor for f in axes} & whole.keys()
    counts = f"  {plural(len(axes), 'axis', 'axes')}" + (f", {_describe_whole(kept, whole)}" if kept else "")
    return Text.assemble((clean(reason), "bold"), counts)


def _render_axes(
    a: Analysis, axes: Sequence[FrozenAxis], whole: Mapping[str, int], verbose: bool
) -> list[RenderableType]:
    """The axes, those of weights that stay whole first."""
    listed = sorted(axes, key=lambda f: -whole.get(f.tensor, 0))
    shown = listed if verbose else listed[:FEW_AXES]
    uses = {(f.tensor, f.axis): a.coupling.uses[f.use] for f in a.frozen}
    parts: list[RenderableType] = []
    for f in shown:
        layout = ", ".join(map(a.layout, uses[f.tensor, f.axis]))
        name = f"{clean(f.tensor)}[{f.axis}]"
        parts.append(
            indented(Text.assemble(name, f"  [{layout}]", (clean(_describe_route(f)), "dim"), overflow="fold"))
        )
    rest = len(listed) - len(shown)
    return [*parts, indented(more(rest, "frozen axes"))] if rest else parts


def _describe_route(f: FrozenAxis) -> str:
    """` <- Conv 'conv2' <- Add 'add3' <- Reshape 'r7'`, and the reason where the title leaves a name out."""
    from onnxprune.explain import FIRST, generalize

    stops = [f"{stop.operator} '{stop.name}'" for stop in f.route]
    if f.route_left_out:
        stops.insert(FIRST, f"… {f.route_left_out} more …")
    hidden = f.operator and not generalize(f.reason, f.operator).endswith(f.reason)
    return "".join(f" <- {s}" for s in stops) + (f": {f.reason}" if hidden else "")
