"""The database of an output folder: one SQLite file, written by the one run that holds the folder's lock.

`jobs` has what another run of the same jobs gives again, `clock` what differs from run to run, `files` the digests of files.
Every result is committed as soon as it is there, so a run that is killed loses the jobs in flight and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from onnxprune.batch.content import Seen, Stamp
from onnxprune.batch.jobs import MODELS, Spec
from onnxprune.batch.results import DATABASE, FORMAT, MADE, check_format, explain_sqlite, split
from onnxprune.errors import OutputError
from onnxprune.graph.files import find_data_files
from onnxprune.report import PruneReport, to_json

LOCK = ".lock"
_SCHEMA = f"""
    BEGIN;
    CREATE TABLE jobs (
        place TEXT PRIMARY KEY, id TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, settings TEXT NOT NULL,
        status TEXT NOT NULL, message TEXT NOT NULL, output TEXT, report TEXT);
    CREATE TABLE clock (place TEXT PRIMARY KEY REFERENCES jobs, started TEXT, seconds REAL, report TEXT);
    CREATE TABLE files (
        path TEXT PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, digest TEXT NOT NULL, refers TEXT NOT NULL);
    PRAGMA user_version = {FORMAT};
    COMMIT;
"""


@dataclass(frozen=True)
class Outcome:
    """The end of a job: `status` is one of `results.FINISHED`."""

    status: str
    message: str = ""
    seconds: float | None = None
    started: str | None = None
    report: PruneReport | None = None
    written: bool = False  # the pruned model is there

    @property
    def has_model(self) -> bool:
        """Did it come to a model that was compared, ruined or not?"""
        return self.status in MADE


class ResultStore:
    """The database, held by one run at a time. Raises OutputError where another run has it, or nothing can be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = _locked(folder)
            self.base = sqlite3.connect(folder / DATABASE, isolation_level=None)
            self._open(folder / DATABASE)
        except OSError as e:
            raise OutputError(f"{folder}: {e.strerror}; choose another output folder") from e
        except sqlite3.Error as e:
            raise OutputError(f"{folder / DATABASE}: {explain_sqlite(e)}") from e
        for left in (folder / MODELS).rglob(".onnxprune-*.tmp"):  # by a run that was killed while it wrote
            left.unlink(missing_ok=True)

    def _open(self, path: Path) -> None:
        self.base.execute("PRAGMA journal_mode = WAL")
        if not self.base.execute("SELECT 1 FROM sqlite_master").fetchone():
            self.base.executescript(_SCHEMA)
        check_format(self.base, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(sqlite3.OperationalError):  # somebody reads it
            self.base.execute("PRAGMA journal_mode = DELETE")  # one file is left, that can be copied and read anywhere
        self.base.close()
        self.lock.close()

    # Jobs

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Errors of the database within are OutputErrors."""
        try:
            yield
        except sqlite3.Error as e:
            raise OutputError(f"{self.folder / DATABASE}: {explain_sqlite(e)}") from e

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction: all changes within are in the database, or none. Raises OutputError."""
        with self._using(), self.base:
            self.base.execute("BEGIN")
            yield

    def plan(self, jobs: Iterable[tuple[Spec, str]], retry: bool = False) -> set[str]:
        """Enter the jobs, each with its identity, and return the places of those that are to run.

        A job that ended stays as it is, unless it has another identity, its model is gone, or it failed and `retry` is set.
        What an earlier run did not come to, and this one does not ask for, is forgotten.
        """
        to_run = set[str]()
        with self._writing():
            pending = {place for (place,) in self.base.execute("SELECT place FROM jobs WHERE status = 'pending'")}
            for spec, id in jobs:
                pending.discard(spec.place)
                if not self._finished(spec, id, retry):
                    to_run.add(spec.place)
                    self._enter(spec, id)
            self.base.executemany("DELETE FROM jobs WHERE place = ?", [(place,) for place in pending])
        return to_run

    def _enter(self, spec: Spec, id: str) -> None:
        self.base.execute(
            """INSERT INTO jobs VALUES (?, ?, ?, ?, ?, 'pending', '', NULL, NULL) ON CONFLICT DO UPDATE SET
               (id, model, name, settings, status, message, output, report)
               = (excluded.id, excluded.model, excluded.name, excluded.settings, 'pending', '', NULL, NULL)""",
            (spec.place, id, spec.model, spec.name, json.dumps(spec.settings)),
        )
        self.base.execute("DELETE FROM clock WHERE place = ?", (spec.place,))

    def _finished(self, spec: Spec, id: str, retry: bool) -> bool:
        row = self.base.execute("SELECT id, status, output FROM jobs WHERE place = ?", (spec.place,)).fetchone()
        if row is None or row[0] != id or row[1] == "pending" or (retry and row[1] not in MADE):
            return False
        return row[2] is None or (self.folder / row[2]).is_file()

    def record(self, spec: Spec, outcome: Outcome) -> None:
        """Keep how a job ended; what a job that was stopped may have written is removed."""
        if not outcome.written:
            output = self.folder / spec.output
            for path in (output, *(find_data_files(output) if output.parent.is_dir() else ())):
                path.unlink(missing_ok=True)
        report, timed = split(to_json(outcome.report)) if outcome.report else (None, [])
        texts = [None if report is None else json.dumps(x, default=str) for x in (report, timed)]
        with self._writing():
            self.base.execute(
                "UPDATE jobs SET (status, message, output, report) = (?, ?, ?, ?) WHERE place = ?",
                (outcome.status, outcome.message, spec.output if outcome.written else None, texts[0], spec.place),
            )
            values = (spec.place, outcome.started, outcome.seconds, texts[1])
            self.base.execute("INSERT OR REPLACE INTO clock VALUES (?, ?, ?, ?)", values)

    # Digests of files: the `Memory` of `content.Contents`

    def recall(self, path: str, stamp: Stamp) -> Seen | None:
        with self._using():
            row = self.base.execute(
                "SELECT digest, refers FROM files WHERE (path, size, changed) = (?, ?, ?)", (_text(path), *stamp)
            ).fetchone()
        return Seen(row[0], tuple(json.loads(row[1]))) if row else None

    def keep(self, path: str, stamp: Stamp, seen: Seen) -> None:
        values = (_text(path), *stamp, seen.digest, json.dumps(seen.refers))
        with self._using():
            self.base.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", values)


def _text(path: str) -> str:
    """A path that SQLite takes: bytes that are no UTF-8 are escaped."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _locked(folder: Path) -> sqlite3.Connection:
    """The folder's lock: a transaction that is open as long as this process lives, on a database that stays empty."""
    lock = sqlite3.connect(folder / LOCK, isolation_level=None, timeout=0)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as e:
        lock.close()
        if "locked" in str(e):
            raise OutputError(
                f"another run is at work in {folder}; wait for it, or choose another folder with -o"
            ) from e
        raise
    except sqlite3.DatabaseError as e:
        lock.close()
        raise OutputError(f"{folder / LOCK}: {e}; it is no lock of a run, move it away or choose another folder") from e
    return lock
