"""`onnxprune sparsify`: zeros in a pattern that hardware is fast on, and what it makes of each layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.errors import OnnxPruneError

METHODS = ("magnitude", "wanda", "sparsegpt")
REPAIRS = ("none", "bias", "affine", "lstsq", "obs")


def _how(*names: str, metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="What becomes zero", **more)


def _which(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Which layers", **more)


def _file(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Files")


def _write(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="How it is written", **more)


def _calib(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Calibration", **more)


def _check(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Check", **more)


@app.command(
    epilog="Examples:\n\nonnxprune sparsify model.onnx -o sparse.onnx --cast fp16\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --permute --calib pictures.npz --data test.npz\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --layers eligible --exclude '*classifier*'\n\n"
    "onnxprune sparsify model.onnx -o sparse.onnx --pattern unstructured --sparsity 0.7 --scope global\n\n"
    "onnxprune validate sparse.onnx --pattern 2:4"
)
def sparsify(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; it is never changed.")],
    out: Annotated[Path | None, _file("--output", "-o", metavar="OUT", help="Where the sparse model goes.")] = None,
    pattern: Annotated[
        str,
        _how(
            "--pattern",
            metavar="PATTERN",
            help="N:M (at most N of every M inputs in a row), RxC (blocks of R outputs x C inputs: 1x8, 8x1, 4x4), KofN (K "
            "positions of the N of each kernel, in a few shapes), unstructured, kernel, shared-kernel, stripe, filter.",
        ),
    ] = "2:4",
    sparsity: Annotated[
        float, _how("--sparsity", metavar="F", help="The fraction that becomes zero, for patterns that do not say it.")
    ] = 0.5,
    method: Annotated[
        str | None,
        _how(
            "--method",
            metavar="|".join(METHODS),
            help="What stays: the largest weights (magnitude, the default without --calib), the largest times the norm of what "
            "they read (wanda), or those without which the output would change most (sparsegpt, the default with --calib).",
        ),
    ] = None,
    permute: Annotated[
        bool,
        _how(
            "--permute", metavar="", help="First bring channels in an order in which more stays; outputs do not change."
        ),
    ] = False,
    scope: Annotated[
        str, _how("--scope", metavar="local|global", help="Whether layers compete (by magnitude; not for N:M).")
    ] = "local",
    target: Annotated[
        str | None,
        _which(
            "--target", metavar="tensorrt|none", help="Who is to run it (tensorrt for 2:4, else nobody in particular)."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        _which(
            "--layers",
            metavar="likely|eligible|all",
            help="Those that the target will probably run faster (the default for tensorrt), all that it can run so, or all.",
        ),
    ] = None,
    every: Annotated[bool, _which("--all", help="The same as --layers all.")] = False,
    include: Annotated[
        list[str] | None,
        _which("--include", metavar="GLOB", help="Only layers with such a node or tensor name; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, _which("--exclude", metavar="GLOB", help="No layer with such a name; repeatable.")
    ] = None,
    plan: Annotated[
        Path | None, _file("--plan", metavar="PLAN.json", help="Remove the channels of this plan first.")
    ] = None,
    report: Annotated[Path | None, _file("--report", metavar="REPORT.json", help="Write the report as JSON.")] = None,
    html: Annotated[
        Path | None, _file("--html", metavar="PAGE.html", help="Write the report as a page, to read in a browser.")
    ] = None,
    cast: Annotated[
        str | None,
        _write(
            "--cast",
            metavar="fp16",
            help="Write half precision, which sparse kernels need; inputs and outputs keep theirs.",
        ),
    ] = None,
    gemm: Annotated[
        bool,
        _write("--gemm", help="Write a MatMul with a constant matrix as a Gemm (reshaped where it has more axes)."),
    ] = False,
    calib: Annotated[
        Path | None,
        _calib(
            "--calib",
            metavar="FILE.npz|FOLDER",
            help="Inputs to watch the network on, as for 'onnxprune prune'. What stays is chosen by what the network does with "
            "them, and fitted to what the original made of them.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        _calib("--samples", min=1, metavar="N", help="Use so many of them, spread evenly (all, unless given)."),
    ] = None,
    repair: Annotated[
        str | None,
        _calib(
            "--repair",
            metavar="|".join(REPAIRS),
            help="How the weights that stay take over from those that are zero (lstsq with --calib, else none).",
        ),
    ] = None,
    preprocess: Annotated[
        list[str] | None,
        _calib(
            "--preprocess",
            metavar="imagenet|FILE.toml|NAME=VALUE",
            help="How pictures, in --calib and --data, become inputs, see 'onnxprune prune --help'; repeatable.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        _check(
            "--data",
            metavar="FILE.npz|FOLDER",
            help="Compare on these inputs (and measure accuracy where they have 'labels').",
        ),
    ] = None,
    no_validate: Annotated[bool, _check("--no-validate", help="Leave the comparison out.")] = False,
    profile: Annotated[
        bool, _check("--profile", help="Measure peak memory too: each model runs once in a process of its own.")
    ] = False,
    seed: Annotated[int, _check("--seed", min=0, metavar="N", help="Seed of random inputs.")] = 0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would become zero, by magnitude; of the files, write only --report and --html.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
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
    from onnxprune.api import NotCompared
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.console import json_text
    from onnxprune.cli.layers import sparsified
    from onnxprune.cli.progress import progress
    from onnxprune.cli.reports import Texts, given, page_of, tell
    from onnxprune.sparsity.patterns import Units

    options = onnxprune.Sparsity(
        pattern=pattern, sparsity=sparsity, method=method, repair=repair, permute=permute,
        layers="all" if every else layers, target=target, scope=scope, include=include or (), exclude=exclude or (), seed=seed,
    )  # fmt: skip
    if "sparsity" in given(ctx) and not isinstance(options.check(), Units):
        raise OnnxPruneError(f"pattern {pattern} says itself how much becomes zero; leave --sparsity out")
    options.resolved(calib is not None)
    texts: Texts = {report: json_text, html: partial(page_of, given(ctx))}
    try:
        with progress() as stage:
            made = onnxprune.sparsify(
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
                stage=stage,
            )
    except NotCompared as e:
        tell(e.made.report, sparsified(e.made.report, verbose), texts, json)
        raise
    tell(made.report, sparsified(made.report, verbose), texts, json)
