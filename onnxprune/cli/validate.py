"""`onnxprune validate`: how far a candidate's outputs are from the original's, and whether that is near enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, app
from onnxprune.cli.options import add_settings, refuse_nan
from onnxprune.errors import OnnxPruneError
from onnxprune.settings import Sparsity, find_command_settings
from onnxprune.settings.sparsity import LAYERS

if TYPE_CHECKING:
    from onnxprune.report.types import ErrorReport, PatternReport


@app.command(
    epilog="Examples:\n\nonnxprune validate model.onnx smaller.onnx --data test.npz\n\n"
    "onnxprune validate model.onnx smaller.onnx --max-error 0.01 && echo near enough\n\n"
    "onnxprune validate sparse.onnx --pattern 2:4"
)
@add_settings("validate")
def validate(
    ctx: typer.Context,
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model to compare with.")],
    candidate: Annotated[
        Path | None,
        typer.Argument(metavar="[CANDIDATE]", help="The model to judge; with --pattern it may stand alone."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every layer of --pattern.")] = False,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="E", min=0.0, callback=refuse_nan, help="Exit with 1 if the relative L2 error is above E."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Run two models on the same inputs in ONNX Runtime and measure the error of the outputs; or check a sparsity pattern."""
    if settings.get("sparse_engines") and "data" not in settings:
        raise OnnxPruneError("sparse-engines counts multiplications on data; give some with --data")
    sparse, which = _check(candidate or original, settings) if "pattern" in settings else (None, None)
    holds = sparse is None or _print_pattern(sparse, which, verbose, json=json and candidate is None, silent=json)
    if candidate is None:
        if sparse is not None:
            raise typer.Exit(0 if holds else FAILED_CHECK)
        raise OnnxPruneError("there is no model to judge; give ORIGINAL and CANDIDATE, or one model and --pattern")
    from dataclasses import replace

    import onnxprune
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_comparison
    from onnxprune.report.builders import validate_report
    from onnxprune.report.degraded import explain_degraded
    from onnxprune.report.types import Counts
    from onnxprune.sparsity.engines import measure_engines
    from onnxprune.validation import measure_layer_errors

    with show_progress() as progress:
        progress("load", 0, 0)
        models = [onnxprune.load(m) for m in (original, candidate)]  # says best what is wrong with a file
        progress("validate", 0, 0)
        table = find_command_settings("validate")
        measured = {name: value for name, value in settings.items() if table[name].home is not Sparsity}
        counted = measured.pop("sparse_engines", False)
        result = onnxprune.validate(original, candidate, timed=True, **measured)
        before, after = map(onnxprune.analyze, models)
        layers = measure_layer_errors(before, models[1], result.batches)
        engines = None
        if counted:
            progress("count", 0, 0)
            sizes = Counts(*(m.size_bytes for m in models))
            engines = measure_engines(before, after, result.batches, sizes)
        for model in models:  # ONNX Runtime has opened them by their paths
            model.check_unchanged()
        report = validate_report(before, after, result, layers, engines)
    if json:
        emit_json(replace(report, sparsity=sparse))
    else:
        emit(render_comparison(report))
    if why := explain_degraded(report):
        warn(f"the candidate is degraded: {why}")
    if max_error is not None and (failures := list_failures(result, max_error)):
        warn(f"the candidate is not near enough: {'; '.join(failures)}")
        raise typer.Exit(FAILED_CHECK)
    if not holds:
        raise typer.Exit(FAILED_CHECK)


def _check(model: Path, settings: dict[str, Any]) -> tuple[PatternReport, str | None]:
    """Which layers have the pattern, and which of them must."""
    import onnxprune
    from onnxprune.cli.progress import show_progress
    from onnxprune.plain_settings import build
    from onnxprune.report.sparsity import check_report
    from onnxprune.sparsity import check_pattern
    from onnxprune.sparsity.resolve import resolve_sparsity

    options = resolve_sparsity(build(settings, "validate")[Sparsity], False)
    with show_progress() as progress:
        progress("load", 0, 0)
        layers = check_pattern(onnxprune.load(model), options)
    return check_report(str(model), options.pattern, layers), options.layers


def _print_pattern(report: PatternReport, layers: str | None, verbose: bool, *, json: bool, silent: bool) -> bool:
    """Say it, unless it is part of another report; whether all layers have the pattern that must."""
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.render import render_pattern

    if json:
        emit_json(report)
    elif not silent:
        emit(render_pattern(report, verbose))
    if not any(x.checked for x in report.layers):
        model, pattern = report.model, report.pattern
        wider = LAYERS[LAYERS.index(layers) + 1 :] if layers in LAYERS else ()
        more = "; " + " or ".join(f"'--layers {name}'" for name in wider) + " checks more" if wider else ""
        warn(f"{model} has no layer that must have {pattern}{more}")
        return False
    return report.holds


def list_failures(result: ErrorReport, max_error: float) -> list[str]:
    """What is wrong with the candidate, in words: incomparable outputs, new NaN, too large an error."""
    from onnxprune.report.types import NotComparable, OutputMismatch

    outputs = result.outputs
    wrong = [f"output '{name}': {o.error}" for name, o in outputs.items() if isinstance(o, NotComparable)]
    new = result.nonfinite.candidate - result.nonfinite.reference
    if new > 0:
        wrong.append(f"{new} more NaN or infinite values than the original has")
    error = result.overall.relative_l2
    exact = [o.mismatch for o in outputs.values() if isinstance(o, OutputMismatch) and o.mismatch is not None]
    if error is None and exact:  # no output of floats
        error = max(exact)
    if error is None:
        wrong.append("the error is not a finite number")
    elif not error <= max_error:
        wrong.append(f"error {error:.4g} is above {max_error:g}")
    return wrong
