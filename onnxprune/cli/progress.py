"""Progress of a command on stderr."""

from contextlib import AbstractContextManager, nullcontext

from onnxprune import display
from onnxprune.cli import loudness
from onnxprune.progress import StageProgress


def show_progress() -> AbstractContextManager[StageProgress]:
    """A function to be called with a stage, the steps done and the steps in all (0: unknown)."""
    return nullcontext(display.ignore) if loudness.quiet else display.show_progress(lines=True)
