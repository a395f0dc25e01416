"""`onnxprune validate`: how far a candidate's outputs are from the original's, and whether that is near enough."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxprune.cli.app import FAILED_CHECK, app

if TYPE_CHECKING:
    from onnxprune import Result


@app.command(
    epilog="Examples:\n\nonnxprune validate model.onnx smaller.onnx --data test.npz\n\n"
    "onnxprune validate model.onnx smaller.onnx --max-error 0.01 && echo near enough"
)
def validate(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model to compare with.")],
    candidate: Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The model to judge.")],
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
    """Run two models on the same inputs in ONNX Runtime and measure how far the outputs differ."""
    import onnxprune
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import progress
    from onnxprune.cli.summary import compared
    from onnxprune.report.result import validate_report
    from onnxprune.validation import layer_errors

    with progress() as tell:
        tell("load", 0, 0)
        models = [onnxprune.load(m) for m in (original, candidate)]  # says best what is wrong with a file
        tell("validate", 0, 0)
        how = read_preprocess(preprocess) if preprocess else None
        result = onnxprune.validate(
            original, candidate, data=data, preprocess=how, seed=seed, timed=True, profile=profile
        )
        before, after = map(onnxprune.analyze, models)
        layers = layer_errors(before, models[1], result.batches)
        report = validate_report(before, after, result, layers)
    if json:
        emit_json(report)
    else:
        emit(compared(report))
    if max_error is not None and (failures := failed(result, max_error)):
        warn(f"the candidate is not near enough: {'; '.join(failures)}")
        raise typer.Exit(FAILED_CHECK)


def failed(result: "Result", max_error: float) -> list[str]:
    """What is wrong with the candidate, in words: incomparable outputs, new NaN, too large an error."""
    wrong = [f"output '{name}': {o['error']}" for name, o in result.outputs.items() if "error" in o]
    new = result.nonfinite["candidate"] - result.nonfinite["reference"]
    if new > 0:
        wrong.append(f"{new} more NaN or infinite values than the original has")
    error = result.overall["relative_l2"]
    exact = [o["mismatch"] for o in result.outputs.values() if o.get("mismatch") is not None]
    if error is None and exact:  # no output of floats
        error = max(exact)
    if error is None:
        wrong.append("the error is not a finite number")
    elif not error <= max_error:
        wrong.append(f"error {error:.4g} is above {max_error:g}")
    return wrong
