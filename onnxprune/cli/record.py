"""`onnxprune record`: an open-division record of a result beside its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, app
from onnxprune.cli.options import JSON, add_settings, refuse_nan


@app.command(
    epilog="Examples:\n\nonnxprune record model.onnx smaller.onnx --data test.npz --target-accuracy 0.87 -o record\n\n"
    "onnxprune record model.onnx smaller.onnx --data test.npz --target-share 0.99 --made-by report.json -o record"
)
@add_settings("record", required=("data",))
def record(
    ctx: typer.Context,
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model that the result was made of.")],
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="The model to record, by any tool.")],
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder of the record; it gets a copy of the result."),
    ],
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="A", min=0.0, callback=refuse_nan, help="The least accuracy, or value of --metric, that is enough."
        ),
    ] = None,
    target_share: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            min=0.0,
            callback=refuse_nan,
            help="The same as a share of the original's accuracy (0.99 by default).",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of ONNX Runtime.")] = 1,
    made_by: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT.json", help="The file of prune --report: the record states how the result was made."
        ),
    ] = None,
    json: JSON = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Measure quality and time of a model and of a result, and write a record with all that it takes to do so again.

    The record is in the spirit of MLPerf's open division: model, quality target, data and machine by
    their digests and names, quality and latency of both models. Exit status 1 if the target is missed.
    """
    import onnxprune
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_record

    with show_progress() as progress:
        progress("validate", 0, 0)
        summary = onnxprune.write_record(
            original, result, out, target_accuracy=target_accuracy, target_share=target_share, threads=threads,
            made_by=made_by, **settings,
        )  # fmt: skip
    if json:
        emit_json(summary)
    else:
        emit(render_record(summary))
    quality = summary.accuracy.quality
    if not quality.met:
        warn(f"the target is missed: {quality.metric} {quality.result:.4g} is below {quality.target:.4g}")
        raise typer.Exit(FAILED_CHECK)
