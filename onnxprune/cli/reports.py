"""Run the pipeline for a command, and hand its report to files, to a program or to a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxprune.cli.app import INTERRUPTED
from onnxprune.cli.console import WITHOUT_DATA, emit, emit_json, has_data, note, warn
from onnxprune.errors import OnnxPruneError, OutputError

if TYPE_CHECKING:
    from onnxprune.cli.render import RenderedReport
    from onnxprune.progress import StageProgress
    from onnxprune.report import PruneReport


@dataclass(frozen=True)
class RunFiles:
    """What one run reads and writes beside its settings, as it was typed."""

    model: Path
    out: Path | None
    recipe: Path | None
    plan: Path | None
    plan_out: Path | None
    report: Path | None
    html: Path | None
    dry_run: bool
    json: bool

    @property
    def base(self) -> Path:
        """Where relative paths of settings start."""
        return self.recipe.parent if self.recipe else Path()

    def check(self, kind: str, settings: Mapping[str, Any]) -> None:
        """Raise OnnxPruneError where there is no place for a model of this kind, or an output would replace an input."""
        from onnxprune.cli.paths import check_outputs
        from onnxprune.plain_settings import list_input_paths

        if self.out is None and not self.dry_run:
            raise OnnxPruneError(f"there is no path for the {kind} model; give -o OUT (or --dry-run to write none)")
        data = [self.base / path for _, path in list_input_paths(settings)]
        kept = self.base / settings["checkpoint"] if "checkpoint" in settings else None
        outputs = {
            "--checkpoint": kept,
            "-o": self.out,
            "--plan-out": self.plan_out,
            "--report": self.report,
            "--html": self.html,
        }
        check_outputs(outputs, [self.model, self.recipe, self.plan, *data])


def run_pipeline(
    call: Callable[..., Any],
    files: RunFiles,
    settings: Mapping[str, Any],
    taken: Mapping[str, Any],
    render: Callable[[PruneReport], RenderedReport],
) -> None:
    """Call `onnxprune.prune` or `sparsify` under a line of progress, and print the report: also where only the comparison failed.

    `settings` are those that were typed, for the page; `taken` are they as arguments of the call.
    """
    from onnxprune.api import NotCompared
    from onnxprune.cli.progress import show_progress
    from onnxprune.plans import Plan

    plan = Plan.load(files.plan) if files.plan else None
    asked = {**settings, **({"plan": str(files.plan)} if files.plan else {})}
    if files.plan_out:
        taken = {**taken, "plan_out": files.plan_out}
    try:
        with show_progress() as shown:
            progress = shown if files.dry_run or has_data(settings) else _note_without_data(shown)
            result = call(files.model, files.out, plan=plan, progress=progress, dry_run=files.dry_run, **taken)
    except NotCompared as e:
        _write_reports(e.result.report, render(e.result.report), files, asked)
        raise
    _write_reports(result.report, render(result.report), files, asked)


def _note_without_data(progress: StageProgress) -> StageProgress:
    """The same progress; once all that was asked for is known to be possible, it says that the accuracy will not be known."""
    noted = list[str]()

    def report(stage: str, done: int, of: int) -> None:
        if stage in ("apply", "repair", "save") and not noted:
            noted.append(stage)
            note(WITHOUT_DATA)
        progress(stage, done, of)

    report.expect = getattr(progress, "expect", None)  # type: ignore[attr-defined]
    return report


def _write_reports(report: PruneReport, rendered: RenderedReport, files: RunFiles, asked: Mapping[str, Any]) -> None:
    """Write the files that were asked for, print the report as JSON or for people, and warn."""
    from onnxprune.report import render_json

    if files.report:
        _write(files.report, render_json(report), report.files)
    if files.html:
        _write(files.html, _make_page(asked, report), report.files)
    if files.json:
        emit_json(report)
    else:
        emit(rendered[0])
    if rendered[1]:
        warn(rendered[1])
    if report.distillation and report.distillation.interrupted:
        warn("the training was interrupted; the model is the best so far")
        raise typer.Exit(INTERRUPTED)


def _make_page(asked: Mapping[str, Any], report: PruneReport) -> str:
    """The page of one model."""
    from onnxprune.report.html import render_run_page
    from onnxprune.report.rows import Single

    name = Path(report.model).stem
    return render_run_page([Single(report.model, name, report, asked)], name)


def _write(path: Path, text: str, models: list[str]) -> None:
    """Write the report; where that fails, say that the model is there all the same."""
    from onnxprune.graph.files import write_text

    try:
        write_text(path, text)
    except OutputError as e:
        there = f"; {' and '.join(models)} is there" if models else ""
        raise OutputError(f"{e}{there}") from e
