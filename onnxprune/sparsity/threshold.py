"""The value below which a fraction of many numbers lie, without having them all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HALF = 16


def find_threshold(parts: Callable[[], Iterator[Array]], fraction: float) -> float:
    """The largest value such that at most `fraction` of all numbers are less than or equal to it; -1 where there is none.

    The numbers are float32 and not negative, so their bits are in order: one pass counts the upper halves of the bits,
    another one the lower halves within the upper half that decides. `parts` gives them anew for each pass.
    """
    upper = np.zeros(1 << HALF, np.int64)
    for part in parts():
        upper += np.bincount(_bits(part) >> HALF, minlength=1 << HALF)
    room = int(fraction * upper.sum())
    below = np.cumsum(upper)
    high = int(np.searchsorted(below, room, side="right"))  # the first upper half that does not fit whole
    if high == len(upper):
        return float(np.inf)
    lower = np.zeros(1 << HALF, np.int64)
    for part in parts():
        bits = _bits(part)
        lower += np.bincount(bits[bits >> HALF == high] & 0xFFFF, minlength=1 << HALF)
    before = int(below[high] - upper[high])
    low = int(np.searchsorted(np.cumsum(lower), room - before, side="right")) - 1
    value = (high << HALF) + low  # low may be -1: then the last number of the half before
    return float(np.array([value], np.uint32).view(np.float32)[0]) if value >= 0 else -1.0


def _bits(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.int64)
