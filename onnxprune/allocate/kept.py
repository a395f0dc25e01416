"""Measurements in a file of JSON lines: one per entry, written as soon as it is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError


def read_entries(path: Path | None, role: str, what: str, take: Callable[[Any], None]) -> None:
    """Hand each entry of a file to `take`; there may be no file yet, and a line that was cut short is left out.

    Raises DataError where the file cannot be read, or `take` does not know what it holds. In the message `role` names the file, and
    `what` that which it should hold.
    """
    if path is None or not path.exists():
        return
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            take(entry)
    except OSError as e:
        raise DataError(f"{role} '{path}': {e.strerror}; name a file, which is written to") from None
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise DataError(f"'{path}' is no file of {what}; name another one, it is written to") from None


def append_entries(path: Path | None, role: str, entries: Iterable[object]) -> None:
    """Write entries to the end of a file; without a path, nothing. Raises DataError where that cannot be."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(e) + "\n" for e in entries))
    except OSError as e:
        raise DataError(f"{role} '{path}': {e.strerror}; name a file that can be written") from None
