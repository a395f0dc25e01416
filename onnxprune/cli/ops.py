"""`onnxprune ops`: the operator support table, generated from the registry of rules."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Annotated

import typer

from onnxprune.cli.app import app

if TYPE_CHECKING:
    from onnxprune.report.types import OperatorRow

COLUMNS = ("domain", "operator", "since", "until", "rule")


@app.command(rich_help_panel="Lists")
def ops(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """List the operators that pruning follows, with the opset versions and the rule; all others freeze their neighbors."""
    from onnxprune.cli.console import emit, emit_json, markdown_table, table

    rows = _rows()
    if json:
        emit_json(rows)
    elif markdown:
        print(markdown_table(("domain", "operator", ">since", ">until", "rule"), map(_cells, rows)))
    else:
        emit(table(COLUMNS, [_cells(r) for r in rows]))


def _rows() -> list[OperatorRow]:
    import onnxprune.ops.rules  # noqa: F401 - fills the registry
    from onnxprune.graph.flat import FLAT
    from onnxprune.ops.records import load_records
    from onnxprune.report.types import OperatorRow

    known = (e for records in load_records().values() for e in records if e.domain != FLAT)
    entries = sorted(known, key=lambda e: (e.domain, e.op, e.since))
    return [
        OperatorRow(e.domain or "ai.onnx", e.op, e.since, e.until if e.until < 10**6 else None, e.summary)
        for e in entries
    ]


def _cells(row: OperatorRow) -> list[str]:
    return ["" if value is None else str(value) for value in astuple(row)]
