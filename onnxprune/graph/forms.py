"""Where the numbers of a constant stand in the product that reads it.

A product sums over inputs, for each of its outputs, at each kernel position: its weight is w [B, O, I, P] (batch, outputs,
inputs, kernel positions), whatever the axes are called: `Conv [O, I, kh, kw]`, `MatMul [*b, k, n]`, `Gemm` with either operand
transposed. Between the file and the product there may be nodes that move numbers about (Transpose, Reshape). An axis is kept as a
row of factors (extent, stride in the file), outermost first, so that Transpose permutes and Reshape regroups them, and no number
is touched to learn where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Factor = tuple[int, int]  # extent, stride in elements
Axis = tuple[Factor, ...]  # outermost first; none for an axis of size 1


class Misfit(Exception):
    """Why an axis cannot be followed, for the report."""


def start(shape: Sequence[int]) -> list[Axis]:
    """The axes of a tensor as it lies in the file."""
    strides = [math.prod(shape[a + 1 :]) for a in range(len(shape))]
    return [((n, s),) if n > 1 else () for n, s in zip(shape, strides, strict=True)]


def size(axis: Axis) -> int:
    return math.prod(n for n, _ in axis)


def regroup(axes: Iterable[Axis], shape: Sequence[int]) -> list[Axis]:
    """The axes after a Reshape to `shape`. Raises Misfit where its cuts go through a factor."""
    left = [f for axis in axes for f in axis]
    out: list[Axis] = []
    for n in shape:
        factors: list[Factor] = []
        while n > 1:
            if not left:
                raise Misfit(f"a Reshape to {list(shape)} has another number of elements")
            extent, stride = left.pop(0)
            part = math.gcd(extent, n)
            if part not in (extent, n):
                raise Misfit(f"a Reshape to {list(shape)} cuts through its axes")
            factors.append((part, stride * (extent // part)))
            n //= part
            if extent > part:
                left.insert(0, (extent // part, stride))
        out.append(tuple(factors))
    return out


@dataclass(frozen=True)
class Form:
    """A constant as w [B, O, I, P]: the factors of each of the four, outermost first."""

    parts: tuple[Axis, Axis, Axis, Axis]
    file_shape: tuple[int, ...]

    @staticmethod
    def of(axes: Sequence[Axis], inputs: Sequence[int], outputs: Sequence[int], shape: Sequence[int]) -> Form:
        """From the roles of the axes; those that have none are kernel positions behind the others, batches before."""
        named = [*inputs, *outputs]
        rest = [a for a in range(len(axes)) if a not in named]
        order = ([a for a in rest if a < max(named)], outputs, inputs, [a for a in rest if a > max(named)])
        b, o, i, p = (tuple(f for a in some for f in axes[a]) for some in order)
        return Form((b, o, i, p), tuple(shape))

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        b, o, i, p = map(size, self.parts)
        return b, o, i, p

    @cached_property
    def _factors(self) -> list[Factor]:
        return [f for part in self.parts for f in part]

    @cached_property
    def _order(self) -> list[int]:
        """The order of the product's factors in the file."""
        strides = [s for _, s in self._factors]
        return sorted(range(len(strides)), key=lambda i: -strides[i])

    def view(self, array: Array) -> Array:
        """w [B, O, I, P] of an array that has the file's shape; a view where that can be."""
        order, extents = self._order, [n for n, _ in self._factors]
        split = array.reshape([extents[i] for i in order])
        return split.transpose(np.argsort(order)).reshape(self.shape)

    def back(self, w: Array) -> Array:
        """An array of the file's shape from w [B, O, I, P]."""
        split = w.reshape([n for n, _ in self._factors])
        return split.transpose(self._order).reshape(self.file_shape)

    def step(self, group: int) -> int:
        """How many rows of the file's outermost factor may be taken apart, if `group` inputs in a row belong together; 0: none."""
        order, factors = self._order, self._factors
        if not order:
            return 0
        first, inputs = factors[order[0]], self.parts[2]
        if len(inputs) > 1 and inputs[-1][0] % group:  # groups go across the rows of the last factor
            return 0 if first in inputs else 1
        return group if inputs and inputs[-1] == first else 1

    def rows(self, count: int) -> Form:
        """The form of so many rows of the file's outermost factor."""
        first = self._factors[self._order[0]]
        b, o, i, p = (tuple((count, f[1]) if f == first else f for f in part) for part in self.parts)
        return replace(self, parts=(b, o, i, p), file_shape=(count * first[1],))

    @property
    def outermost(self) -> Factor:
        """The extent and the stride of the file's outermost factor."""
        return self._factors[self._order[0]]
