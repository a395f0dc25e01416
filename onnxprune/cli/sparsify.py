"""`onnxprune sparsify`: zeros in a pattern that hardware is fast on, and what it makes of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.cli.options import HTML, JSON, MODEL, REPORT, add_settings, file_option, output
from onnxprune.errors import OnnxPruneError


@app.command(
    epilog="Examples:\n\nonnxprune sparsify model.onnx -o sparse.onnx --cast fp16\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --permute --calib calib.npz --data test.npz\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --layers eligible --exclude '*classifier*'\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --pattern unstructured --sparsity 0.7 --scope global\n\n"
    "onnxprune validate sparse.onnx --pattern 2:4"
)
@add_settings("sparsify")
def sparsify(
    ctx: typer.Context,
    model: MODEL,
    out: Annotated[Path | None, output("sparse")] = None,
    every: Annotated[bool, typer.Option("--all", help="The same as --layers all.")] = False,
    plan: Annotated[
        Path | None,
        file_option("PLAN.json", "Remove the channels of this plan first."),
    ] = None,
    report: REPORT = None,
    html: HTML = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only predict, by magnitude; of the files, write only --report and --html."),
    ] = False,
    json: JSON = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every layer.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Write zeros into the weights in a hardware-friendly pattern: 2:4 for TensorRT, or another.

    Zeros follow the axis that the consumer sums over, through the nodes between the file and
    the product. Prints one line per layer, and the error of the outputs.
    """
    import onnxprune
    from onnxprune.cli.render import render_sparsified
    from onnxprune.cli.reports import RunFiles, run_pipeline
    from onnxprune.plain_settings import make_arguments

    if every and settings.setdefault("layers", "all") != "all":
        raise OnnxPruneError(f"--all and --layers {settings['layers']} contradict each other; drop one")
    files = RunFiles(model, out, None, plan, None, report, html, dry_run, json)
    files.check("sparse", settings)
    taken = make_arguments(settings, files.base, "sparsify")
    _check_together(settings, taken["options"])
    run_pipeline(onnxprune.sparsify, files, settings, taken, lambda r: render_sparsified(r, verbose))


def _check_together(settings: dict[str, Any], options: Any) -> None:
    from onnxprune.sparsity.patterns import Units
    from onnxprune.sparsity.resolve import check_sparsity, resolve_sparsity

    if "sparsity" in settings and not isinstance(check_sparsity(options), Units):
        raise OnnxPruneError(f"pattern {options.pattern} implies the fraction of zeros; drop --sparsity")
    if "sparsity" in settings and options.threshold is not None:
        raise OnnxPruneError("--threshold decides how many weights become zero; drop --sparsity")
    resolve_sparsity(options, "calib" in settings)
