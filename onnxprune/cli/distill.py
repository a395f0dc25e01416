"""`onnxprune distill` and `finetune`: train a candidate, pruned or masked by any tool, beside its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, INTERRUPTED, app
from onnxprune.cli.candidates import ORIGINAL, CandidateFiles, run_candidate
from onnxprune.cli.options import JSON, REPORT, add_settings, output

CANDIDATE = Annotated[
    Path, typer.Argument(metavar="CANDIDATE", help="The model to train, by any tool; it is never changed.")
]
OUT = Annotated[Path, output("trained")]


@app.command(
    epilog="Examples:\n\nonnxprune distill model.onnx pruned.onnx -o trained.onnx --calib calib.npz\n\n"
    "onnxprune distill model.onnx sparse.onnx -o trained.onnx --calib calib.npz --passes 100 --checkpoint state.pt"
)
@add_settings("distill", required=("calib",))
def distill(
    ctx: typer.Context,
    original: ORIGINAL,
    candidate: CANDIDATE,
    out: OUT,
    report: REPORT = None,
    json: JSON = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Train a pruned, masked or rewritten model to reproduce its original's outputs, without labels. Needs torch.

    Zeros stay zero. One of ten samples is held out, and the best model on these is written: never a
    worse one than the candidate. Ctrl-C ends the training with the best so far. Exit status 1 if
    nothing was better: then the weights are the candidate's.
    """
    _train("distill", CandidateFiles(original, candidate, out, report, json), settings)


@app.command(
    epilog="Example:\n\nonnxprune finetune model.onnx pruned.onnx -o trained.onnx --calib labeled.npz --passes 50"
)
@add_settings("finetune", required=("calib",))
def finetune(
    ctx: typer.Context,
    original: ORIGINAL,
    candidate: CANDIDATE,
    out: OUT,
    report: REPORT = None,
    json: JSON = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Train a pruned, masked or rewritten model with labels: as 'onnxprune distill', with the weight on labels. Needs torch.

    The labels are an array 'labels' in --calib, or --labels FILE. With --label-weight below 1 the rest
    of the loss compares with the original, as in 'distill'.
    """
    from onnxprune.settings.training import FINETUNED

    files = CandidateFiles(original, candidate, out, report, json)
    _train("finetune", files, {"label_weight": FINETUNED, **settings})


def _train(command: str, files: CandidateFiles, settings: dict[str, Any]) -> None:
    from onnxprune.cli.console import warn
    from onnxprune.cli.render import render_trained

    training = run_candidate(command, files, settings, render_trained).distillation
    if training.interrupted:
        warn(f"interrupted: {files.out} is the best so far")
        raise typer.Exit(INTERRUPTED)
    if not training.improved:
        warn(f"training made nothing better; {files.out} has the candidate's weights")
        raise typer.Exit(FAILED_CHECK)
