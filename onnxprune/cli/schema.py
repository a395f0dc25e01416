"""`onnxprune schema`: the JSON Schema of what the commands print, made of the types of the reports."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import GenericAlias
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.errors import OnnxPruneError


def _of(module: str, name: str, *, rows: bool = False) -> Callable[[], dict[str, Any]]:
    """What makes the schema of a type, or of a list of such rows; the type is imported when its schema is asked for."""

    def make() -> dict[str, Any]:
        from onnxprune.report import make_json_schema

        kind = getattr(import_module(f"onnxprune.{module}"), name)
        return make_json_schema(GenericAlias(list, (kind,)) if rows else kind)

    return make


def _recipe_schema() -> dict[str, Any]:
    from onnxprune.batch.recipe import make_recipe_schema

    return make_recipe_schema()


# By name: what has the schema, in a line, and what makes it.
SCHEMAS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "inspect": ("inspect --json", _of("report.types", "InspectReport")),
    "prune": ("prune --json, and the files of --report", _of("report.types", "PruneReport")),
    "sparsify": ("sparsify --json, and the files of --report: as prune", _of("report.types", "PruneReport")),
    "repair": ("repair --json", _of("report.types", "CandidateReport")),
    "distill": ("distill --json", _of("report.types", "TrainedReport")),
    "finetune": ("finetune --json: as distill", _of("report.types", "TrainedReport")),
    "vocabulary": ("vocabulary --json", _of("report.types", "VocabularyReport")),
    "validate": ("validate --json of two models", _of("report.types", "ValidateReport")),
    "pattern": ("validate --pattern --json of one model", _of("report.types", "PatternReport")),
    "record": ("record --json", _of("report.types", "RecordReport")),
    "sensitivity": ("sensitivity --json", _of("report.types", "SensitivityReport")),
    "ops": ("ops --json", _of("report.types", "OperatorRow", rows=True)),
    "criteria": ("criteria --json", _of("criteria", "TableRow", rows=True)),
    "settings": ("settings --json", _of("report.types", "SettingRow", rows=True)),
    "batch": ("batch --json", _of("batch.results", "JobResult", rows=True)),
    "jobs": ("batch --dry-run --json", _of("report.types", "PlannedJob", rows=True)),
    "report": ("report --json", _of("report.types", "ResultRow", rows=True)),
    "recipe": ("a recipe of batch, for editors", _recipe_schema),
}


def _names(incomplete: str) -> list[str]:
    return [name for name in SCHEMAS if name.startswith(incomplete)]


@app.command(rich_help_panel="Lists", epilog="Example:\n\nonnxprune schema prune > prune.schema.json")
def schema(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Which schema; without, the names are listed.", autocompletion=_names),
    ] = None,
) -> None:
    """Print the JSON Schema of a command's JSON output, or of a recipe; without a name, list them all.

    Within a `format` keys are only added; a removed or changed key makes a
    new format.
    """
    from onnxprune.cli.console import emit, emit_json, table

    if name is None:
        emit(table(("name", "of"), [(known, of) for known, (of, _) in SCHEMAS.items()]))
        return
    if name not in SCHEMAS:
        from onnxprune.plain_settings import suggest_near

        raise OnnxPruneError(f"there is no schema '{name}'; {suggest_near(name, SCHEMAS)}")
    _, make = SCHEMAS[name]
    emit_json(make())
