"""Progress of long work on stderr: shown on a terminal, silent in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnxprune.cli import loudness
from onnxprune.progress import StageProgress

SAY = {
    "load": "reading the model",
    "analyze": "finding what can be pruned",
    "calibrate": "watching the network",
    "plan": "scoring channels",
    "measure": "measuring errors of groups",
    "search": "searching",
    "limit": "trying budgets",
    "time": "timing samples",
    "try": "repairing a try",
    "apply": "removing channels",
    "repair": "repairing layers",
    "permute": "permuting channels",
    "sparsify": "choosing weights",
    "fit": "choosing and fitting weights",
    "tally": "reading the weights",
    "save": "writing",
    "validate": "comparing outputs in ONNX Runtime",
}
UNITS = {
    "calibrate": "samples",
    "plan": "groups",
    "try": "layers",
    "repair": "layers",
    "fit": "layers",
    "permute": "groups",
}


@contextmanager
def show_progress() -> Iterator[StageProgress]:
    """A function to tell of a stage, the steps done and the steps in all (0: unknown); the line is wiped at the end."""
    if not sys.stderr.isatty() or loudness.quiet:
        yield lambda stage, done, of: None
        return
    columns = (SpinnerColumn("line"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)

        def report(stage: str, done: int, of: int) -> None:
            count = f" {done}/{of} {UNITS.get(stage, '')}" if of else ""
            shown.update(task, description=SAY.get(stage, stage) + count)

        yield report
