"""`onnxprune sensitivity`: how far the outputs move where each group is pruned alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import app


@app.command(
    epilog="Examples:\n\nonnxprune sensitivity model.onnx --calib pictures.npz\n\n"
    "onnxprune sensitivity model.onnx --calib pictures.npz --cache measured.jsonl --html sensitivity.html"
)
def sensitivity(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    calib: Annotated[
        Path, typer.Option(metavar="FILE.npz|FOLDER", help="Inputs to measure on; labels are not needed.")
    ],
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Use so many of them, spread evenly.")] = 256,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            metavar="imagenet|FILE.toml|NAME=VALUE", help="How pictures become inputs, as in 'prune'; repeatable."
        ),
    ] = None,
    ratio: Annotated[
        list[float] | None, typer.Option(metavar="R", help="A fraction of channels to remove; repeatable.")
    ] = None,
    criterion: Annotated[str, typer.Option(metavar="NAME", help="Which channels go first.")] = "obs",
    round_to: Annotated[int, typer.Option(metavar="N", help="Keep channel counts at multiples of N.")] = 1,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only such groups; repeatable.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="No such group; repeatable.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="Write every measurement here as soon as it is made, and do not repeat what is found here: "
            "an interrupted run goes on where it stopped.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with a plot.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of random criteria.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prune each group alone at several ratios, and measure how far the model's outputs move.

    The error is the Kullback-Leibler divergence of class scores (at temperature 4), or the
    relative squared error of other outputs.
    """
    from onnxprune.cli.paths import check_outputs

    check_outputs({"--html": html, "--cache": cache}, [model, calib])

    import onnxprune
    from onnxprune.allocate import RATIOS
    from onnxprune.calibration import read_preprocess
    from onnxprune.cli.console import emit, emit_json
    from onnxprune.cli.progress import show_progress
    from onnxprune.cli.render import render_sensitivities
    from onnxprune.report.sensitivity import page, sensitivity_report

    options = onnxprune.Options(
        criterion=criterion, round_to=round_to, include=include or (), exclude=exclude or (), seed=seed
    )
    options.check()
    how = read_preprocess(preprocess) if preprocess else None
    with show_progress() as progress:
        analysis = onnxprune.analyze(model)
        tables = onnxprune.sensitivity(
            analysis,
            calib,
            options,
            samples=samples,
            preprocess=how,
            ratios=ratio or RATIOS,
            cache=cache,
            progress=progress,
        )
    report = sensitivity_report(analysis, calib, samples, options, tables)
    if html:
        from onnxprune.graph.files import write_text

        write_text(html, page(report))
    if json:
        emit_json(report)
    else:
        emit(render_sensitivities(report))
