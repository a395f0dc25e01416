"""`onnxprune prune`: a smaller model, and a report of what went, what did not and why, and how far the outputs moved."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.errors import OnnxPruneError

WHAT, WHERE, CHECK = "What to remove", "Files", "Check"
# What a plan already decides, by parameter.
DECIDED = (
    "ratio", "criterion", "scope", "reduce", "normalise", "round_to", "max_ratio", "include", "exclude", "group_ratio",
    "plan_out",
)  # fmt: skip


def _criteria(incomplete: str) -> list[tuple[str, str]]:
    from onnxprune.criteria import table

    return [(row.name, row.formula) for row in table() if row.name.startswith(incomplete)]


def _reduces(incomplete: str) -> list[str]:
    from onnxprune.criteria import REDUCES

    return [name for name in REDUCES if name.startswith(incomplete)]


def _normalisers(incomplete: str) -> list[str]:
    from onnxprune.criteria import NORMALISERS

    return [name for name in NORMALISERS if name.startswith(incomplete)]


def _scopes(incomplete: str) -> list[str]:
    return [name for name in ("local", "global", "isomorphic") if name.startswith(incomplete)]


@app.command(
    epilog="Examples:\n\nonnxprune prune model.onnx -o smaller.onnx --ratio 0.3 --data test.npz\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --ratio 0.5 --scope global --max-ratio 0.8 --round-to 8\n\n"
    "onnxprune prune model.onnx --dry-run --plan-out plan.json; "
    "onnxprune prune model.onnx -o smaller.onnx --plan plan.json"
)
def prune(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(help="An ONNX file; it is never changed.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Where the smaller model goes.", show_default=False, rich_help_panel=WHERE),
    ] = None,
    ratio: Annotated[
        float,
        typer.Option(
            metavar="R",
            help="The fraction of channels to remove, from 0 to below 1: of each group (local), of all channels "
            "ranked together (global), of all channels of groups of one shape (isomorphic).",
            rich_help_panel=WHAT,
        ),
    ] = 0.5,
    criterion: Annotated[
        str,
        typer.Option(metavar="NAME", help="What makes a channel important; 'onnxprune criteria' lists them.", autocompletion=_criteria, rich_help_panel=WHAT),
    ] = "l2",
    scope: Annotated[
        str,
        typer.Option(metavar="local|global|isomorphic", help="Which channels compete.", autocompletion=_scopes, rich_help_panel=WHAT),
    ] = "local",
    round_to: Annotated[int, typer.Option(metavar="N", help="Keep channel counts at multiples of N.", rich_help_panel=WHAT)] = 1,
    max_ratio: Annotated[float, typer.Option(metavar="R", help="The most that one group may lose.", rich_help_panel=WHAT)] = 1.0,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only groups with such a group, node or initializer name; repeatable.", show_default=False, rich_help_panel=WHAT),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="No group with such a name; repeatable.", show_default=False, rich_help_panel=WHAT),
    ] = None,
    group_ratio: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB=R", help="Another ratio for such groups; repeatable.", show_default=False, rich_help_panel=WHAT),
    ] = None,
    reduce: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How the scores of a group's weights become one: sides, joint, sum, mean, max, product, first. Default: the criterion's own.", show_default=False, autocompletion=_reduces, rich_help_panel=WHAT),
    ] = None,
    normalise: Annotated[
        str,
        typer.Option(metavar="NAME", help="How groups are made comparable where they compete: none, mean, max, sum, standardise, lamp.", autocompletion=_normalisers, rich_help_panel=WHAT),
    ] = "mean",
    plan: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.json", help="Apply this plan instead of making one.", show_default=False, rich_help_panel=WHERE),
    ] = None,
    plan_out: Annotated[
        Path | None,
        typer.Option(metavar="PLAN.json", help="Write the plan: the kept channels of each group.", show_default=False, rich_help_panel=WHERE),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="REPORT.json", help="Write the report as JSON.", show_default=False, rich_help_panel=WHERE)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz|FOLDER",
            help="Inputs to compare on: an .npz with one array an input, or a folder of .npy; with 'labels', accuracy is "
            "measured too. Default: random inputs.",
            show_default=False,
            rich_help_panel=CHECK,
        ),
    ] = None,
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Leave the comparison in ONNX Runtime out.", rich_help_panel=CHECK)] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of random inputs and of random criteria.", rich_help_panel=CHECK)] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go; write nothing but --plan-out and --report.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every group.")] = False,
) -> None:
    """Remove whole channels (filters, neurons, heads) from a model, with all that depends on them, and write a smaller one."""
