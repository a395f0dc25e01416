"""`onnxprune validate`: how far a candidate's outputs are from the original's, and whether that is near enough."""

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import FAILED_CHECK, app
from onnxprune.errors import OnnxPruneError
from onnxprune.report.types import ErrorReport, NotComparable, OutputMismatch, PatternReport

WIDER = ("likely", "eligible", "all")  # which layers must have a pattern, from few to all


@app.command(
    epilog="Examples:\n\nonnxprune validate model.onnx smaller.onnx --data test.npz\n\n"
    "onnxprune validate model.onnx smaller.onnx --max-error 0.01 && echo near enough\n\n"
    "onnxprune validate sparse.onnx --pattern 2:4"
)
def validate(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model to compare with.")],
    candidate: Annotated[
        Path | None,
        typer.Argument(metavar="[CANDIDATE]", help="The model to judge; with --pattern it may stand alone."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Does the candidate (or the only model) have this pattern, layer by layer? Exit with 1 where it does not.",
        ),
    ] = None,
    sparsity: Annotated[
        float, typer.Option(metavar="F", help="The fraction of zeros, for patterns that do not say it.")
    ] = 0.5,
    layers: Annotated[
        str | None,
        typer.Option(metavar="likely|eligible|all", help="Which layers must have it, see 'onnxprune sparsify --help'."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every layer of --pattern.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz|FOLDER",
            help="Inputs to feed: an .npz with one array an input (and 'labels'), or a folder of .npy. "
            "Default: seeded random inputs.",
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(metavar="E", min=0.0, help="Exit with 1 where the relative L2 error is above E."),
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            metavar="imagenet|FILE.toml|NAME=VALUE",
            help="How pictures in --data become inputs, see 'onnxprune prune --help'; repeatable.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure peak memory too: each model runs once in a process of its own.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random inputs.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run two models on the same inputs in ONNX Runtime and measure how far the outputs differ; or check a sparsity pattern."""
    sparse, which = (None, None) if pattern is None else _check(candidate or original, pattern, sparsity, layers)
    held = sparse is None or _told(sparse, which, verbose, json=json and candidate is None, silent=json)
    if candidate is None:
        if sparse is not None:
            raise typer.Exit(0 if held else FAILED_CHECK)
        raise OnnxPruneError("which model is to be judged? give ORIGINAL and CANDIDATE, or one model and --pattern")
    from dataclasses import replace

    import onnxprune
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_comparison
    from onnxprune.report.result import validate_report
    from onnxprune.validation import layer_errors

    with show_progress() as progress:
        progress("load", 0, 0)
        models = [onnxprune.load(m) for m in (original, candidate)]  # says best what is wrong with a file
        progress("validate", 0, 0)
        how = read_preprocess(preprocess) if preprocess else None
        result = onnxprune.validate(
            original, candidate, data=data, preprocess=how, seed=seed, timed=True, profile=profile
        )
        before, after = map(onnxprune.analyze, models)
        found = layer_errors(before, models[1], result.batches)
        for model in models:  # ONNX Runtime has opened them by their paths
            model.check_unchanged()
        report = validate_report(before, after, result, found)
    if json:
        emit_json(replace(report, sparsity=sparse))
    else:
        emit(render_comparison(report))
    if max_error is not None and (failures := failed(result, max_error)):
        warn(f"the candidate is not near enough: {'; '.join(failures)}")
        raise typer.Exit(FAILED_CHECK)
    if not held:
        raise typer.Exit(FAILED_CHECK)


def _check(model: Path, pattern: str, sparsity: float, layers: str | None) -> tuple[PatternReport, str | None]:
    """Which layers have the pattern, and which of them must."""
    import onnxprune
    from onnxprune.cli.progress import show_progress
    from onnxprune.report.sparsity import check_report
    from onnxprune.sparsity import check_pattern

    options = onnxprune.Sparsity(pattern=pattern, sparsity=sparsity, layers=layers).resolved(False)
    with show_progress() as progress:
        progress("load", 0, 0)
        found = check_pattern(onnxprune.load(model), options)
    return check_report(str(model), pattern, found), options.layers


def _told(report: PatternReport, layers: str | None, verbose: bool, *, json: bool, silent: bool) -> bool:
    """Say it, unless it is part of another report; whether all layers have the pattern that must."""
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.render import render_pattern

    if json:
        emit_json(report)
    elif not silent:
        emit(render_pattern(report, verbose))
    if not any(x.checked for x in report.layers):
        model, pattern = report.model, report.pattern
        wider = WIDER[WIDER.index(layers) + 1 :] if layers in WIDER else ()
        more = "; " + " or ".join(f"'--layers {name}'" for name in wider) + " checks more" if wider else ""
        warn(f"{model} has no layer that must have {pattern}{more}")
        return False
    return report.holds


def failed(result: ErrorReport, max_error: float) -> list[str]:
    """What is wrong with the candidate, in words: incomparable outputs, new NaN, too large an error."""
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
