"""Hand a report to whom it may concern: a file, a program, a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from onnxprune.cli.console import emit, emit_json, json_text, warn
from onnxprune.errors import OutputError

Said = tuple[Group, str]  # the report for people, and a warning ('': there is none)


def tell(report: dict[str, Any], said: Said, path: Path | None, json: bool) -> None:
    """Write the report where that was asked for, print it as JSON or for people, and warn."""
    if path:
        _write(path, json_text(report), report["files"])
    if json:
        emit_json(report)
    else:
        emit(said[0])
    if said[1]:
        warn(said[1])


def _write(path: Path, text: str, models: list[str]) -> None:
    """Write the report; where that fails, say that the model is there all the same."""
    from onnxprune.graph.io import write_text

    try:
        write_text(path, text)
    except OutputError as e:
        there = f"; {' and '.join(models)} is there" if models else ""
        raise OutputError(f"{e}{there}") from e
