"""Hand a report to whom it may concern: files, a program, a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.cli.console import emit, emit_json, warn
from onnxprune.errors import OutputError
from onnxprune.progress import StageProgress

if TYPE_CHECKING:
    from onnxprune.cli.render import RenderedReport
    from onnxprune.report import PruneReport
    from onnxprune.result import PruneResult

    Work = Callable[[StageProgress], PruneResult]
    Texts = Mapping[
        Path | None, Callable[[PruneReport], str]
    ]  # files that were asked for, and what makes them of a report


def page_of(asked: Mapping[str, Any], report: PruneReport) -> str:
    """The page of one model."""
    from onnxprune.report.html import page
    from onnxprune.report.rows import Single

    name = Path(report.model).stem
    return page([Single(report.model, name, report, asked)], name)


def carry_out(work: Work, say: Callable[[PruneReport], RenderedReport], texts: Texts, json: bool) -> None:
    """Do it under a line of progress, and tell of what was made: also where only the comparison failed."""
    from onnxprune.api import NotCompared
    from onnxprune.cli.progress import show_progress

    try:
        with show_progress() as progress:
            report = work(progress).report
    except NotCompared as e:
        _tell(e.made.report, say(e.made.report), texts, json)
        raise
    _tell(report, say(report), texts, json)


def _tell(report: PruneReport, said: RenderedReport, texts: Texts, json: bool) -> None:
    """Write the files that were asked for, print the report as JSON or for people, and warn."""
    for path, text in texts.items():
        if path:
            _write(path, text(report), report.files)
    if json:
        emit_json(report)
    else:
        emit(said[0])
    if said[1]:
        warn(said[1])


def _write(path: Path, text: str, models: list[str]) -> None:
    """Write the report; where that fails, say that the model is there all the same."""
    from onnxprune.graph.files import write_text

    try:
        write_text(path, text)
    except OutputError as e:
        there = f"; {' and '.join(models)} is there" if models else ""
        raise OutputError(f"{e}{there}") from e
