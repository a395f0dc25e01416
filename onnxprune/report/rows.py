"""The table of a run: one row for each job, a model with one setting. The columns are a contract, documented in the README."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Protocol

Row = dict[str, Any]

COLUMNS = (
    "id", "model", "path", "setting", "settings", "status", "message", "seconds", "started", "output",
    "params_before", "params_after", "params_left", "macs_before", "macs_after", "macs_left",
    "bytes_before", "bytes_after", "bytes_left", "compared_on", "samples",
    "relative_l2", "top1_agreement", "accuracy_before", "accuracy_after",
    "latency_before", "latency_after", "latency_ratio", "layers_2_4", "eligible_2_4", "likely_2_4", "sparse_2_4",
)  # fmt: skip


IN_ROW = ("params", "macs", "bytes", "error", "latency", "sparsity")  # what a row takes of a report
FILES = ("calib", "data", "cache", "plan")  # settings that name files
MISSING = "not set"


class JobLike(Protocol):
    """One model with one setting, as `batch` keeps it; `name` is the model's, `report` that of `prune`."""

    @property
    def id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def status(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def started(self) -> str | None: ...
    @property
    def output(self) -> str | None: ...
    @property
    def report(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class Single:
    """What one run of `prune` did, as a job."""

    model: str
    name: str
    report: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    status: str = "done"
    message: str = ""
    started: str | None = None

    @property
    def seconds(self) -> float:
        return float(sum(self.report["seconds"].values()))

    @property
    def output(self) -> str | None:
        made: str | None = self.report["output"]
        return made


def rows(jobs: Sequence[JobLike]) -> list[Row]:
    """A row for each job, in their order; its keys are COLUMNS, and what was not measured is None."""
    return [
        _first(job, setting) | _measured(job.report or {}) for job, setting in zip(jobs, settings_of(jobs), strict=True)
    ]


def csv_text(table: Sequence[Row]) -> str:
    """The rows as CSV with a header; `settings` is JSON, what was not measured is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow(row | {"settings": json.dumps(row["settings"], default=str)})
    return out.getvalue()


def settings_of(jobs: Sequence[JobLike]) -> list[str]:
    """In short, what sets each job apart from the others of its model; where nothing does, all that was set."""
    by_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for job in jobs:
        by_model[job.name].append(job.settings)
    seen = [_values(group) for group in by_model.values()]
    differ = {k for values in seen for k, found in values.items() if len(found) > 1}
    one_file = {k for k in FILES if all(len(values.get(k, set()) - {MISSING}) < 2 for values in seen)}
    return [
        setting_text({k: v for k, v in job.settings.items() if not differ or k in differ}, one_file) for job in jobs
    ]


def _values(group: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """What each option is set to in the jobs of a model."""
    keys = {k for settings in group for k in settings}
    return {k: {_value(s[k]) if k in s else MISSING for s in group} for k in keys}


def setting_text(settings: Mapping[str, Any], only_name: Collection[str] = ()) -> str:
    """`macs=0.5, repair=none`; of paths the last part, of some options only the name. Nothing set: `defaults`."""
    bare = {k for k, v in settings.items() if v is True or k in only_name}
    said = [k.replace("_", "-") + ("" if k in bare else f"={_value(v)}") for k, v in settings.items()]
    return ", ".join(said) or "defaults"


def _value(v: Any) -> str:
    if isinstance(v, float):
        return f"{v:g}"
    if isinstance(v, Mapping):
        return "+".join(f"{k}={_value(x)}" for k, x in v.items())
    if isinstance(v, list | tuple):
        return "+".join(map(_value, v))
    return PurePath(v).name if isinstance(v, str | PurePath) and "/" in str(v) else str(v)


def _first(job: JobLike, setting: str) -> Row:
    return {
        "id": job.id,
        "model": job.name,
        "path": job.model,
        "setting": setting,
        "settings": dict(job.settings),
        "status": job.status,
        "message": job.message,
        "seconds": job.seconds,
        "started": job.started,
        "output": job.output,
    }


def _measured(report: Mapping[str, Any]) -> Row:
    """What a report says in single numbers; all None without one."""
    row: Row = {}
    for key in ("params", "macs", "bytes"):
        row |= _pair(key, report.get(key))
        row[f"{key}_left"] = _ratio(row[f"{key}_before"], row[f"{key}_after"])
    error = report.get("error") or {}
    row |= {"compared_on": error.get("data"), "samples": error.get("samples")}
    row |= {key: finite(error.get(key)) for key in ("relative_l2", "top1_agreement")}
    row |= _pair("accuracy", error.get("accuracy")) | _pair("latency", report.get("latency"))
    row["latency_ratio"] = _ratio(row["latency_before"], row["latency_after"])
    return row | _sparsity(report.get("sparsity"))


def _pair(name: str, pair: Mapping[str, Any] | None) -> Row:
    return {f"{name}_{when}": finite((pair or {}).get(when)) for when in ("before", "after")}


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after is not None else None


def finite(x: float | None) -> float | None:
    """A number that JSON can hold."""
    return x if x is not None and math.isfinite(x) else None


def _sparsity(found: Mapping[str, Any] | None) -> Row:
    """Of the layers with weights: how many there are, can be 2:4, are likely to be faster so, and are so now."""
    layers = found["layers"] if found else None
    said = {f"{k}_2_4": sum(bool(x[k]) for x in layers) if layers else None for k in ("eligible", "likely", "sparse")}
    return {"layers_2_4": len(layers) if layers else None, **said}
