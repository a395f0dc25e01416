"""The results of a run: read its database, and compare two runs in all that does not depend on the clock.

`python -m onnxprune.batch.results A B` compares two output folders, and exits with 1 where they differ.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxprune.batch.jobs import MODELS
from onnxprune.errors import OnnxPruneError
from onnxprune.plain_settings import describe
from onnxprune.report import PruneReport, from_json, to_json

DATABASE = "results.sqlite"
FORMAT = 1
STATUSES = ("done", "degraded", "failed", "timeout", "memory", "crashed", "pending")
FINISHED = STATUSES[:-1]
MADE = STATUSES[:2]  # a model was made; a degraded one is ruined, but that is a result
CLOCK = (
    "seconds",
    "latency",
    "pruned_latency",
    "peak_memory",
    "speedup_measured",
    "not_compared",
)  # keys of a report that differ from run to run


@dataclass(frozen=True)
class JobResult:
    """One model pruned in one way, or what became of the try."""

    id: str
    model: str  # the path as given
    name: str  # short and unique
    settings: dict[str, Any]  # only what was set
    status: str  # one of STATUSES
    message: str
    seconds: float | None
    started: str | None
    output: str | None  # the pruned model, from the output folder
    report: PruneReport | None


def read(folder: Path) -> list[JobResult]:
    """All jobs of an output folder, in the order of the recipe; a run may be at work there. Raises OnnxPruneError."""
    return list(read_outcomes(folder))


def read_outcomes(folder: Path) -> Iterator[JobResult]:
    """The same, one after the other: reports of a hundred thousand jobs take gigabytes."""
    path = folder / DATABASE
    if not path.is_file():
        raise OnnxPruneError(f"{path} is not there; {folder} is no output folder of 'onnxprune batch'")
    try:
        base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            check_format(base, path)
            yield from (_job(*row) for row in base.execute(_ALL))
        finally:
            base.close()
    except sqlite3.Error as e:
        raise OnnxPruneError(f"{path}: {explain_sqlite(e)}") from e
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as e:
        raise OnnxPruneError(f"{path}: {DAMAGED} ({type(e).__name__}: {e})") from e


DAMAGED = "it is no database of results, or it is damaged; move it away, or choose another output folder"
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
BROKEN = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
)  # the last: no such table


def explain_sqlite(error: sqlite3.Error) -> str:
    """Explain an error of SQLite, and suggest a remedy."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_NOTADB) & 0xFF
    if code in BUSY:
        return f"{error}, another program has it open; close that, and start the same command again"
    if code in BROKEN:
        return f"{error}; {DAMAGED}"
    return f"{error}; make room, and start the same command again, or choose another output folder"


_ALL = """SELECT id, model, name, settings, status, message, seconds, started, output, jobs.report, clock.report
          FROM jobs LEFT JOIN clock USING (place) ORDER BY jobs.rowid"""


def check_format(base: sqlite3.Connection, path: Path) -> None:
    (version,) = base.execute("PRAGMA user_version").fetchone()
    if version != FORMAT:
        raise OnnxPruneError(f"{path} has format {version}, this onnxprune reads {FORMAT}; choose another folder")


def _job(
    id: str,
    model: str,
    name: str,
    settings: str,
    status: str,
    message: str,
    seconds: float | None,
    started: str | None,
    output: str | None,
    report: str | None,
    clock: str | None,
) -> JobResult:
    whole = from_json(PruneReport, join_report(json.loads(report), json.loads(clock or "[]"))) if report else None
    return JobResult(id, model, name, json.loads(settings), status, message, seconds, started, output, whole)


def select(jobs: Iterable[JobResult], wanted: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[JobResult]:
    """The jobs with these names and settings, in their order."""
    asked = {(name, describe(settings)) for name, settings in wanted}
    return (j for j in jobs if (j.name, describe(j.settings)) in asked)


def shorten(job: JobResult) -> JobResult:
    """The job without the lists of its report that no row of the table needs."""
    if job.report is None:
        return job
    short = replace(job.report, groups=[], weights=[], frozen=[], sensitivity=None, repair=None, reconstruction=None)
    return replace(job, report=short)


# What depends on the clock

Timed = list[tuple[list[str | int], Any]]  # where a value stood, and the value


def split(report: Any) -> tuple[Any, Timed]:
    """A report without what differs from run to run (null stands there), and that."""
    timed: Timed = []

    def walk(node: Any, path: list[str | int]) -> Any:
        if path and path[-1] in CLOCK:
            timed.append((path, node))
            return None
        if isinstance(node, Mapping):
            return {k: walk(v, [*path, k]) for k, v in node.items()}
        return [walk(v, [*path, i]) for i, v in enumerate(node)] if isinstance(node, list) else node

    return walk(report, []), timed


def join_report(report: Any, timed: Iterable[Sequence[Any]]) -> Any:
    """The report that was split."""
    for path, value in timed:
        node = report
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    return report


def select_stable(job: JobResult) -> dict[str, Any]:
    """All of a job that another run of it must give again."""
    kept = to_json(job)
    kept["report"], _ = split(kept["report"])
    return {k: v for k, v in kept.items() if k not in ("seconds", "started")}


def list_differences(a: Path, b: Path) -> list[str]:
    """In words, where two output folders differ in what must not depend on the clock: jobs, reports, files."""
    one, other = _by_name(a), _by_name(b)
    messages = [f"{name}: only in {a if name in one else b}" for name in one.keys() ^ other.keys()]
    for name in one.keys() & other.keys():
        messages += [f"{name}: {key} differs" for key in one[name] if one[name][key] != other[name][key]]
    changed = dict(_files(a).items() ^ _files(b).items())
    return sorted(messages) + [f"{path} differs" for path in sorted(changed)]


def _by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {f"{j.name} {describe(j.settings)}": select_stable(j) for j in read(folder)}


def _files(folder: Path) -> dict[str, str]:
    """The files that a run made, hidden ones too, and their digests."""
    files = (f for f in (folder / MODELS).rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _main() -> int:
    if len(sys.argv) != 3:
        print("usage: python -m onnxprune.batch.results FOLDER FOLDER", file=sys.stderr)
        return 2
    try:
        messages = list_differences(Path(sys.argv[1]), Path(sys.argv[2]))
    except OnnxPruneError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print("\n".join(messages) or "the same")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(_main())
