"""A group's weights as slices: one row a channel, for criteria that know nothing of layouts or operators."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxprune.criteria import Rows, Signal, Slice, resolve, score, score_signals
from onnxprune.criteria.structure import count_distinct
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis, Group, Member
from onnxprune.signals import (
    READ,
    StatisticKey,
    choose_taps,
    find_channel_order,
    list_statistics,
    name_sample_count,
    name_statistics,
    sort_by_channel,
    split_statistic,
)


def score_group(
    a: Analysis,
    group: Group,
    criterion: str,
    reduce: str | None,
    seed: int,
    statistics: Mapping[StatisticKey, np.ndarray] | None = None,
) -> np.ndarray:
    """The importance of each channel of a group, float64 [n]; higher stays longer.

    A criterion of activations takes the `statistics` of `list_needed_statistics`; where the group's activations cannot be
    watched, its fallback scores the weights. Raises OnnxPruneError where there are no statistics at all.
    """
    c, _ = resolve(criterion)
    if c.statistics:
        if choose_taps(a, group, c.statistics):
            if statistics is None:
                why = f"criterion '{criterion}' watches activations; give calibration data, as in --calib FILE"
                raise OnnxPruneError(why)
            return score_signals(make_signals(a, group, c.statistics, statistics), criterion, reduce=reduce)
        criterion, reduce = c.fallback or "l2", None
    mixed = zlib.crc32(f"{seed}/{group.name}".encode())
    return score(make_slices(a, group), criterion, reduce=reduce, seed=mixed)


def count_distinct_channels(a: Analysis, group: Group) -> float:
    """How many of a group's channels its producers make distinct, from 1 to all: the rest are near another one."""
    producers = [s.array for s in make_slices(a, group) if s.role == "out"]
    return count_distinct(Rows(tuple(producers))) if producers else float(group.size)


def is_cumulative(a: Analysis, group: Group, criterion: str) -> bool:
    """Is a group's score of a channel the error of removing it together with all channels that score less?"""
    c, _ = resolve(criterion)
    return c.cumulative and bool(choose_taps(a, group, c.statistics))


def list_needed_statistics(a: Analysis, groups: Iterable[Group], criterion: str) -> list[StatisticKey]:
    """What has to be gathered to score the groups: nothing for a criterion of weights."""
    c, _ = resolve(criterion)
    return list_statistics(a, groups, c.statistics)


def make_signals(
    a: Analysis, group: Group, names: Sequence[str], statistics: Mapping[StatisticKey, np.ndarray]
) -> list[Signal]:
    """The group's activations, with the statistics `names` by channel, and the weights that read them.

    Signals of one activation share its arrays.
    """
    out, known = [], dict[StatisticKey, np.ndarray]()
    for tap in choose_taps(a, group, names):
        wanted = name_statistics(a, tap, names)
        for name, want in wanted.items():
            if want not in known:
                known[want] = split_statistic(group, tap, name, statistics[want])
        values = {n: known[w] for n, w in wanted.items()}
        samples = [int(statistics[name_sample_count(w)]) for w in wanted.values() if name_sample_count(w) in statistics]
        read = tap.role == READ and a.coupling.has_parameters(tap.member.tensor)
        weights = _rows(a, group, tap.member, True) if read else np.empty((group.size, 0), np.float32)
        out.append(Signal(tap.tensor, tap.role, values, weights, min(samples, default=0)))
    return out


def make_slices(a: Analysis, group: Group) -> list[Slice]:
    """Each member as [n, k] float rows; the first is the one that the group is named after."""
    out: list[Slice] = []
    seen: set[tuple[str, int, str]] = set()
    for m in sorted(group.members, key=lambda m: m.role != "out"):
        if (m.tensor, m.axis, m.role) in seen or not a.coupling.has_parameters(m.tensor):
            continue
        seen.add((m.tensor, m.axis, m.role))
        out.append(Slice(m.tensor, m.role, _rows(a, group, m)))
    return out


def _rows(a: Analysis, group: Group, m: Member, outputs_last: bool = False) -> np.ndarray:
    """A member's entries, channel by channel, [n, k]; of a convolution's weights kernel positions before outputs, if asked."""
    array: np.ndarray = np.moveaxis(_float(a, m.tensor), m.axis, 0)
    if outputs_last and array.ndim > 2:
        array = np.moveaxis(array, 1, -1)
    order = find_channel_order(group, m.dim)
    if np.array_equal(order, np.arange(group.size)):
        return array.reshape(group.size, -1)
    owned: np.ndarray = array[sort_by_channel(order)]
    return owned.reshape(group.size, -1)


def _float(a: Analysis, name: str) -> np.ndarray:
    """The weight as float32 or float64; integers as the numbers that their rule says they stand for."""
    array, weights = a.coupling.weights[name].array(), a.coupling.weights
    if array.dtype in (np.float32, np.float64):
        return array
    q = a.coupling.integers.get(name)
    if q is None or not array.ndim:
        return array.astype(np.float32)
    scale = weights[q.scale].array() if q.scale else np.ones((), np.float32)
    return q.numbers(array, scale, weights[q.zero].array() if q.zero else None)


__all__ = [
    "count_distinct_channels",
    "is_cumulative",
    "list_needed_statistics",
    "score_group",
    "make_signals",
    "make_slices",
]
