"""`onnxprune distill` and `finetune`: train a candidate, pruned or masked by any tool, beside its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, INTERRUPTED, app
from onnxprune.cli.options import JSON, REPORT, add_settings, output

ORIGINAL = Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model that the candidate was made of.")]
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
    _train("distill", original, candidate, out, report, json, settings)


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

    _train("finetune", original, candidate, out, report, json, {"label_weight": FINETUNED, **settings})


def _train(
    command: str,
    original: Path,
    candidate: Path,
    out: Path,
    report: Path | None,
    json: bool,
    settings: dict[str, Any],
) -> None:
    from onnxprune.cli.paths import check_outputs
    from onnxprune.plain_settings import make_arguments

    data = [Path(settings[name]) for name in ("calib", "data", "labels") if name in settings]
    kept = Path(settings["checkpoint"]) if "checkpoint" in settings else None
    check_outputs({"-o": out, "--report": report, "--checkpoint": kept}, [original, candidate, *data])
    taken = make_arguments(settings, Path(), command)
    seed = taken.pop("options").seed

    import onnxprune
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_trained
    from onnxprune.graph.files import write_text
    from onnxprune.report import json_text
    from onnxprune.report.degraded import explain_degraded

    with show_progress() as progress:
        trained = onnxprune.distill(original, candidate, out, seed=seed, progress=progress, **taken).report
    if report:
        write_text(report, json_text(trained))
    if json:
        emit_json(trained)
    else:
        emit(render_trained(trained))
    if why := explain_degraded(trained.error_after):
        warn(f"the result is degraded: {why}")
    if trained.distillation.interrupted:
        warn(f"interrupted: {out} is the best so far")
        raise typer.Exit(INTERRUPTED)
    if not trained.distillation.improved:
        warn(f"training made nothing better; {out} has the candidate's weights")
        raise typer.Exit(FAILED_CHECK)
