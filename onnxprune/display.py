"""Progress of long work: one bar over all stages on a terminal or in a notebook, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from threading import Lock
from typing import TYPE_CHECKING

from onnxprune.progress import ProgressChoice, StageProgress
from onnxprune.wording import clean, plural

if TYPE_CHECKING:
    from rich.progress import Progress

    from onnxprune.forecast import Forecast

DISABLE = "ONNXPRUNE_DISABLE_PROGRESS_BARS"
_SHOWING = Lock()  # two bars on one terminal would write over each other
SAY = {
    "load": "reading the model",
    "write": "writing texts",
    "analyze": "finding prunable channels",
    "calibrate": "watching the network",
    "plan": "scoring channels",
    "measure": "measuring errors of groups",
    "search": "searching",
    "depth": "measuring errors of blocks",
    "limit": "trying budgets",
    "time": "timing samples",
    "try": "repairing a try",
    "apply": "removing channels",
    "repair": "repairing layers",
    "permute": "permuting channels",
    "sparsify": "choosing weights",
    "fit": "choosing and fitting weights",
    "tally": "reading the weights",
    "distill": "training",
    "count": "counting multiplications",
    "save": "writing",
    "hold out": "comparing on held-out samples",
    "validate": "comparing outputs in ONNX Runtime",
}
UNITS = {
    "write": "tokens",
    "calibrate": "samples",
    "plan": "groups",
    "try": "layers",
    "repair": "layers",
    "fit": "layers",
    "permute": "groups",
    "distill": "steps",
}
LINE_SECONDS = 10.0  # between two lines where stderr is no terminal
UPDATE_SECONDS = 0.2  # between two states of a line in a notebook
SLOWEST = 4.0  # how many times slower than expected work is taken to be at the most


class Estimate:
    """How much of the work is done, and how long the rest takes: stages as they were expected, at the speed so far."""

    def __init__(self) -> None:
        self.expected: dict[str, float] = {}
        self.done: dict[str, float] = {}  # of each stage's seconds
        self.start = time.monotonic()

    def expect(self, forecast: Forecast) -> None:
        self.expected, self.start = dict(forecast.stages), time.monotonic()

    def update(self, stage: str, done: int, of: int) -> None:
        """Stages before this one are over; one that comes again (tries) counts as it goes on."""
        if stage not in self.expected:
            return
        for name in self.expected:
            if name == stage:
                break
            self.done[name] = self.expected[name]
        share = self.expected[stage] * (done / of if of else 0.0)
        self.done[stage] = max(self.done.get(stage, 0.0), share)

    @property
    def share(self) -> float:
        return sum(self.done.values()) / (sum(self.expected.values()) or 1.0)

    @property
    def left(self) -> float | None:
        """Seconds; None where nothing was expected."""
        if not self.expected:
            return None
        done, whole = sum(self.done.values()), sum(self.expected.values())
        speed = (time.monotonic() - self.start) / done if done else 1.0
        return (whole - done) * min(max(speed, 1 / SLOWEST), SLOWEST)


class Shown:
    """What a pipeline calls as it goes on: `show` puts a line where somebody reads it, `say` keeps one there."""

    def __init__(self) -> None:
        self.estimate = Estimate()
        self.remarks: dict[str, str] = {}

    def remark(self, stage: str, words: str) -> None:
        """Say this of a stage from now on."""
        self.remarks[stage] = f", {words}"

    def expect(self, forecast: Forecast) -> None:
        """Say how long the work is going to take, where that is long."""
        self.estimate.expect(forecast)
        if forecast.seconds >= LINE_SECONDS:
            groups = f", {plural(forecast.groups, 'group')}" if forecast.groups else ""
            what = f"{plural(forecast.samples, 'sample')}{groups}"
            self.say(f"this takes {describe_time(forecast.seconds)}: {what}")

    def __call__(self, stage: str, done: int, of: int) -> None:
        self.estimate.update(stage, done, of)
        count = f" {done}/{of} {UNITS.get(stage, '')}".rstrip() if of else ""
        left = self.estimate.left
        rest = "" if left is None else f", {describe_time(left)} left"
        self.show(f"{SAY.get(stage, stage)}{count}{self.remarks.get(stage, '')}{rest}")

    def show(self, line: str) -> None:
        raise NotImplementedError

    def say(self, line: str) -> None:
        raise NotImplementedError


class Lines(Shown):
    """A line every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def show(self, line: str) -> None:
        if time.monotonic() - self.last >= LINE_SECONDS:
            self.say(line)

    def say(self, line: str) -> None:
        self.last = time.monotonic()
        print(clean(line), file=sys.stderr, flush=True)


class Bar(Shown):
    """A bar over all stages."""

    def __init__(self, shown: Progress) -> None:
        super().__init__()
        self.shown = shown
        self.task = shown.add_task("starting", total=None)

    def show(self, line: str) -> None:
        known = bool(self.estimate.expected)
        self.shown.update(
            self.task, description=line, total=1.0 if known else None, completed=self.estimate.share if known else 0
        )

    def say(self, line: str) -> None:
        self.shown.console.print(clean(line), markup=False, highlight=False)


def describe_time(seconds: float) -> str:
    """A time for people: `about 6 minutes`."""
    if seconds < 90:
        return f"about {plural(max(1, round(seconds)), 'second')}"
    minutes = round(seconds / 60)
    return f"about {plural(minutes, 'minute')}" if minutes < 90 else f"about {seconds / 3600:.1f} hours"


class NotebookLine(Shown):
    """A line of a notebook with a bar, kept up to date."""

    def __init__(self) -> None:
        from IPython.display import display  # there wherever a notebook runs

        super().__init__()
        self.display, self.last = display, 0.0
        self.handle = display(self._render("starting"), raw=True, display_id=True)

    def _render(self, line: str) -> dict[str, str]:
        value = f' value="{self.estimate.share:.3f}"' if self.estimate.expected else ""
        bar = f"<progress{value}></progress> <code>{escape(clean(line))}</code>"
        return {"text/plain": clean(line), "text/html": bar}

    def show(self, line: str) -> None:
        if time.monotonic() - self.last >= UPDATE_SECONDS:
            self.last = time.monotonic()
            self.handle.update(self._render(line), raw=True)

    def say(self, line: str) -> None:
        self.display({"text/plain": clean(line)}, raw=True)

    def close(self) -> None:
        self.handle.update({"text/plain": ""}, raw=True)


def ignore(stage: str, done: int, of: int) -> None:
    """Show nothing."""


@contextmanager
def choose_progress(progress: ProgressChoice) -> Iterator[StageProgress]:
    """The function that progress is reported to: the one given; for None a bar if somebody sees it, for False none."""
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and os.environ.get(DISABLE, "0") not in ("", "0")):
        yield ignore
    else:
        with show_progress(lines=progress is True) as shown:
            yield shown


@contextmanager
def show_progress(lines: bool) -> Iterator[StageProgress]:
    """A bar on a terminal or in a notebook, wiped at the end; elsewhere `lines`, or nothing. A second one shows nothing."""
    if not _SHOWING.acquire(blocking=False):
        yield ignore
        return
    try:
        if sys.stderr is not None and sys.stderr.isatty():
            with _show_bar() as bar:
                yield bar
        elif is_notebook():
            line = NotebookLine()
            try:
                yield line
            finally:
                line.close()
        else:
            yield Lines() if lines else ignore
    finally:
        _SHOWING.release()


@contextmanager
def _show_bar() -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn("line"),
        BarColumn(24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        yield Bar(shown)


def is_notebook() -> bool:
    """Does this run in the kernel of a notebook?"""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
