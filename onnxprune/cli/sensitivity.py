"""`onnxprune sensitivity`: how far the outputs move where each group is pruned alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.cli.options import add_settings, refuse_nan


@app.command(
    epilog="Examples:\n\nonnxprune sensitivity model.onnx --calib calib.npz\n\n"
    "onnxprune sensitivity model.onnx --calib calib.npz --cache measured.jsonl --html sensitivity.html"
)
@add_settings("sensitivity", required=("calib",))
def sensitivity(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            metavar="R", min=0.0, max=1.0, callback=refuse_nan, help="A fraction of channels to remove; repeatable."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with a plot.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Prune each group alone at several ratios, and measure the error of the model's outputs.

    The error is the Kullback-Leibler divergence of class scores (at temperature 4), or the
    relative squared error of other outputs.
    """
    from onnxprune.cli.paths import check_outputs
    from onnxprune.plain_settings import make_arguments

    calib, cache = Path(settings["calib"]), Path(settings["cache"]) if "cache" in settings else None
    check_outputs({"--html": html, "--cache": cache}, [model, calib])
    taken = make_arguments(settings, Path(), "sensitivity")

    import onnxprune
    from onnxprune.allocate import COMPARISON_SAMPLES, RATIOS
    from onnxprune.cli.console import emit, emit_json
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_sensitivities
    from onnxprune.report.sensitivity import make_sensitivity_report, render_sensitivity_page

    options, samples = taken["options"], taken.get("samples", COMPARISON_SAMPLES)
    with show_progress() as progress:
        analysis = onnxprune.analyze(model)
        tables = onnxprune.sensitivity(analysis, ratios=ratio or RATIOS, progress=progress, **taken)
    report = make_sensitivity_report(analysis, calib, samples, options.resolved(True), tables)
    if html:
        from onnxprune.graph.files import write_text

        write_text(html, render_sensitivity_page(report))
    if json:
        emit_json(report)
    else:
        emit(render_sensitivities(report))
