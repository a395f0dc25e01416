"""2:4 of floats in few passes over memory: a comparison of each number with the second largest of its four."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.sparsity.ranks import mark_largest, memory_order

Array = npt.NDArray[Any]

GROUP = 4
RARE = 1 / 16  # of the groups; where no more have a tie, only those are ranked number by number


def halve(bits: Array, sign: int, out: Array) -> tuple[Array, Array, Array, Array]:
    """Copy the two largest of every four inputs, and write zeros for the others; of equal ones the first stay.

    Args:
        bits: of floats w [B, O, I, P], as unsigned integers: without the sign they are in the order of magnitudes. 4 divides I.
        sign: the bit of the sign.
        out: what becomes of them, of that shape and type.

    Returns:
        The bits of the magnitudes of each group, from the largest to the smallest.
    """
    order = memory_order(bits[:, :, ::GROUP])
    sources, results = ([x[:, :, i::GROUP].transpose(order) for i in range(GROUP)] for x in (bits, out))
    sizes = [np.bitwise_and(x, bits.dtype.type(sign - 1)) for x in sources]
    a, b, c, d = sizes
    # Of two pairs, the second and the third largest are the lesser winner and the greater loser, in this order or the other.
    first, fourth = np.maximum(a, b), np.minimum(a, b)
    winner, loser = np.maximum(c, d), np.minimum(c, d)
    middle, other = np.minimum(first, winner), np.maximum(fourth, loser)
    np.maximum(first, winner, out=first)
    np.minimum(fourth, loser, out=fourth)
    second, third = np.maximum(middle, other, out=winner), np.minimum(middle, other, out=loser)
    tied = np.equal(second, third)
    ties = int(np.count_nonzero(tied))
    keep, factors = np.empty(a.shape, bool), middle
    for source, size, result in zip(sources, sizes, results, strict=True):
        np.greater_equal(size, second, out=keep)
        np.copyto(factors, keep.view(np.uint8))
        np.multiply(source, factors, out=result)
    if ties:
        _break_ties(sources, sizes, results, slice(None) if ties > RARE * tied.size else np.flatnonzero(tied))
    return first, second, third, fourth


def _break_ties(sources: list[Array], sizes: list[Array], results: list[Array], groups: slice | Array) -> None:
    """Of numbers as large as the second largest, leave the first ones only, in some groups."""
    numbers = [x.reshape(-1)[groups] for x in sizes]
    keep = [np.empty(x.shape, bool) for x in numbers]
    mark_largest(numbers, 2, keep)
    if isinstance(groups, slice):
        for source, kept, result in zip(sources, keep, results, strict=True):
            np.multiply(source, kept.reshape(source.shape), out=result)
        return
    places = np.unravel_index(groups, sources[0].shape)
    for source, kept, result in zip(sources, keep, results, strict=True):
        result[places] = source[places] * kept
