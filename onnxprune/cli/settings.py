"""`onnxprune settings`: every setting of every command, from the table of settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxprune.cli.app import app

if TYPE_CHECKING:
    from onnxprune.report.types import SettingRow

COMMANDS = ("prune", "sparsify", "sensitivity", "repair", "distill", "finetune", "validate", "record", "batch")
COLUMNS = ("setting", "value", "default", "commands", "meaning")


@app.command(rich_help_panel="Lists")
def settings(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """List all settings with their values, defaults and commands; a recipe has those of 'prune'."""
    from onnxprune.cli.console import emit, emit_json, markdown_table, table

    rows = list(_rows())
    if json:
        emit_json(rows)
    elif markdown:
        print(markdown_table(COLUMNS, map(_cells, rows)))
    else:
        emit(table(COLUMNS, map(_cells, rows)))


def _rows() -> Iterator[SettingRow]:
    from onnxprune.report.types import SettingRow
    from onnxprune.settings import HOMES, find_command_settings
    from onnxprune.settings.table import find_class_settings

    for known in (s for home in HOMES for s in find_class_settings(home).values()):
        named: dict[str, list[str]] = {}
        for command in COMMANDS:
            if command in known.uses:
                named.setdefault(known.name(command), []).append(command)
        for name, commands in named.items():
            s = find_command_settings(commands[0])[name]
            default = s.default_for(commands[0])
            yield SettingRow(
                setting=name,
                value=" or ".join(s.choices) or s.kind.words,
                default=list(default) if isinstance(default, tuple) else default,
                commands=commands,
                meaning=s.help if s.negative else s.help_for(commands[0]),
            )


def _cells(row: SettingRow) -> list[str]:
    return [_cell(getattr(row, column)) for column in COLUMNS]


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return "" if value is None or value == {} else str(value)
