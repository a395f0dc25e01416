"""2:4 of short floats in few passes over memory: a comparison of each number with the second largest of its four."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.sparsity.ranks import find_memory_order, mark_largest

Array = npt.NDArray[Any]

GROUP = 4
RARE = 1 / 16  # of the groups; where no more have a tie, only those are ranked number by number


def halve(bits: Array, sign: int, out: Array) -> Array:
    """Copy the two largest of every four inputs, and write zeros for the others; of equal ones the first stay.

    Args:
        bits: of floats w [B, O, I, P], as unsigned integers: without the sign they are in the order of magnitudes. 4 divides I.
        sign: the bit of the sign.
        out: what becomes of them, of that shape and type.

    Returns:
        The bits of the magnitudes [4, groups], of each group from the largest to the smallest.
    """
    order = find_memory_order(bits[:, :, ::GROUP])
    sources, results = ([x[:, :, i::GROUP].transpose(order) for i in range(GROUP)] for x in (bits, out))
    sizes = np.empty((GROUP, *sources[0].shape), bits.dtype)
    for source, size in zip(sources, sizes, strict=True):
        np.bitwise_and(source, bits.dtype.type(sign - 1), out=size)
    (a, c), (b, d) = np.maximum(sizes[::2], sizes[1::2]), np.minimum(sizes[::2], sizes[1::2])  # two pairs
    ranks = np.empty_like(sizes)
    first, second, third, fourth = ranks
    np.maximum(a, c, out=first)
    np.minimum(b, d, out=fourth)
    lesser, greater = np.minimum(a, c, out=a), np.maximum(b, d, out=b)  # of the winners, and of the losers
    np.maximum(lesser, greater, out=second)
    np.minimum(lesser, greater, out=third)
    keep = np.greater_equal(sizes, second)
    tied = np.equal(second, third)
    ties = int(np.count_nonzero(tied))
    if ties:
        _break_ties(sizes, keep, slice(None) if ties > RARE * tied.size else np.flatnonzero(tied))
    np.copyto(sizes, keep.view(np.uint8))  # np.where takes ten times as long
    for source, factors, result in zip(sources, sizes, results, strict=True):
        np.multiply(source, factors, out=result)
    return ranks.reshape(GROUP, -1)


def _break_ties(sizes: Array, keep: Array, groups: slice | Array) -> None:
    """Of numbers as large as the second largest, keep the first ones only, in some groups."""
    some = np.ascontiguousarray(sizes.reshape(GROUP, -1)[:, groups])
    kept = np.empty(some.shape, bool)
    mark_largest(list(some), 2, list(kept))
    keep.reshape(GROUP, -1)[:, groups] = kept
