"""Seconds that were measured on this machine: of layers, and of whole models.

A layer is an operator of ONNX Runtime's optimized graph with its attributes, types and shapes, so that models that have it in
common share what was measured. What is known is never measured again: with one table, one plan.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from onnxprune.errors import DataError

FILE = "timings.jsonl"


def default_path() -> Path:
    """Where the table is unless another place is named: the folder that the system has for caches."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "onnxprune" / FILE


class TimingTable:
    """A table in a file of JSON lines; without a path, in memory. It remembers which entries were asked for."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        self.used: dict[str, float] = {}
        if path is None or not path.exists():
            return
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)
        except OSError as e:
            raise DataError(f"timings '{path}': {e.strerror}; name a file, which is written to") from None
        except (KeyError, TypeError, ValueError, RecursionError):
            raise DataError(f"'{path}' is no table of timings; name another file, it is written to") from None

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return  # a line that was cut short
        self.known.setdefault(str(entry["key"]), float(entry["seconds"]))

    def has(self, key: str) -> bool:
        return key in self.known

    def get(self, key: str) -> float:
        self.used[key] = self.known[key]
        return self.used[key]

    def add(self, measured: Mapping[str, float]) -> None:
        """Keep what is new."""
        new = {k: float(f"{s:.6g}") for k, s in measured.items() if k not in self.known}  # as the file has it
        self.known |= new
        if self.path is None or not new:
            return
        lines = "".join(json.dumps({"key": k, "seconds": s}) + "\n" for k, s in new.items())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as e:
            raise DataError(f"timings '{self.path}': {e.strerror}; name a file that can be written") from None

    def get_or_measure(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.known:
            self.add({key: measure()})
        return self.get(key)

    @property
    def digest(self) -> str:
        """A hash of the entries that were used."""
        text = json.dumps(sorted(self.used.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
