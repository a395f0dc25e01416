"""A group's weights as slices: one row a channel, for criteria that know nothing of layouts or operators."""

from __future__ import annotations

import zlib

import numpy as np

from onnxprune.criteria import Slice, score
from onnxprune.groups import PARAM_TYPES, Analysis, Group, Member
from onnxprune.signals import by_channel, channel_order


def score_group(a: Analysis, group: Group, criterion: str, reduce: str | None, seed: int) -> np.ndarray:
    """The importance of each channel of a group, float64 [n]; higher stays longer."""
    mixed = zlib.crc32(f"{seed}/{group.name}".encode())
    return score(slices(a, group), criterion, reduce=reduce, seed=mixed)


def slices(a: Analysis, group: Group) -> list[Slice]:
    """Each member as [n, k] float rows; the first is the one that the group is named after."""
    out: list[Slice] = []
    seen: set[tuple[str, int, str]] = set()
    for m in sorted(group.members, key=lambda m: m.role != "out"):
        if (m.tensor, m.axis, m.role) in seen or a.coupling.weights[m.tensor].data_type not in PARAM_TYPES:
            continue
        seen.add((m.tensor, m.axis, m.role))
        out.append(Slice(m.tensor, m.role, _rows(a, group, m)))
    return out


def _rows(a: Analysis, group: Group, m: Member) -> np.ndarray:
    array: np.ndarray = np.moveaxis(_float(a, m.tensor), m.axis, 0)
    order = channel_order(group, m.dim)
    if np.array_equal(order, np.arange(group.size)):
        return array.reshape(group.size, -1)
    owned: np.ndarray = array[by_channel(order)]
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


__all__ = ["score_group", "slices"]
