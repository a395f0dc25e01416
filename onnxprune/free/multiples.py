"""Rows that are multiples of each other, found in time linear in their entries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from onnxprune.graph.weights import Array

NEAR = 3e-6  # between the angles of two rows that are worth a closer look
SAME = 1e-6  # of a number, within which another one counts as the same
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # of an entry, that a multiple of it may be off
FINEST = 2.0**-22


def number_rows(rows: Array) -> tuple[Array, Array]:
    """The factor of each row [n, k], 0 for a row of zeros, and a number that rows share which are multiples of each other.

    Two random projections of a row, [n, 2], have an angle that no factor changes. Rows of nearly the same angle are compared.
    """
    stored = rows.dtype
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    with np.errstate(all="ignore"):
        seen = (rows @ _directions(rows.shape[1]).astype(rows.dtype)).astype(np.float64)
    factors, numbers = np.ones(len(rows)), np.arange(len(rows))
    if _are_apart(seen):
        return factors, numbers
    rounding = ROUNDING.get(stored.name, FINEST)
    blank = np.flatnonzero(~seen.any(axis=1))
    blank = blank[~rows[blank].any(axis=1)]
    factors[blank] = 0.0
    some = np.flatnonzero((factors != 0) & np.isfinite(seen).all(axis=1))
    for cluster in _clusters(some, np.arctan2(seen[some, 1], seen[some, 0]) % np.pi):
        _compare(rows, cluster, factors, numbers, rounding)
    return factors, numbers


def _are_apart(seen: Array) -> bool:
    """Is there nothing to look at closely?"""
    if not seen.all():
        return False
    turn = np.sort(np.arctan2(seen[:, 1], seen[:, 0]) % np.pi)
    return bool((np.append(turn[1:], turn[0] + np.pi) - turn > NEAR).all())


@lru_cache(maxsize=64)
def _directions(size: int) -> Array:
    return np.random.default_rng(size).standard_normal((size, 2), np.float32)


def _clusters(rows: Array, angles: Array) -> list[Array]:
    """The rows in runs of nearly the same angle, those of more than one; 0 and a half turn are the same."""
    if len(rows) < 2:
        return []
    order = np.argsort(angles, kind="stable")
    turn = angles[order]
    far = np.append(np.diff(turn), turn[0] + np.pi - turn[-1]) > NEAR
    if far.all():
        return []
    start = int(np.flatnonzero(far)[-1]) + 1 if far.any() else 0
    order, far = np.roll(order, -start), np.roll(far, -start)
    parts = np.split(rows[order], np.flatnonzero(far[:-1]) + 1)
    return [np.sort(part) for part in parts if len(part) > 1]


def _compare(rows: Array, cluster: Array, factors: Array, numbers: Array, rounding: float) -> None:
    """Give the rows of a cluster that are multiples of another one its number, and their factor."""
    while len(cluster) > 1:
        first, rest = cluster[0], cluster[1:]
        base, others = rows[first].astype(np.float64), rows[rest].astype(np.float64)
        times = others @ base / (base @ base)
        off = np.abs(others - times[:, None] * base).max(axis=1)
        alike = off <= rounding * np.abs(others).max(axis=1)
        equal = (others == base).all(axis=1)
        numbers[rest[alike]] = first
        factors[rest[alike]] = np.where(equal, 1.0, times)[alike]
        cluster = rest[~alike]


def label_numbers(values: Array) -> Array:
    """The same label for numbers that are the same but for rounding."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    new = np.abs(np.diff(ranked)) > SAME * np.abs(ranked[1:])
    labels = np.empty(len(values), np.int64)
    labels[order] = np.concatenate([[0], np.cumsum(new)])
    return labels


def join_labels(columns: Sequence[Array]) -> Array:
    """One label for each combination of labels."""
    _, joined = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return np.asarray(joined).reshape(-1)
