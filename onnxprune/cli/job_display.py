"""How a batch goes, on stderr: a display that is kept up to date on a terminal, a line for each job elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from onnxprune.cli.console import duration, text
from onnxprune.wording import clean, plural

if TYPE_CHECKING:
    from onnxprune.batch.database import Outcome
    from onnxprune.batch.isolate import Limits
    from onnxprune.batch.jobs import Spec

SHOWN = 8  # jobs in flight
READING_SECONDS = 2.0  # between two words on the reading of files


class JobLines:
    """Counts what happens, and says it in lines."""

    def __init__(self) -> None:
        self.total = self.before = self.ended = self.failed = 0
        self.started = self.last_line = time.monotonic()
        self.flying: dict[str, tuple[str, float]] = {}

    def say(self, line: str) -> None:
        print(clean(line), file=sys.stderr, flush=True)

    def limits(self, workers: int | None, limits: Limits) -> None:
        from onnxprune.settings.quantities import show_size

        where = plural(workers, "worker") if workers else "on the cluster"
        memory = f"{show_size(limits.memory)}, " if limits.memory else ""
        time_limit = "" if limits.timeout is None else f"{limits.timeout:g} s"
        self.say(f"{where}; each job may take {plural(limits.threads, 'thread')}, {memory}{time_limit}")

    def reading(self, done: int, of: int) -> None:
        if time.monotonic() - self.last_line > READING_SECONDS:
            self.last_line = time.monotonic()
            self.say(f"reading files: {done} of {plural(of, 'job')}")

    def begin(self, to_run: int, done: int) -> None:
        self.total, self.before, self.started = to_run, done, time.monotonic()
        already = f", {done} of them ended before" if done else ""
        self.say(f"{plural(to_run + done, 'job')}{already}")

    def start(self, spec: Spec) -> None:
        self.flying[spec.place] = (f"{spec.name} {spec.words}", time.monotonic())

    def end(self, spec: Spec, outcome: Outcome) -> None:
        self.flying.pop(spec.place, None)
        self.ended += 1
        self.failed += not outcome.has_model
        took = f" {duration(outcome.seconds)}" if outcome.seconds is not None else ""
        why = f": {outcome.message}" if outcome.message else ""
        self.ending(f"[{self.ended}/{self.total}] {outcome.status} {spec.name} {spec.words}{took}{why}", outcome)

    def ending(self, line: str, outcome: Outcome) -> None:
        self.say(line)

    def close(self) -> None:
        """Stop to show anything."""

    def left(self) -> str:
        """What there is to say where a run is interrupted."""
        return f"{self.before + self.ended} of {plural(self.before + self.total, 'job')} ended"

    def remaining(self) -> str:
        """The time that is left, from the mean time so far."""
        if not self.ended:
            return ""
        seconds = (time.monotonic() - self.started) / self.ended * (self.total - self.ended)
        minutes, rest = divmod(round(seconds), 60)
        return f", about {minutes // 60}:{minutes % 60:02}:{rest:02} left"


class Display(JobLines):
    """The same on a terminal: what is in flight is shown, what failed is said, the rest is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.live = Live(
            console=self.console, get_renderable=self.shown, refresh_per_second=2, transient=True, redirect_stdout=False
        )

    def say(self, line: str) -> None:
        self.console.print(text(line))

    def ending(self, line: str, outcome: Outcome) -> None:
        if outcome.status != "done":
            self.say(line)

    def close(self) -> None:
        self.live.stop()

    def shown(self) -> RenderableType:
        now = time.monotonic()
        counts = (
            f"{self.ended} of {self.total} ended, {self.failed} failed, {len(self.flying)} in flight{self.remaining()}"
        )
        listed = [text(f"  {name}  {now - since:.0f} s", "dim") for name, since in list(self.flying.values())[:SHOWN]]
        more = [text(f"  and {len(self.flying) - SHOWN} more", "dim")] if len(self.flying) > SHOWN else []
        return Group(Text(counts, "bold"), *listed, *more)


@contextmanager
def watch() -> Iterator[JobLines]:
    """A display on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield JobLines()
        return
    display = Display()
    with display.live:
        yield display
