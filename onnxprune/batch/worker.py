"""The process of one job: reads the job as a line of JSON from stdin, and writes its outcome to a file.

It ends when the process that started it does, however that ends: nobody else holds the other end of its stdin.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from onnxprune.api import NotCompared, prune
from onnxprune.batch.database import Outcome
from onnxprune.batch.isolate import RESULT
from onnxprune.batch.jobs import ReadyJob
from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import make_arguments
from onnxprune.report import PruneReport, render_json
from onnxprune.report.degraded import explain_degraded

GRACE_SECONDS = 60
ALLOCATION = (
    "bad_alloc",
    "Failed to allocate memory",
    "out of memory",
    "Unable to allocate",
)  # C++, ONNX Runtime, numpy


def main() -> NoReturn:
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, args=(job["scratch"],), daemon=True).start()
    _last_resorts(job["timeout"])
    outcome = execute(ReadyJob(**job["task"]), job["memory"])
    Path(job["scratch"], RESULT).write_text(render_json(outcome), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # no library's last words can spoil it now


def execute(task: ReadyJob, memory: int | None = None) -> Outcome:
    """Prune, and say how that ended; of the `memory` that it may have, its data take a half, unless its settings say more."""
    settings = task.settings if memory is None else {"memory": memory // 2, **task.settings}
    try:
        Path(task.output).parent.mkdir(parents=True, exist_ok=True)
        result = prune(task.model, task.output, progress=False, **make_arguments(settings, Path(task.folder)))
    except NotCompared as e:
        return Outcome("failed", _line(e), report=_name_as_given(e.result.report, task), written=True)
    except Exception as e:
        return _failure(e)
    if not result.report.params.before:
        return Outcome(
            "failed",
            "the model has no weights, so there is nothing to prune",
            report=_name_as_given(result.report, task),
        )
    if why := explain_degraded(result.report.error):
        return Outcome("degraded", why, report=_name_as_given(result.report, task), written=True)
    return Outcome("done", _nothing(result.report), report=_name_as_given(result.report, task), written=True)


def _name_as_given(report: PruneReport, task: ReadyJob) -> PruneReport:
    """The report, with the model's path as it was given."""
    return replace(report, model=task.given)


def _nothing(report: PruneReport) -> str:
    """A word where no channel went, and no weight became zero."""
    if not report.removes_nothing:
        return ""
    why = "nothing fits the settings" if report.groups else "the model has no group that could be pruned"
    return f"nothing was removed: {why}"


def _failure(e: Exception) -> Outcome:
    text = _line(e)
    if isinstance(e, MemoryError) or any(words in text for words in ALLOCATION):
        return Outcome("memory", f"out of memory: {text}" if text else "out of memory")
    if isinstance(e, OnnxPruneError):
        return Outcome("failed", text)
    if isinstance(e, OSError):
        return Outcome("failed", f"{e.filename}: {e.strerror}" if e.filename else text)
    return Outcome("crashed", f"{type(e).__name__}: {text}; this is a defect of onnxprune, {_where(e)}")


def _where(e: Exception) -> str:
    trace = e.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "nowhere"


def _line(e: Exception) -> str:
    return " ".join(str(e).split())


def _end_with_parent(scratch: str) -> None:
    """Wait for the end of stdin; then take along what this process started, and its files."""
    while os.read(0, 1):
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _last_resorts(timeout: float | None) -> None:
    """Safeguards outside Python's threads: an alarm from the system, and being the first process that it kills for memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if timeout is not None and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout + GRACE_SECONDS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
