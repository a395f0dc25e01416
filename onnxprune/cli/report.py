"""`onnxprune report`: a page to read of what `batch` left, and its table for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli.app import app

PAGE = "report.html"


@app.command(
    epilog="Examples:\n\nonnxprune report pruned/\n\nonnxprune report pruned/ -o zoo.html --csv zoo.csv\n\n"
    "onnxprune report pruned/ --json"
)
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of 'batch'.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            help=f"The path of the page (DIR/{PAGE}; with --csv or --json, none by default).",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the table as CSV.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Make one page of all results: a table, Pareto plots, and for every model the kept channels with the reason.

    The page is one file that loads nothing; open it in a browser. A run may still be in progress:
    the page shows the results so far.
    """
    from onnxprune.batch.results import read
    from onnxprune.cli.console import emit, emit_json, text
    from onnxprune.cli.paths import check_outputs
    from onnxprune.graph.files import write_text
    from onnxprune.report.html import render_run_page
    from onnxprune.report.rows import make_rows, render_csv
    from onnxprune.wording import clean, plural

    out = out if out is not None or csv or json else folder / PAGE
    jobs = read(folder)
    check_outputs({"-o": out, "--csv": csv}, [])
    if out:
        write_text(out, render_run_page(jobs, folder.resolve().name))
    if csv:
        write_text(csv, render_csv(make_rows(jobs)))
    if json:
        emit_json(make_rows(jobs))
    else:
        wrote = " and ".join(clean(str(f)) for f in (out, csv) if f)
        models = plural(len({job.name for job in jobs}), "model")
        emit(text(f"wrote {wrote}: {plural(len(jobs), 'result')} of {models}", "bold"))
