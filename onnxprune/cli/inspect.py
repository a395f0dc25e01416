"""`onnxprune inspect`: what of a model can be pruned, how its weights hang together, and what is frozen and why."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import app

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune import Analysis, Group

FEW_GROUPS, FEW_MEMBERS, FEW_FROZEN = 16, 6, 16
TELLING = ("out", "in", "scale", "other", "bias", "stat")  # the members to show first where not all are


@app.command(epilog="Examples:\n\nonnxprune inspect model.onnx\n\nonnxprune inspect model.onnx --json | jq .groups")
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List everything, however long.")] = False,
) -> None:
    """Show the groups of channels that can be pruned, the weights they live in, and what is frozen and why.

    A weight is shown with the layout of its axes: a letter stands for a
    group's channels, (a b) for a product, a + b for one after the other,
    a number for a frozen axis. Weights that share a letter lose the same
    channels.
    """
    import onnxprune
    from onnxprune.cli.console import emit, emit_json
    from onnxprune.cli.progress import progress
    from onnxprune.report.result import inspect_report

    with progress() as tell:
        tell("analyze", 0, 0)
        analysis = onnxprune.analyze(model)
        report = inspect_report(analysis)
    if json:
        emit_json(report)
    else:
        emit(_header(report), "", *_groups(analysis, verbose), *_frozen(report["frozen"], verbose))


def _header(r: dict[str, Any]) -> "RenderableType":
    from onnxprune.cli.console import count, facts, percent

    opsets = ", ".join(f"{domain} {version}" for domain, version in r["opset"].items())
    share = f" ({percent(r['prunable_params'], r['params'])})" if r["params"] else ""
    return facts(
        [
            ("model", r["model"]),
            ("made by", f"{r['producer'] or 'unknown'}, opset {opsets}, IR {r['ir_version']}, {r['nodes']:,} nodes"),
            ("file", count(r["bytes"], "B")),
            ("parameters", f"{count(r['params'])}, in prunable weights {count(r['prunable_params'])}{share}"),
            (
                "MACs",
                count(r["macs"]) + (" (one sample)" if r["macs"] is not None else ", a shape depends on the data"),
            ),
            ("groups", f"{len(r['groups'])}, {sum(g['size'] for g in r['groups']):,} channels"),
        ]
    )


def _groups(a: "Analysis", verbose: bool) -> list["RenderableType"]:
    from onnxprune.cli.console import more

    shown = a.groups if verbose else a.groups[:FEW_GROUPS]
    parts = [part for g in shown for part in _group(a, g, verbose)]
    if len(shown) < len(a.groups):
        parts += [more(len(a.groups) - len(shown), "groups"), ""]
    return parts


def _group(a: "Analysis", g: "Group", verbose: bool) -> list["RenderableType"]:
    from rich.text import Text

    from onnxprune.cli.console import clean, count, grid, indented, more, plural, text

    letters = " + ".join(a.layout(v) for v in g.vars)
    weights = {m.tensor for m in g.members}
    where = f"{count(sum(map(a.param_count, weights)))} parameters in {plural(len(weights), 'weight')}"
    title = Text.assemble((letters, "bold cyan"), "  ", (clean(g.name), "bold"), f"  {g.kind} [{g.size}]  {where}")
    parts: list[RenderableType] = [title]
    if g.mixed:
        parts.append(indented(text(f"approximate: {g.mixed}", "yellow")))
    rows = _members(a, g)
    few = rows if verbose else sorted(rows, key=lambda r: TELLING.index(r[0]))[:FEW_MEMBERS]
    parts.append(grid(few, indent=2))
    if len(few) < len(rows):
        parts.append(indented(more(len(rows) - len(few), "uses of weights")))
    return [*parts, ""]


def _members(a: "Analysis", g: "Group") -> list[tuple[str, str, str]]:
    """Role, name and whole layout of each weight of the group."""
    seen: dict[tuple[str, str, str], None] = {}
    for m in g.members:
        layout = "[" + ", ".join(a.layout(d) for d in a.coupling.uses[m.use]) + "]"
        seen[m.role, m.tensor, layout] = None
    return list(seen)


def _frozen(frozen: list[dict[str, Any]], verbose: bool) -> list["RenderableType"]:
    from onnxprune.cli.console import indented, more, plural, table, text

    listed = [f for f in frozen if verbose or not f["structural"]]
    parts: list[RenderableType] = [text(f"frozen: {plural(len(frozen), 'weight axis', 'weight axes')}", "bold")]
    shown = listed if verbose else listed[:FEW_FROZEN]
    if shown:
        rows = [(f["tensor"], f["axis"], f["size"], f["reason"], _node(f)) for f in shown]
        parts.append(table(("weight", ">axis", ">size", "why", "node"), rows, indent=2))
    if len(shown) < len(listed):
        parts.append(indented(more(len(listed) - len(shown), "frozen axes")))
    structural = Counter(f["reason"] for f in frozen if f["structural"])
    if structural and not verbose:
        said = ", ".join(f"{reason} ({n})" for reason, n in structural.most_common())
        parts.append(indented(text(f"never channels: {said}", "dim")))
    return parts


def _node(f: dict[str, Any]) -> str:
    return f"{f['operator']} {f['node']}".strip()
