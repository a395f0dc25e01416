"""`onnxprune inspect`: what of a model can be pruned, how its weights hang together, and what is frozen and why."""

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import app


@app.command(epilog="Examples:\n\nonnxprune inspect model.onnx\n\nonnxprune inspect model.onnx --json | jq .groups")
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List everything, however long.")] = False,
) -> None:
    """Show the groups of channels that can be pruned, their weights, and the frozen weights with the reason.

    A weight is shown with the layout of its axes: a letter stands for a
    group's channels, (a b) for a product, a + b for one after the other,
    a number for a frozen axis. Weights that share a letter lose the same
    channels. An arrow leads from a frozen weight, node by node, to the
    cause.
    """
    import onnxprune
    from onnxprune.cli.console import emit, emit_json
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_inspection
    from onnxprune.report.builders import inspect_report

    with show_progress() as progress:
        progress("analyze", 0, 0)
        analysis = onnxprune.analyze(model)
        report = inspect_report(analysis)
    if json:
        emit_json(report)
    else:
        emit(render_inspection(report, analysis, verbose))
