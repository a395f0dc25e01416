"""`onnxprune prune`: a smaller model, and a report of what was removed, what was not and why, and how far the outputs moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.cli.options import (
    HTML,
    JSON,
    MODEL,
    REPORT,
    add_settings,
    file_option,
    is_typed,
    output,
)
from onnxprune.errors import OnnxPruneError
from onnxprune.settings.options import Options
from onnxprune.settings.table import find_class_settings, to_option

if TYPE_CHECKING:
    from onnxprune.report import PruneReport

BESIDE_PLAN = ("repair", "seed")  # of the options, those that say what happens to the rest


@app.command(
    epilog="Examples:\n\nonnxprune prune model.onnx -o smaller.onnx --ratio 0.3 --data test.npz\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --scope global --max-ratio 0.8 --round-to 8 --exclude 'head*'\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --macs 0.5 --calib calib.npz\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --criterion wanda --calib images/ --preprocess imagenet --samples 500\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --macs 0.5 --calib calib.npz --then-sparsify 2:4 --permute --cast fp16\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --macs 0.5 --calib calib.npz --then-quantize int8 --data test.npz\n\n"
    "onnxprune prune model.onnx --dry-run --plan-out plan.json\n\n"
    "onnxprune prune model.onnx -o smaller.onnx --plan plan.json"
)
@add_settings("prune")
def prune(
    ctx: typer.Context,
    model: MODEL,
    out: Annotated[Path | None, output("smaller")] = None,
    recipe: Annotated[
        Path | None, file_option("RECIPE.toml", "Take all settings from a recipe of 'onnxprune batch'.")
    ] = None,
    plan: Annotated[Path | None, file_option("PLAN.json", "Apply this plan instead of making one.")] = None,
    plan_out: Annotated[
        Path | None, file_option("PLAN.json", "Write the plan: the channels kept, group by group.")
    ] = None,
    report: REPORT = None,
    html: HTML = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only predict; of the files, write only --plan-out, --report and --html.")
    ] = False,
    json: JSON = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every group.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Remove whole channels (filters, neurons, heads) from a model, with all that depends on them.

    The smaller model runs wherever the original ran. Prints the removed
    channels, the frozen weights with the reason, and the error of the outputs.
    """
    import onnxprune
    from onnxprune.cli.render import render_pruned
    from onnxprune.cli.reports import RunFiles, run_pipeline
    from onnxprune.plain_settings import check_all, make_arguments

    files = RunFiles(model, out, recipe, plan, plan_out, report, html, dry_run, json)
    if recipe is not None:
        settings = _read_recipe(recipe, model, [*settings, *(["plan"] if plan else [])])
    _check_together(ctx, settings, plan is not None)
    files.check("smaller", settings)
    check_all(settings)
    taken = make_arguments(settings, files.base)
    run_pipeline(onnxprune.prune, files, settings, taken, lambda r: render_pruned(r, _describe(r, plan), verbose))


def _read_recipe(recipe: Path, model: Path, typed: Sequence[str]) -> dict[str, Any]:
    """The settings that a recipe has for a model; others beside it are a mistake."""
    from onnxprune.batch.jobs import find_settings
    from onnxprune.batch.recipe import read

    _refuse(typed, "--recipe has the settings")
    return find_settings(read(recipe), model)


def _check_together(ctx: typer.Context, settings: Mapping[str, Any], planned: bool) -> None:
    """Refuse options that decide again what another one has decided."""
    if "then_sparsify" not in settings:
        _refuse([n for n in ("permute", "layers") if n in settings], "no pattern is given (--then-sparsify PATTERN)")
    if planned:
        selection = [n for n in find_class_settings(Options) if n not in BESIDE_PLAN]
        written = ["plan_out"] if is_typed(ctx, "plan_out") else []
        _refuse([*(n for n in selection if n in settings), *written], "--plan already has the channels to remove")
    if "threshold" in settings:
        _refuse([n for n in ("scope", "normalize") if n in settings], "--threshold compares scores as they are")
    if "allocation" in settings:
        _refuse([n for n in ("scope",) if n in settings], "--allocation decides which channels compete")


def _refuse(names: Sequence[str], why: str) -> None:
    for name in names:
        raise OnnxPruneError(f"{why}, so --{to_option(name)} has no place beside it; drop one")


def _describe(report: PruneReport, plan: Path | None) -> str:
    """What decided which channels stay, and what was done to the rest."""
    if report.options is None:
        return ", ".join([f"plan {plan}"] + ([f"repair {report.repair.method}"] if report.repair else []))
    o = Options(**report.options)
    parts = [f"criterion {o.criterion}", _goal(o)]
    parts += [f"{o.allocation} allocation"] if o.allocation else [f"{o.scope} scope"] if o.threshold is None else []
    parts += [f"{o.steps} steps, {o.schedule}"] if o.steps != 1 else []
    parts += [f"reduce {o.reduce}"] if o.reduce else []
    parts += [f"normalize {o.normalize}"] if (o.allocation or o.scope) in ("global", "isomorphic") else []
    parts += [f"at most {o.max_ratio:g} of a group"] if o.max_ratio < 1 else []
    parts += [f"multiples of {o.round_to}"] if o.round_to > 1 else []
    parts += [f"target {o.target}"] if o.target != "none" or o.round_to == 1 else []
    return ", ".join([*parts, f"repair {o.repair}"] if o.repair != "none" else parts)


def _goal(o: Options) -> str:
    """What decides how much goes."""
    if o.max_error is not None:
        return f"relative L2 error at most {o.max_error:g}"
    if o.min_agreement is not None:
        return f"the same class for at least {o.min_agreement:g}"
    if o.max_drop is not None:
        return f"a drop of the metric of at most {o.max_drop:g}"
    if o.threshold is not None:
        return f"scores of at least {o.threshold:g}"
    kind, fraction = o.budget or o.limit or ("ratio", o.removed)
    return f"at most {fraction:g} of the {kind}" if kind != "ratio" else f"ratio {fraction:g}"
