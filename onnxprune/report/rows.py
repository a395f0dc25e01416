"""The table of a run: one row for each job, a model with one setting. The columns are those of `ResultRow`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Protocol

from onnxprune.report.degraded import explain_degraded, get_agreement
from onnxprune.report.plain import to_json
from onnxprune.report.types import Counts, Latency, PruneReport, ResultRow, Shares, SparsityReport

COLUMNS = tuple(f.name for f in fields(ResultRow))
MEASURED = COLUMNS[COLUMNS.index("params_before") :]  # what comes from a job's report
FILES = ("calib", "data", "cache", "timings", "plan")  # settings that name files
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
    def report(self) -> PruneReport | None: ...


@dataclass(frozen=True)
class Single:
    """One run of `prune` as a job."""

    model: str
    name: str
    report: PruneReport
    settings: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    status: str = "done"
    message: str = ""
    started: str | None = None

    @property
    def seconds(self) -> float:
        return float(sum(self.report.seconds.values()))

    @property
    def output(self) -> str | None:
        return self.report.output


def make_rows(jobs: Sequence[JobLike]) -> list[ResultRow]:
    """A row for each job, in their order."""
    return [_row(job, setting) for job, setting in zip(jobs, name_settings(jobs), strict=True)]


def render_csv(table: Sequence[ResultRow]) -> str:
    """The rows as CSV with a header; `settings` is JSON, what was not measured is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow(to_json(row) | {"settings": json.dumps(row.settings, default=str)})
    return out.getvalue()


def name_settings(jobs: Sequence[JobLike]) -> list[str]:
    """In short, what sets each job apart from the others of its model; where nothing does, all that was set."""
    by_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for job in jobs:
        by_model[job.name].append(job.settings)
    seen = [_values(group) for group in by_model.values()]
    differ = {k for values in seen for k, values_of_setting in values.items() if len(values_of_setting) > 1}
    one_file = {k for k in FILES if all(len(values.get(k, set()) - {MISSING}) < 2 for values in seen)}
    return [
        describe_settings({k: v for k, v in job.settings.items() if not differ or k in differ}, one_file)
        for job in jobs
    ]


def _values(group: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The values of each option in the jobs of a model."""
    keys = {k for settings in group for k in settings}
    return {k: {_value(s[k]) if k in s else MISSING for s in group} for k in keys}


def describe_settings(settings: Mapping[str, Any], only_name: Collection[str] = ()) -> str:
    """`macs=0.5, repair=none`; of paths the last part, of some options only the name. Nothing set: `defaults`."""
    bare = {k for k, v in settings.items() if v is True or k in only_name}
    texts = [k.replace("_", "-") + ("" if k in bare else f"={_value(v)}") for k, v in settings.items()]
    return ", ".join(texts) or "defaults"


def _value(v: Any) -> str:
    if isinstance(v, float):
        return f"{v:g}"
    if isinstance(v, Mapping):
        return "+".join(f"{k}={_value(x)}" for k, x in v.items())
    if isinstance(v, list | tuple):
        return "+".join(map(_value, v))
    return PurePath(v).name if isinstance(v, str | PurePath) and "/" in str(v) else str(v)


def _row(job: JobLike, setting: str) -> ResultRow:
    return ResultRow(
        id=job.id,
        model=job.name,
        path=job.model,
        setting=setting,
        settings=dict(job.settings),
        status=_status(job),
        message=job.message or _message(job),
        seconds=job.seconds,
        started=job.started,
        output=job.output,
        **(_measured(job.report) if job.report else dict.fromkeys(MEASURED)),
    )


def _status(job: JobLike) -> str:
    """The job's; results that nobody judged, of one run or of an earlier version, are judged here."""
    ruined = job.status == "done" and job.report is not None and explain_degraded(job.report.error)
    return "degraded" if ruined else job.status


def _message(job: JobLike) -> str:
    return explain_degraded(job.report.error) if job.status == "done" and job.report else ""


def _measured(report: PruneReport) -> dict[str, Any]:
    """The measurements of a report as single numbers, by the names of the columns."""
    values: dict[str, Any] = dict.fromkeys(MEASURED)
    for name, sizes in (("params", report.params), ("macs", report.macs), ("bytes", report.bytes)):
        values |= _pair(name, sizes) | {f"{name}_left": _ratio(sizes)}
    if error := report.error:
        values |= {
            "compared_on": error.data,
            "samples": error.samples,
            "relative_l2": drop_nonfinite(error.relative_l2),
        }
        values |= {"top1_agreement": drop_nonfinite(get_agreement(error))}
        values |= _pair("accuracy", error.accuracy) if error.accuracy else {}
    if latency := report.latency:
        values |= _pair("latency", latency) | {"latency_ratio": _ratio(latency)} | _speedup(latency)
    return values | (_sparsity(report.sparsity) if report.sparsity else {})


def _pair(name: str, pair: Counts | Shares | Latency) -> dict[str, float | None]:
    return {f"{name}_before": drop_nonfinite(pair.before), f"{name}_after": drop_nonfinite(pair.after)}


def _speedup(latency: Latency) -> dict[str, float | str | None]:
    """The speed-up, unless it is too noisy to tell."""
    numbers: dict[str, float | str | None] = {"speedup_verdict": latency.verdict}
    if latency.verdict == "noisy":
        return numbers
    return numbers | {
        "speedup": drop_nonfinite(latency.ratio),
        "speedup_low": drop_nonfinite(latency.low),
        "speedup_high": drop_nonfinite(latency.high),
    }


def _ratio(pair: Counts | Latency) -> float | None:
    return pair.after / pair.before if pair.before and pair.after is not None else None


def drop_nonfinite(x: float | None) -> float | None:
    """A number that JSON can hold."""
    return x if x is not None and math.isfinite(x) else None


def _sparsity(sparsity: SparsityReport) -> dict[str, int | None]:
    """Of the layers with weights: how many there are, can be 2:4, are likely to be faster so, and are so now."""
    layers = sparsity.layers
    if not layers:
        return {}
    return {
        "layers_2_4": len(layers),
        "eligible_2_4": sum(bool(x.eligible) for x in layers),
        "likely_2_4": sum(bool(x.likely) for x in layers),
        "sparse_2_4": sum(x.sparse for x in layers),
    }
