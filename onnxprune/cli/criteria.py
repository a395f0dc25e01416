"""`onnxprune criteria`: what can be asked of `prune --criterion`."""

from typing import Annotated

import typer

from onnxprune.cli.app import app


@app.command(rich_help_panel="Lists")
def criteria(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the importance criteria, each with its formula and its source."""
    from onnxprune.cli.console import emit, emit_json, table
    from onnxprune.criteria import list_criteria as all_criteria

    rows = all_criteria()
    if json:
        emit_json(rows)
    else:
        needs = {r.name: ", ".join(["--calib"] * r.needs_data + ["torch"] * r.needs_torch) for r in rows}
        listed = [(r.name, needs[r.name], r.formula, r.source) for r in rows]
        emit(table(("name", "needs", "formula", "source"), listed))
