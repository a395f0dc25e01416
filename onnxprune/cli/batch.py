"""`onnxprune batch`: many models, many settings, unattended; results in a database, pruned models beside it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import FAILED_CHECK, INTERRUPTED, app
from onnxprune.cli.options import add_settings
from onnxprune.errors import OnnxPruneError

if TYPE_CHECKING:
    from onnxprune.batch.isolate import Limits
    from onnxprune.batch.jobs import Spec
    from onnxprune.batch.recipe import Recipe
    from onnxprune.batch.results import JobResult
    from onnxprune.batch.scheduler import WorkerPool

LISTED = 40  # jobs: of more, only those that failed are listed


def _run(*names: str, metavar: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Run", **more)


@app.command(
    epilog="Examples:\n\nonnxprune batch recipe.toml -o pruned\n\nonnxprune batch recipe.toml -o pruned --dry-run\n\n"
    "onnxprune batch zoo/ more/*.onnx -o pruned --macs 0.5 --calib calib.npz --workers 2 --timeout 10m --memory 3GB"
)
@add_settings("batch", "prune")
def batch(
    ctx: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE.toml|MODELS...",
            help="A recipe (see 'onnxprune docs batch'), or models: paths, globs, folders, addresses such as "
            "s3://bucket/net.onnx. Then the options of 'onnxprune prune' are those of every job.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder for the results.")
    ] = None,
    retry: Annotated[bool, _run("--retry", metavar="", help="Run the jobs again that failed before.")] = False,
    dask: Annotated[
        str | None, _run(metavar="ADDRESS", help="Run on a Dask cluster: tcp://HOST:PORT, or the scheduler's file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the jobs.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write a table of the results.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results, reports included, as JSON.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Prune many models in many ways, each job in a process of its own; the same command continues after an interruption.

    A job whose outputs are ruined is 'degraded', not 'done': its model is written, but choose
    another. Exit status: 0 all jobs made a model, 1 some failed, 2 an error, 130 interrupted.
    """
    from onnxprune.batch.jobs import make_specs

    recipe = _recipe(what, settings)
    jobs = make_specs(recipe)
    if dry_run:
        _list(jobs, json)
        return
    folder = _folder(out, recipe, csv)
    _go(jobs, recipe, folder, dask, retry)
    _write_results(jobs, folder, csv, json)


def _recipe(what: Sequence[str], settings: dict[str, Any]) -> Recipe:
    """The recipe, or one for these models; what the command line says of the run itself comes first."""
    from dataclasses import asdict, replace

    from onnxprune.batch import recipe
    from onnxprune.plain_settings import check
    from onnxprune.settings.batch import BatchSettings, read_batch_settings
    from onnxprune.settings.table import find_class_settings, to_option

    of_jobs = {name: value for name, value in settings.items() if name not in find_class_settings(BatchSettings)}
    run = {name: value for name, value in asdict(read_batch_settings(settings)).items() if value is not None}
    if not any(w.endswith(".toml") for w in what):
        for name, value in of_jobs.items():
            check(name, value, Path())
        return recipe.Recipe(list(what), Path(), settings=of_jobs, run=BatchSettings(**run))
    if len(what) > 1:
        raise OnnxPruneError("a recipe names the models; give one recipe, or models")
    if of_jobs:
        names = ", ".join(f"--{to_option(n)}" for n in of_jobs)
        raise OnnxPruneError(f"{names}: the recipe has the settings; write it there")
    contents = recipe.read(Path(what[0]))
    return replace(contents, run=replace(contents.run, **run))


def _folder(out: Path | None, recipe: Recipe, csv: Path | None) -> Path:
    from onnxprune.cli.paths import check_outputs

    check_outputs({"--csv": csv}, [recipe.path])
    if out is None and recipe.output is None:
        raise OnnxPruneError(
            "there is no folder for the results; give -o DIR (or output in the recipe; --dry-run writes none)"
        )
    return out or recipe.base / str(recipe.output)


def _note_without_data(jobs: Sequence[Spec]) -> None:
    """Say of how many jobs nobody will know the accuracy."""
    from onnxprune.cli.console import WITHOUT_DATA, has_data, note

    without = sum(not has_data(j.settings) for j in jobs)
    if without:
        note(f"{without} of {len(jobs)} jobs: {WITHOUT_DATA}" if len(jobs) > 1 else WITHOUT_DATA)


