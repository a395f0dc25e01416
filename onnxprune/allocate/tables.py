"""Error tables: each group pruned alone at several ratios, and how far the outputs moved.

A measurement takes a session and a pass over the data, so they can be kept in a file, one line each: work that was
interrupted goes on where it stopped. What was measured is known by its contents (model, data, kept channels).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocate.error import OutputComparer, hash_model
from onnxprune.allocate.kept import append_entries, read_entries
from onnxprune.allocate.search import list_allowed
from onnxprune.allocate.selection import Candidates
from onnxprune.calibration.statistics import Statistics
from onnxprune.graph.weights import Array
from onnxprune.groups import Group
from onnxprune.measure import OutputShift
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.repair import cut

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
LEAST_TRIES, MOST_COUNTS = 24, 6  # measurements for the heights of all groups, and counts of each group
SAMPLES_PER_TRY = 16  # of the data, for which there is one more measurement
LEAST = 1e-12  # an error
HUGE = 1e6  # in place of an infinite error
STEEP = 8.0  # the same where nothing was measured any more: what is unknown is not for free
SQUARE = 2.0  # what an error grows with, where nothing else is known: twice the change, four times the error


@dataclass(frozen=True)
class Table:
    """The measurements of one group: kept `counts` (falling), and the shift of the outputs for each."""

    group: str
    kind: str
    size: int
    counts: Sequence[int]
    moved: Sequence[OutputShift]

    def curve(self, base: float = 0.0) -> Array:
        """The error that each count adds to `base`, [size + 1]; 0 for all channels, never less for fewer (none: infinite).

        Between measurements the error is a power of the number of channels removed.
        """
        gone = np.array([self.size - n for n in self.counts], np.float64)
        added = np.array([min(max(m.error - base, 0.0), HUGE) for m in self.moved])
        added = np.maximum.accumulate(np.maximum(added, LEAST))
        out = np.zeros(self.size + 1)
        x = np.arange(1, self.size, dtype=np.float64)
        out[1:-1] = np.exp(_log_line(np.log(x), np.log(gone), np.log(added)))[::-1] if len(gone) else 0.0
        out[0] = math.inf
        return out

    def at(self, count: int) -> OutputShift | None:
        """The measured shift of the outputs with `count` channels; None if that count was not measured."""
        return next((m for n, m in zip(self.counts, self.moved, strict=True) if n == count), None)


def _log_line(x: Array, at: Array, values: Array) -> Array:
    """Linear between the points; before the first with the slope of a square, after the last steeply."""
    y = np.interp(x, at, values)
    y = np.where(x < at[0], values[0] + SQUARE * (x - at[0]), y)
    slope = max((values[-1] - values[-2]) / (at[-1] - at[-2]), STEEP) if len(at) > 1 else STEEP
    line: Array = np.where(x > at[-1], values[-1] + slope * (x - at[-1]), y)
    return line


@dataclass(frozen=True)
class Heights:
    """The factor from the cumulative scores of a group (see `Criterion`) to errors.

    Factors were measured at some shares of the channels removed, and are powers of the share in between.
    """

    shares: Array
    factors: Array

    @staticmethod
    def of(scores: Array, table: Table) -> Heights:
        """Those of a table, where the group had these scores."""
        gone = np.array([table.size - n for n in table.counts], np.int64)
        errors = np.nan_to_num([min(m.error, HUGE) for m in table.moved], nan=HUGE)
        return Heights(gone / table.size, np.maximum(errors, LEAST) / np.maximum(np.sort(scores)[gone - 1], LEAST))

    def curve(self, scores: Array) -> Array:
        """The error of each count, [size + 1], never less for fewer channels."""
        out = np.zeros(len(scores) + 1)
        out[0] = math.inf
        gone = np.arange(1, len(scores))
        if len(self.shares) and len(gone):
            factors = np.exp(np.interp(np.log(gone / len(scores)), np.log(self.shares), np.log(self.factors)))
            errors = np.maximum(factors * np.sort(scores)[:-1], LEAST)
            out[1:-1] = np.maximum.accumulate(errors)[::-1]
        return out


def choose_ratios(groups: int, samples: int) -> Sequence[float]:
    """The shares of a group's channels to measure the heights at, where there are so many groups and samples."""
    tries = max(samples // SAMPLES_PER_TRY, LEAST_TRIES)
    n = min(max(tries // max(groups, 1), 1), MOST_COUNTS)
    return [(i + 1) / (n + 1) for i in range(n)]


def sum_errors(errors: Array) -> Array:
    """The error of each count, [size + 1], where each channel adds its own; `errors` come in the order in which channels go."""
    curve: Array = np.concatenate([[0.0], np.maximum(np.cumsum(errors), LEAST)])[::-1].copy()
    curve[0] = math.inf
    return curve


class Cache:
    """Measurements in a file of JSON lines, each written as soon as it is made; without a path, in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[str, OutputShift] = {}
        read_entries(path, "cache", "measurements", self._take)

    def _take(self, entry: Any) -> None:
        known = OutputShift(float(entry["error"]), entry["relative_l2"], entry["agreement"], entry["rows"])
        if not all(x is None or isinstance(x, int | float) for x in (known.relative_l2, known.agreement, known.rows)):
            raise TypeError
        self.known[entry["key"]] = known

    def get(self, key: str, measure: Callable[[], OutputShift]) -> OutputShift:
        """The stored shift of a key; measured and stored if it is new."""
        if key not in self.known:
            moved = self.known[key] = measure()
            append_entries(self.path, "cache", [{"key": key, **asdict(moved)}])
        return self.known[key]


def choose_levels(c: Candidates, g: Group, ratios: Sequence[float]) -> list[int]:
    """The counts to measure a group at, falling: allowed ones, each once, fewer than all; at least one where there is one."""
    asked = np.array([g.size - max(1, round(g.size * r)) for r in ratios], np.int64)
    counts = {*c.settled(asked, c.analysis.at_of[g.name]).tolist()} - {g.size}
    return sorted(counts, reverse=True) or sorted({n for n in list_allowed(c, g) if n < g.size})[-1:]


def measure(
    c: Candidates,
    comparer: OutputComparer,
    ratios: Sequence[float] = RATIOS,
    cache: Cache | None = None,
    statistics: Statistics | None = None,
    progress: Callable[[int, int], None] | None = None,
    groups: Sequence[Group] | None = None,
) -> dict[str, Table]:
    """The tables of all candidates, or of some `groups` of them, by group.

    Where there are `statistics`, the layers that read a group are fitted after its cut, as far as these tell.
    """
    cache = cache or Cache()
    model = compute_fingerprint(c.analysis.model)
    fitted = f"{statistics.samples} of {statistics.source}" if statistics else ""
    about = f"{fitted}/{hash_model(c.analysis)}/{comparer.key()}"
    asked = [(g, choose_levels(c, g, ratios)) for g in (c.groups if groups is None else groups)]
    done, of = 0, sum(len(counts) for _, counts in asked)
    tables = {}
    for g, counts in asked:
        moved = []
        for n in counts:
            plan = Plan(model, {g.name: Choice(g.size, c.keep(g, n))})
            key = hashlib.sha256(f"{about}/{g.name}/{plan.groups[g.name].keep}".encode()).hexdigest()[:32]
            moved.append(cache.get(key, lambda plan=plan: comparer.of(cut(c.analysis, plan, statistics or {}))))  # type: ignore[misc]
            done += 1
            if progress:
                progress(done, of)
        tables[g.name] = Table(g.name, g.kind, g.size, counts, moved)
    return tables
