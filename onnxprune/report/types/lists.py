"""Rows of the lists that commands print as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.report.types.base import Settings


@dataclass(frozen=True)
class SettingRow:
    """A setting of the commands that have it under this name."""

    setting: str
    value: str
    default: bool | int | float | str | list[str] | dict[str, float] | None
    commands: list[str]
    meaning: str


@dataclass(frozen=True)
class OperatorRow:
    """An operator that pruning follows, from opset `since` to `until` (None: to the newest)."""

    domain: str
    operator: str
    since: int
    until: int | None
    rule: str


@dataclass(frozen=True)
class PlannedJob:
    """A job that `batch` would run: the model as given and its short name, what is set, and where the output goes."""

    model: str
    name: str
    settings: Settings
    output: str


@dataclass(frozen=True)
class ResultRow:
    """A job in single numbers, what was not measured None; `left` and `ratio` are after / before, `speedup` before / after.

    `speedup_verdict` is faster, slower, same, or noisy; then there are no numbers beside it.
    """

    id: str
    model: str  # its short name
    path: str
    setting: str  # what sets the job apart from others of its model, in words
    settings: Settings
    status: str
    message: str
    seconds: float | None
    started: str | None
    output: str | None
    params_before: int | None
    params_after: int | None
    params_left: float | None
    macs_before: int | None
    macs_after: int | None
    macs_left: float | None
    bytes_before: int | None
    bytes_after: int | None
    bytes_left: float | None
    compared_on: str | None
    samples: int | None
    relative_l2: float | None
    top1_agreement: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    latency_before: float | None  # seconds
    latency_after: float | None
    latency_ratio: float | None
    layers_2_4: (
        int | None
    )  # layers with weights, and how many of them can be 2:4, are likely to be faster so, and are so
    eligible_2_4: int | None
    likely_2_4: int | None
    sparse_2_4: int | None
    speedup: float | None
    speedup_low: float | None  # the interval
    speedup_high: float | None
    speedup_verdict: str | None
