"""`onnxprune sparsify`: zeros in a pattern that hardware is fast on, and what it makes of each layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import app
from onnxprune.cli.options import (
    CALIB,
    CAST,
    DATA,
    HTML,
    JSON,
    MODEL,
    NO_VALIDATE,
    PERMUTE,
    PREPROCESS,
    PROFILE,
    REPAIRS,
    REPORT,
    SAMPLES,
    SEED,
    SPARSE_LAYERS,
    option,
    output,
)  # fmt: skip
from onnxprune.errors import OnnxPruneError

METHODS = ("magnitude", "wanda", "sparsegpt")


@app.command(
    epilog="Examples:\n\nonnxprune sparsify model.onnx -o sparse.onnx --cast fp16\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --permute --calib pictures.npz --data test.npz\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --layers eligible --exclude '*classifier*'\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --pattern unstructured --sparsity 0.7 --scope global\n\n"
    "onnxprune validate sparse.onnx --pattern 2:4"
)
def sparsify(
    ctx: typer.Context,
    model: MODEL,
    out: Annotated[Path | None, output("sparse")] = None,
    pattern: Annotated[
        str,
        option(
            "What becomes zero",
            "--pattern",
            metavar="PATTERN",
            help="N:M (at most N of every M inputs in a row), RxC (blocks of R outputs x C inputs: 1x8, 8x1, 4x4), KofN (K "
            "positions of the N of each kernel, in a few shapes), unstructured, kernel, shared-kernel, stripe, filter.",
        ),
    ] = "2:4",
    sparsity: Annotated[
        float,
        option(
            "What becomes zero",
            "--sparsity",
            metavar="F",
            help="The fraction that becomes zero, for patterns that do not say it.",
        ),
    ] = 0.5,
    method: Annotated[
        str | None,
        option(
            "What becomes zero",
            "--method",
            metavar="|".join(METHODS),
            help="What stays: the largest weights (magnitude, the default without --calib), the largest times the norm of what "
            "they read (wanda), or those without which the output would change most (sparsegpt, the default with --calib).",
        ),
    ] = None,
    permute: PERMUTE = False,
    scope: Annotated[
        str,
        option(
            "What becomes zero",
            "--scope",
            metavar="local|global",
            help="Whether layers compete (by magnitude; not for N:M).",
        ),
    ] = "local",
    target: Annotated[
        str | None,
        option(
            "Sparsity",
            "--target",
            metavar="tensorrt|none",
            help="Who is to run it (tensorrt for 2:4, else nobody in particular).",
        ),
    ] = None,
    layers: SPARSE_LAYERS = None,
    every: Annotated[bool, option("Sparsity", "--all", help="The same as --layers all.")] = False,
    include: Annotated[
        list[str] | None,
        option(
            "Sparsity", "--include", metavar="GLOB", help="Only layers with such a node or tensor name; repeatable."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, option("Sparsity", "--exclude", metavar="GLOB", help="No layer with such a name; repeatable.")
    ] = None,
    plan: Annotated[
        Path | None, option("Files", "--plan", metavar="PLAN.json", help="Remove the channels of this plan first.")
    ] = None,
    report: REPORT = None,
    html: HTML = None,
    cast: CAST = None,
    gemm: Annotated[
        bool,
        option(
            "Sparsity",
            "--gemm",
            help="Write a MatMul with a constant matrix as a Gemm (reshaped where it has more axes).",
        ),
    ] = False,
    calib: CALIB = None,
    samples: SAMPLES = None,
    repair: Annotated[
        str | None,
        option(
            "Calibration",
            "--repair",
            metavar="|".join(r for r in REPAIRS if r != "merge"),  # which takes channels that went
            help="How the weights that stay take over from those that are zero (lstsq with --calib, else none).",
        ),
    ] = None,
    preprocess: PREPROCESS = None,
    data: DATA = None,
    no_validate: NO_VALIDATE = False,
    profile: PROFILE = False,
    seed: SEED = 0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would become zero, by magnitude; of the files, write only --report and --html.",
        ),
    ] = False,
    json: JSON = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List every layer.")] = False,
) -> None:
    """Write zeros into the weights in a pattern that hardware is fast on: 2:4 for TensorRT, or another.

    Zeros stand where the consumer looks for them, whatever lies between the file and the
    product. Prints what the target can make of each layer, and how far the outputs moved.
    """
    from onnxprune.cli.paths import check_outputs

    if out is None and not dry_run:
        raise OnnxPruneError("where should the sparse model go? give -o OUT (or --dry-run to write none)")
    if samples is not None and calib is None:
        raise OnnxPruneError("--samples is for --calib: it says how much of it to use; give both")
    if every and layers not in (None, "all"):
        raise OnnxPruneError(f"--all and --layers {layers} contradict each other; drop one")
    check_outputs({"-o": out, "--report": report, "--html": html}, [model, plan, calib, data])

    import onnxprune
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.render import render_sparsified
    from onnxprune.cli.reports import Texts, carry_out, given, page_of
    from onnxprune.report import json_text
    from onnxprune.sparsity.patterns import Units

    options = onnxprune.Sparsity(
        pattern=pattern, sparsity=sparsity, method=method, repair=repair, permute=permute,
        layers="all" if every else layers, target=target, scope=scope, include=include or (), exclude=exclude or (), seed=seed,
    )  # fmt: skip
    if "sparsity" in given(ctx) and not isinstance(options.check(), Units):
        raise OnnxPruneError(f"pattern {pattern} says itself how much becomes zero; leave --sparsity out")
    options.resolved(calib is not None)
    texts: Texts = {report: json_text, html: partial(page_of, given(ctx))}
    carry_out(
        lambda progress: onnxprune.sparsify(
            model,
            None if dry_run else out,
            options,
            plan=onnxprune.Plan.load(plan) if plan else None,
            cast=cast,
            gemm=gemm,
            calib=calib,
            samples=samples,
            data=data,
            preprocess=read_preprocess(preprocess) if preprocess else None,
            check=not no_validate,
            profile=profile,
            seed=seed,
            progress=progress,
        ),
        lambda r: render_sparsified(r, verbose),
        texts,
        json,
    )
