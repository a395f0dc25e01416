"""How `onnxprune batch` runs its jobs: the settings of a run rather than of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.settings.table import SIZE, Bounds, Kind, find_class_settings, import_name, setting

PANEL = "Run"
POSITIVE = Bounds("expected 1 or more", 1)
DURATION = Kind(
    "a duration such as 90, '10m' or '2h'", lambda x: isinstance(x, int | float | str), {"type": ["number", "string"]}
)


@dataclass(frozen=True)
class BatchSettings:
    """`timeout` in seconds and `memory` in bytes, of a job. None: what fits the machine."""

    workers: int | None = setting(
        None, "Jobs at a time (by default one per core).", on="batch", panel=PANEL, metavar="N", bounds=POSITIVE
    )
    threads: int | None = setting(
        None, "Threads per job (by default cores / workers).", on="batch", panel=PANEL, metavar="N", bounds=POSITIVE
    )
    timeout: float | None = setting(
        None,
        "Stop a job after this time: 90s, 10m, 2h (1h).",
        on="batch",
        panel=PANEL,
        metavar="TIME",
        kind=DURATION,
        check="onnxprune.settings.quantities:read_seconds",
    )
    memory: int | None = setting(
        None,
        "Stop a job that holds more memory: 800MB, 3GB (by default free memory / workers). Its data use at most half of "
        "it.",
        on="batch",
        panel=PANEL,
        metavar="SIZE",
        kind=SIZE,
        check="onnxprune.settings.quantities:read_size",
    )


def read_batch_settings(values: Mapping[str, Any]) -> BatchSettings:
    """The settings among these plain values, with units read. Raises OnnxPruneError."""
    table = find_class_settings(BatchSettings)
    known = {name: value for name, value in values.items() if name in table}
    for name, value in known.items():
        table[name].check_value(value)
    # what checks a duration or a size reads it, too
    return BatchSettings(
        **{name: import_name(check)(v) if (check := table[name].check) else v for name, v in known.items()}
    )
