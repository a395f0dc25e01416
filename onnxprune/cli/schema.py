"""`onnxprune schema`: the JSON Schema of what the commands print, made of the types of the reports."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any

import typer

from onnxprune.cli.app import app
from onnxprune.errors import OnnxPruneError
from onnxprune.report import (
    InspectReport,
    PatternReport,
    PruneReport,
    SensitivityReport,
    ValidateReport,
    json_schema,
)
from onnxprune.report.types import OperatorRow, PlannedJob, ResultRow, SettingRow


def _batch_schema() -> dict[str, Any]:
    from onnxprune.batch.results import JobResult

    return json_schema(list[JobResult])


def _recipe_schema() -> dict[str, Any]:
    from onnxprune.batch.recipe import recipe_schema

    return recipe_schema()


def _criteria_schema() -> dict[str, Any]:
    from onnxprune.criteria import TableRow

    return json_schema(list[TableRow])


# By name: what has the schema, in a line, and what makes it.
SCHEMAS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "inspect": ("inspect --json", partial(json_schema, InspectReport)),
    "prune": ("prune --json, and the files of --report", partial(json_schema, PruneReport)),
    "sparsify": ("sparsify --json, and the files of --report: as prune", partial(json_schema, PruneReport)),
    "validate": ("validate --json of two models", partial(json_schema, ValidateReport)),
    "pattern": ("validate --pattern --json of one model", partial(json_schema, PatternReport)),
    "sensitivity": ("sensitivity --json", partial(json_schema, SensitivityReport)),
    "ops": ("ops --json", partial(json_schema, list[OperatorRow])),
    "criteria": ("criteria --json", _criteria_schema),
    "settings": ("settings --json", partial(json_schema, list[SettingRow])),
    "batch": ("batch --json", _batch_schema),
    "jobs": ("batch --dry-run --json", partial(json_schema, list[PlannedJob])),
    "report": ("report --json", partial(json_schema, list[ResultRow])),
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
    """Print the JSON Schema of what a command prints as JSON, or of a recipe; without a name, list them all.

    The keys of a `format` only grow: a key that goes, or means something
    else, makes a new format.
    """
    from onnxprune.cli.console import emit, emit_json, table

    if name is None:
        emit(table(("name", "of"), [(known, of) for known, (of, _) in SCHEMAS.items()]))
        return
    if name not in SCHEMAS:
        near = get_close_matches(name, SCHEMAS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SCHEMAS)}"
        raise OnnxPruneError(f"there is no schema '{name}'; {hint}")
    _, make = SCHEMAS[name]
    emit_json(make())
