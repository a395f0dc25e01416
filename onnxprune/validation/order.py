"""In which order a candidate has the original's channels, where no plan says so: seen from what both make of the same samples.

A permutation of channels changes no output, but every layer in between. Each channel of the candidate is the original's that it
is most alike; that is believed where it explains much more than the order of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from onnxprune.axes import Var
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis

LIKE = 0.95  # the mean correlation from which channels are taken to be in order
ENOUGH, GAIN = 0.5, 0.3  # another order is believed from so much more than there is by chance, and than in order
LEAST, MOST = 16, 4096  # numbers of each channel that are compared


class Orders:
    """The original's channels in the candidate's order, by variable: from a plan, or what was learned so far."""

    def __init__(self, a: Analysis, known: Mapping[Var, Array], learns: bool) -> None:
        self.layouts, self.known = a.coupling.layouts, dict(known)
        self.unknown = {v for g in a.groups for v in g.vars} if learns else set()

    def learn(self, tensor: str, original: Array, candidate: Array) -> bool:
        """Learn from a tensor of both, the original's in the known orders; was there another order?"""
        learned = len(self.known)
        if original.shape != candidate.shape:
            return False
        for at, axis in enumerate(self.layouts.get(tensor) or ()):
            for v in self.unknown.intersection(axis.leaves) if axis.size == original.shape[at] else ():
                x, y = (_channels(array, at, axis.owner(v), v.size) for array in (original, candidate))
                if x is None or y is None or x.shape[1] < LEAST:
                    continue
                self.unknown.discard(v)
                order = _match(x, y)
                if order is not None:
                    self.known[v] = order
        return len(self.known) > learned


def _channels(x: Array, axis: int, owner: Array, channels: int) -> Array | None:
    """The centered values of each channel [n, m], of length 1; None if channels own different numbers of positions."""
    positions = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    if (np.bincount(owner[owner >= 0], minlength=channels) * channels != len(positions)).any():
        return None
    rows = np.moveaxis(x, axis, 0)[positions].reshape(channels, -1)
    rows = np.nan_to_num(rows[:, :: -(-rows.shape[1] // MOST)].astype(np.float64), posinf=0.0, neginf=0.0)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny))


def _match(x: Array, y: Array) -> Array | None:
    """The rows of x that those of y are, each once; None where they are in order, or nobody knows."""
    in_order = _mean(x, y)
    if in_order > LIKE:
        return None
    alike = y @ x.T
    order = np.full(len(y), -1)
    for i in np.argsort(-alike.max(axis=1), kind="stable"):
        order[i] = alike[i].argmax()
        alike[:, order[i]] -= 4.0  # below all that is free
    by_chance = math.sqrt(2 * math.log(len(y)) / y.shape[1])  # the most that one of so many random rows is like another
    return order if _mean(x[order], y) > max(ENOUGH + by_chance, in_order + GAIN) else None


def _mean(x: Array, y: Array) -> float:
    """The mean correlation of rows; those that say nothing, since they never change, are left out."""
    live = x.any(axis=1) & y.any(axis=1)
    return float(np.einsum("nm,nm->n", x, y).sum() / max(1, live.sum()))
