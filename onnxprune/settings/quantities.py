"""Durations and sizes as people write them."""

from __future__ import annotations

import re
from typing import Any

from onnxprune.errors import OnnxPruneError

SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
BYTES = {"": 1, "b": 1} | {f"{p}{b}": n**i for b, n in (("b", 1000), ("ib", 1024)) for i, p in enumerate("kmgt", 1)}
MOST = 1e15
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def read_seconds(text: Any) -> float:
    """90, "90", "90s", "1.5m", "2h" as seconds. Raises OnnxPruneError."""
    return _read(text, SECONDS, "a duration such as 90s, 10m or 2h")


def read_size(text: Any) -> int:
    """2000000, "2MB", "1.5GiB" as bytes. Raises OnnxPruneError."""
    return int(_read(text, BYTES, "a size such as 800MB, 3GB or 2GiB"))


def _read(text: Any, units: dict[str, int], expected: str) -> float:
    match = _NUMBER.fullmatch(str(text))
    unit = units.get(match[2].lower()) if match else None
    if not match or unit is None or isinstance(text, bool) or not 0 < float(match[1]) < MOST:
        raise OnnxPruneError(f"'{str(text)[:80]}' is not {expected}")
    return float(match[1]) * unit


def show_size(n: int) -> str:
    """3221225472 -> `3 GiB`."""
    unit = next((u for u in ("tib", "gib", "mib", "kib") if n >= BYTES[u]), "b")
    return f"{n / BYTES[unit]:.3g} {unit[:1].upper() + 'iB' if unit != 'b' else 'B'}"