def _list(jobs: Sequence[Spec], json: bool) -> None:
    from onnxprune.cli.console import emit, emit_json, table, text
    from onnxprune.report.types import PlannedJob
    from onnxprune.wording import plural

    if json:
        emit_json([PlannedJob(j.model, j.name, dict(j.settings), j.output) for j in jobs])
    else:
        emit(table(("model", "settings", "output"), [(j.model, j.words, j.output) for j in jobs]), "")
        emit(text(f"{plural(len(jobs), 'job')}, {plural(len({j.name for j in jobs}), 'model')}"))


def _go(jobs: Sequence[Spec], recipe: Recipe, folder: Path, dask: str | None, retry: bool) -> None:
    """Run the jobs. Ctrl-C, SIGTERM and SIGHUP end those in flight, and say how to go on."""
    from onnxprune.batch.database import ResultStore
    from onnxprune.batch.scheduler import run_jobs as run
    from onnxprune.cli.job_display import watch

    with ResultStore(folder) as store, watch() as shown:
        try:
            with _pool(jobs, recipe, folder, dask) as (pool, limits):
                shown.limits(pool.width if dask is None else None, limits)
                _note_without_data(jobs)
                run(jobs, store, pool, limits, shown, retry)
        except KeyboardInterrupt:
            shown.close()
            print(f"{shown.left()}; the same command continues from here", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _pool(jobs: Sequence[Spec], recipe: Recipe, folder: Path, dask: str | None) -> Iterator[tuple[WorkerPool, Limits]]:
    from onnxprune.batch import cluster, scheduler

    if dask is not None:
        with cluster.open_dask(dask, folder) as pool:
            yield pool, cluster.make_limits(recipe.run)
    else:
        workers = recipe.run.workers or scheduler.count_workers(len(jobs))
        with scheduler.open_local(workers) as pool:
            yield pool, scheduler.make_limits(workers, recipe.run)


def _write_results(jobs: Sequence[Spec], folder: Path, csv: Path | None, json: bool) -> None:
    """The results of these jobs, to whom it may concern; exit status 1 where some did not make a model."""
    from onnxprune.batch.results import DATABASE, MADE, read_outcomes, select, shorten
    from onnxprune.cli.console import emit, emit_json, relative, text
    from onnxprune.graph.files import write_text
    from onnxprune.report.rows import make_rows, render_csv

    asked = select(read_outcomes(folder), [(j.name, j.settings) for j in jobs])
    outcomes = [j if json else shorten(j) for j in asked]
    if csv:
        write_text(csv, render_csv(make_rows(outcomes)))
    if json:
        emit_json(outcomes)
    else:
        emit(*_table(outcomes))
        counts = Counter(j.status for j in outcomes)
        counted = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        emit(text(f"{counted}; results in {relative(str(folder / DATABASE))}"))
    if any(j.status not in MADE for j in outcomes):
        raise typer.Exit(FAILED_CHECK)


def _table(jobs: Sequence[JobResult]) -> list[Any]:
    from onnxprune.cli.console import table
    from onnxprune.plain_settings import describe

    listed = jobs if len(jobs) <= LISTED else [j for j in jobs if j.status != "done"]
    rows = [(j.name, describe(j.settings), _status(j.status), *_numbers(j), j.message) for j in listed]
    return (
        [table(("model", "settings", "status", ">params", ">MACs", ">error", ">seconds", ""), rows), ""] if rows else []
    )


def _status(status: str) -> Any:
    from onnxprune.cli.console import text

    return text(status, "" if status == "done" else "bold red")


def _numbers(j: JobResult) -> tuple[str, str, str, str]:
    from onnxprune.cli.console import percent

    sizes = (j.report.params, j.report.macs) if j.report else ()
    params, macs = [percent(size.after, size.before) for size in sizes] or ["", ""]
    error = j.report.error.relative_l2 if j.report and j.report.error else None
    return params, macs, "" if error is None else f"{error:.3g}", "" if j.seconds is None else f"{j.seconds:.1f}"
