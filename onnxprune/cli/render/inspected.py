"""The report of `inspect`, for people to read: groups with the weights they live in, and what is frozen and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Parts
from rich.console import RenderableType
from rich.text import Text

from onnxprune.cli.console import count, facts, grid, indented, more, percent, text
from onnxprune.cli.render.frozen import render_frozen
from onnxprune.report.types import GuardedNode, InspectReport, UnitReport
from onnxprune.wording import clean, plural

if TYPE_CHECKING:
    from onnxprune import Analysis, Group

PLURALS = {"residual branch": "residual branches"}
FEW_GROUPS, FEW_MEMBERS, FEW_ALIKE = 16, 6, 6
TELLING = ("out", "in", "scale", "other", "bias", "stat")  # the members to show first where not all are


def render_inspection(report: InspectReport, analysis: Analysis, verbose: bool) -> Parts:
    """What `inspect` says; `analysis` has the layouts of whole weights, which the report does not."""
    frozen = render_frozen(analysis, report.frozen, verbose)
    return Parts(_render_header(report, analysis), "", *_render_groups(analysis, verbose), *frozen)


def _render_header(r: InspectReport, a: Analysis) -> RenderableType:
    opsets = ", ".join(f"{domain} {version}" for domain, version in r.opset.items())
    share = f" ({percent(r.prunable_params, r.params)})" if r.params else ""
    sizes = "".join(f", {name} = {n}" for name, n in r.sizes.items() if n > 1)
    return facts(
        [
            ("model", r.model),
            ("made by", f"{r.producer or 'unknown'}, opset {opsets}, IR {r.ir_version}, {r.nodes:,} nodes"),
            ("file", count(r.bytes, "B")),
            ("parameters", f"{count(r.params)}, in prunable weights {count(r.prunable_params)}{share}"),
            ("MACs", count(r.macs) + (f" (one sample{sizes})" if r.macs is not None else f", {a.no_macs}")),
            ("groups", f"{len(r.groups)}, {sum(g.size for g in r.groups):,} channels"),
            *([("blocks", _describe_units(r.units))] if r.units else []),
            *([("not understood", _describe_guarded(r.guarded))] if r.guarded else []),
        ]
    )


def _describe_units(units: Sequence[UnitReport]) -> str:
    named = ", ".join(u.name for u in units[:FEW_ALIKE])
    return f"{count_units(units)} that can be removed: {named}{', ..' if len(units) > FEW_ALIKE else ''}"


def count_units(units: Sequence[UnitReport]) -> str:
    """`2 residual branches and 1 expert`."""
    kinds = Counter(u.kind for u in units)
    return " and ".join(plural(n, kind, PLURALS.get(kind, "")) for kind, n in sorted(kinds.items(), reverse=True))


def _describe_guarded(nodes: Sequence[GuardedNode]) -> str:
    shown = ", ".join(f"{n.operator} {n.node}" for n in nodes[:FEW_ALIKE])
    rest = ", .." if len(nodes) > FEW_ALIKE else ""
    return f"{plural(len(nodes), 'node')} that no rule can follow, frozen with all they touch: {shown}{rest}"


def _render_groups(a: Analysis, verbose: bool) -> list[RenderableType]:
    """Every group, or one of each shape with the names of those that are alike."""
    if verbose:
        return [part for g in a.groups for part in (*_render_group(a, g, verbose), "")]
    kinds = _find_alike(a)
    parts: list[RenderableType] = []
    for first, *others in kinds[:FEW_GROUPS]:
        parts += [*_render_group(a, first, verbose), *_render_others(a, others), ""]
    hidden = sum(map(len, kinds[FEW_GROUPS:]))
    return [*parts, more(hidden, "groups"), ""] if hidden else parts


def _find_alike(a: Analysis) -> list[list[Group]]:
    """Groups of one shape: as the isomorphic scope sees it, with weights of the same sizes."""
    from onnxprune.allocate import make_shape_key

    out: dict[object, list[Group]] = defaultdict(list)
    for g in a.groups:
        sizes = sorted(a.coupling.weights[m.tensor].shape for m in g.members)
        out[make_shape_key(g), g.exact, tuple(sizes)].append(g)
    return list(out.values())


def _render_others(a: Analysis, groups: Sequence[Group]) -> list[RenderableType]:
    if not groups:
        return []
    named = [f"{_name_letters(a, g)} {g.name}" for g in groups[:FEW_ALIKE]]
    rest = f", and {len(groups) - len(named)} more" if len(groups) > len(named) else ""
    return [indented(text(f"{len(groups)} alike: {', '.join(named)}{rest}", "dim"))]


def _name_letters(a: Analysis, g: Group) -> str:
    return " + ".join(a.layout(v) for v in g.vars)


def _render_group(a: Analysis, g: Group, verbose: bool) -> list[RenderableType]:
    weights = {m.tensor for m in g.members}
    where = f"{count(sum(map(a.param_count, weights)))} parameters in {plural(len(weights), 'weight')}"
    title = Text.assemble(
        (_name_letters(a, g), "bold cyan"), "  ", (clean(g.name), "bold"), f"  {g.kind} [{g.size}]  {where}"
    )
    parts: list[RenderableType] = [title]
    if g.mixed:
        parts.append(indented(text(f"approximate: {g.mixed}", "yellow")))
    rows = _list_members(a, g)
    few = rows if verbose else sorted(rows, key=lambda r: TELLING.index(r[0]))[:FEW_MEMBERS]
    parts.append(grid(few, indent=2))
    if len(few) < len(rows):
        parts.append(indented(more(len(rows) - len(few), "uses of weights")))
    return parts


def _list_members(a: Analysis, g: Group) -> list[tuple[str, str, str]]:
    """Role, name and whole layout of each weight of the group."""
    seen: dict[tuple[str, str, str], None] = {}
    for m in g.members:
        layout = "[" + ", ".join(a.layout(d) for d in a.coupling.uses[m.use]) + "]"
        seen[m.role, m.tensor, layout] = None
    return list(seen)
