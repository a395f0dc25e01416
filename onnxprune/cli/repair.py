"""`onnxprune repair`: fit a candidate, pruned or masked by any tool, to its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, app
from onnxprune.cli.candidates import ORIGINAL, CandidateFiles, run_candidate
from onnxprune.cli.options import JSON, REPORT, add_settings, output


@app.command(
    epilog="Examples:\n\nonnxprune repair model.onnx pruned.onnx -o repaired.onnx --calib calib.npz\n\n"
    "onnxprune repair model.onnx masked.onnx -o repaired.onnx --calib images/ --preprocess imagenet --data test.npz"
)
@add_settings("repair", required=("calib",))
def repair(
    ctx: typer.Context,
    original: ORIGINAL,
    candidate: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="The model to repair, by any tool; it is never changed.")
    ],
    out: Annotated[Path, output("repaired")],
    report: REPORT = None,
    json: JSON = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every layer.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Fit the layers of a pruned, masked or rewritten model to its original, by least squares and without labels.

    Layers are matched by names, or by their inputs; the remaining channels by their activations on
    the data. Zeros stay zero. The report has the reason for each layer that was left. Exit status 1
    if the result is no better than the candidate: then its weights are the candidate's.
    """
    from onnxprune.cli.console import warn
    from onnxprune.cli.render import render_candidate

    files = CandidateFiles(original, candidate, out, report, json)
    repaired = run_candidate("repair", files, settings, lambda r: render_candidate(r, verbose))
    if repaired.failed:
        warn(f"nothing was repaired: {repaired.failed}; {out} has the candidate's weights")
        raise typer.Exit(FAILED_CHECK)
