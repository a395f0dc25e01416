"""Masks of the largest numbers of groups, for many groups at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RUN = 256  # numbers side by side in memory from which numpy is fast on them where they lie


def mark_largest(numbers: Sequence[Array], n: int, out: Sequence[Array]) -> None:
    """Set `out[i]` where number i of a group is one of the n largest; of equal ones the first count.

    Args:
        numbers: number i of every group, all of one shape and with the same strides; at most 256.
        n: how many are marked of each group.
        out: a bool array for each number, of that shape.
    """
    order = find_memory_order(numbers[0])
    numbers = [_side_by_side(x.transpose(order)) for x in numbers]
    width = len(numbers)
    beaten = [np.full(x.shape, width - 1 - i, np.uint8) for i, x in enumerate(numbers)]  # by all that come later
    wins = np.empty(numbers[0].shape, bool)
    for i in range(width):
        for j in range(i + 1, width):
            np.greater_equal(numbers[i], numbers[j], out=wins)
            beaten[j] += wins.view(np.uint8)
            beaten[i] -= wins.view(np.uint8)
    for i in range(width):
        np.less(beaten[i], n, out=out[i].transpose(order))


def find_memory_order(x: Array) -> list[int]:
    """The axes as they lie in memory, outermost first, and those of size 1 before them."""
    return sorted(range(x.ndim), key=lambda axis: (x.shape[axis] > 1, -x.strides[axis]))


def _side_by_side(x: Array) -> Array:
    """A copy where the numbers lie in short rows, which costs less than a few operations on those."""
    long = x.shape[-1] >= RUN and x.strides[-1] == x.itemsize
    return x if long else np.ascontiguousarray(x)
