"""Run one job in a process of its own, with a limit of time and of memory; whatever becomes of it, there is an outcome.

A pool of processes would not do: one that is killed breaks the pool, with all that runs in it. Here a thread starts a process
for each job, watches it, and kills it with all that it started where it passes a limit, or where the run ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from onnxprune.batch.database import Outcome
from onnxprune.batch.jobs import ReadyJob
from onnxprune.graph.files import make_temporary_folder
from onnxprune.machine import count_oom_kills, read_resident_bytes
from onnxprune.report import from_json
from onnxprune.settings.quantities import show_size

POLL_SECONDS = 0.05
LOG, RESULT = "log", "result.json"  # what a job prints, and what it finds
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONNXPRUNE_THREADS",
)  # the last: ONNX Runtime's
LONGEST = 500  # characters of what a process said last


@dataclass(frozen=True)
class Limits:
    """The limits of a job: seconds, bytes of memory (None: no limit), threads. `share`: the memory is a default."""

    timeout: float | None
    memory: int | None
    threads: int
    share: bool = False


class Lease(Protocol):
    """Is the run that a job belongs to still wanted?"""

    def is_held(self) -> bool: ...


class Running:
    """A lease among threads."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def is_held(self) -> bool:
        return not self.event.is_set()

    def end(self) -> None:
        self.event.set()


def run(task: ReadyJob, limits: Limits, lease: Lease) -> Outcome | None:
    """The outcome of a job; None where it was stopped because the run ended."""
    with make_temporary_folder() as scratch:
        started, start, kills = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter(), count_oom_kills()
        process = _start(task, limits, Path(scratch))
        try:
            stopped = _watch(process, limits, lease, start)
        finally:
            _kill(process)
        if stopped and stopped.status == "pending":
            return None
        ended = stopped or _read(Path(scratch), process.returncode, count_oom_kills() > kills)
        return Outcome(**{**vars(ended), "seconds": round(time.perf_counter() - start, 3), "started": started})


def _start(task: ReadyJob, limits: Limits, scratch: Path) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])  # where this package was imported from
    code = f"import sys; sys.path.insert(0, {root!r}); from onnxprune.batch.worker import main; main()"
    environ = {**os.environ, **dict.fromkeys(THREADS, str(limits.threads)), "TMPDIR": str(scratch)}
    with open(scratch / LOG, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=task.folder,
            env=environ,
            start_new_session=True,
        )
    job = {"task": asdict(task), "scratch": str(scratch), "timeout": limits.timeout, "memory": limits.memory}
    with suppress(BrokenPipeError):  # it ended at once, and its log says why
        assert process.stdin
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()  # and stays open: the job ends where this process does
    return process


def _watch(process: subprocess.Popen[bytes], limits: Limits, lease: Lease, start: float) -> Outcome | None:
    """Wait until the process ends by itself (None), or passes a limit."""
    while True:
        try:
            process.wait(POLL_SECONDS)
            return None
        except subprocess.TimeoutExpired:
            pass
        if not lease.is_held():
            return Outcome("pending")
        if limits.timeout is not None and time.perf_counter() - start > limits.timeout:
            return Outcome("timeout", f"stopped after {limits.timeout:g} s without a result; --timeout gives it more")
        if limits.memory is not None and read_resident_bytes(process.pid) > limits.memory:
            return Outcome("memory", _too_much(limits))


def _too_much(limits: Limits) -> str:
    """A share of what happens to be free is not a number to compare runs by."""
    allowed = (
        "its share of this machine's memory"
        if limits.share
        else f"the {show_size(limits.memory or 0)} that it may have"
    )
    return f"stopped because it needs more than {allowed}; --memory gives it more, fewer --workers a larger share"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _read(scratch: Path, status: int, starved: bool) -> Outcome:
    """Read the outcome of a process that ended by itself."""
    try:
        if status == 0:
            return from_json(Outcome, json.loads((scratch / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    if status == -signal.SIGKILL and starved:
        return Outcome("memory", "killed by the system for want of memory; fewer --workers leave more to each job")
    ending = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    message = f"ended without a result ({ending})"
    last = _last_line(scratch / LOG)
    return Outcome("crashed", f"{message}; it said last: {last}" if last else message)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:LONGEST] if lines else ""
