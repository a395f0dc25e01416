"""Which of the original's channels a candidate's are: those that its own move with, on the same samples."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.array_store import Array

ALIKE = 0.5  # the mean correlation from which on channels are taken to be known
CLEARLY = 0.1  # by so much another order has to be more alike than the original's, which tools seldom change
ENOUGH_ROWS = 1 << 13


def match_channels(outputs: Array, wanted: Array) -> Array | None:
    """For each channel that a candidate makes one of the original's, no two the same; None where that cannot be told.

    made [n, c], wanted [n, C]. Channels keep their order unless another one is clearly better; so as many are the same ones.
    """
    count, of = outputs.shape[1], wanted.shape[1]
    if count > of:
        return None
    alike = correlate(outputs, wanted)
    assignments = (assign_in_order(alike), assign(alike))
    ordered, free = (float(alike[np.arange(count), columns].mean()) for columns in assignments)
    if max(ordered, free) < ALIKE:
        return np.arange(count) if count == of else None
    return assignments[1] if free > ordered + CLEARLY else assignments[0]


def correlate(x: Array, y: Array) -> Array:
    """The correlation of each column of x [n, c] with each of y [n, C]; 0 for one that never changes."""
    step = -(-len(x) // ENOUGH_ROWS)
    unit = []
    for columns in (x[::step], y[::step]):
        centered = columns - columns.mean(axis=0, dtype=np.float64)
        norms = np.linalg.norm(centered, axis=0)
        unit.append(centered / np.where(norms > 0, norms, 1.0))
    return np.asarray(unit[0].T @ unit[1])


def assign(alike: Array) -> Array:
    """For each row a column of its own, the pairs that are most alike first; there are at least as many columns as rows."""
    left = alike.astype(np.float64)
    column_of = np.full(len(left), -1)
    while (column_of < 0).any():
        column, row = left.argmax(axis=1), left.argmax(axis=0)
        mutual = np.flatnonzero((row[column] == np.arange(len(left))) & (column_of < 0))
        column_of[mutual] = column[mutual]
        left[mutual] = -np.inf
        left[:, column[mutual]] = -np.inf
    return column_of


def assign_in_order(alike: Array) -> Array:
    """For each row a column further right than that of the row before, such that they are most alike in sum."""
    rows, columns = alike.shape
    best = np.full((rows + 1, columns + 1), -np.inf)  # of the first rows in the first columns
    best[0] = 0
    for row in range(rows):
        best[row + 1, 1:] = np.maximum.accumulate(best[row, :-1] + alike[row])
    column_of = np.empty(rows, np.int64)
    end = columns
    for row in range(rows, 0, -1):
        end = int(np.argmax(best[row, : end + 1])) - 1  # the first of the best ends where the row stands
        column_of[row - 1] = end
    return column_of
