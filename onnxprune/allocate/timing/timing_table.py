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
from typing import Any

from onnxprune.allocate.kept import append_entries, read_entries

FILE = "timings.jsonl"


def find_default_path() -> Path:
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
        read_entries(path, "timings", "timings", self._take)

    def _take(self, entry: Any) -> None:
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
        if new:
            append_entries(self.path, "timings", ({"key": k, "seconds": s} for k, s in new.items()))

    def get_or_measure(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.known:
            self.add({key: measure()})
        return self.get(key)

    @property
    def digest(self) -> str:
        """A hash of the entries that were used."""
        text = json.dumps(sorted(self.used.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
