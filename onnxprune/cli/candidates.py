"""Run a command that works on a candidate beside its original, and hand its report to files, to a program or to a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

ORIGINAL = Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model that the candidate was made of.")]
FUNCTIONS = {"repair": "repair_model", "distill": "distill", "finetune": "distill"}


@dataclass(frozen=True)
class CandidateFiles:
    """What one run reads and writes beside its settings, as it was typed."""

    original: Path
    candidate: Path
    out: Path
    report: Path | None
    json: bool

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise OutputError where an output would replace an input, or cannot be written."""
        from onnxprune.cli.paths import check_outputs

        data = [Path(settings[name]) for name in ("calib", "data", "labels") if name in settings]
        checkpoint = Path(settings["checkpoint"]) if "checkpoint" in settings else None
        outputs = {"-o": self.out, "--report": self.report, "--checkpoint": checkpoint}
        check_outputs(outputs, [self.original, self.candidate, *data])


def run_candidate(
    command: str, files: CandidateFiles, settings: Mapping[str, Any], render: Callable[[Any], Any]
) -> Any:
    """Call the function of a command under a line of progress, print its report, and return it."""
    from onnxprune.plain_settings import make_arguments

    files.check(settings)
    arguments = make_arguments(settings, Path(), command)
    seed = arguments.pop("options").seed

    import onnxprune
    from onnxprune.cli.console import emit, emit_json, warn
    from onnxprune.cli.progress import show_progress
    from onnxprune.graph.files import write_text
    from onnxprune.report import render_json
    from onnxprune.report.degraded import explain_degraded

    call = getattr(onnxprune, FUNCTIONS[command])
    with show_progress() as progress:
        report = call(files.original, files.candidate, files.out, seed=seed, progress=progress, **arguments).report
    if files.report:
        write_text(files.report, render_json(report))
    if files.json:
        emit_json(report)
    else:
        emit(render(report))
    if why := explain_degraded(report.error_after):
        warn(f"the result is degraded: {why}")
    return report
