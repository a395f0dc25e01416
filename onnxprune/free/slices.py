"""The values of each channel in terms of others: `factor * base[number] + shift`.

A channel's slice of a tensor is all that belongs to it there. Two channels of one number have multiples of the same slice, but for
a shift; one whose factor is 0 holds a constant. What the bases are nobody needs to know: an operator that treats all channels
alike makes the same of the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.free.multiples import join_labels, label_numbers, number_rows
from onnxprune.graph.weights import Array
from onnxprune.ops.records import Passes

GONE = -1  # the label of a channel that a consumer does without


@dataclass(frozen=True)
class Slices:
    """The slices of n channels, float64 [n], int64 [n], float64 [n]."""

    factors: Array
    numbers: Array
    shifts: Array

    @staticmethod
    def unknown(size: int) -> Slices:
        """Nothing is known: each has a slice of its own."""
        return Slices(np.ones(size), np.arange(size), np.zeros(size))

    @staticmethod
    def shared(size: int) -> Slices:
        """All have the same."""
        return Slices(np.ones(size), np.zeros(size, np.int64), np.zeros(size))

    @staticmethod
    def of_rows(rows: Array) -> Slices:
        """The slices [n, k] of a constant."""
        uniform = (rows == rows[:, :1]).all(axis=1)
        if uniform.all():
            return Slices(np.zeros(len(rows)), np.zeros(len(rows), np.int64), rows[:, 0].astype(np.float64))
        factors, numbers = number_rows(rows)
        return Slices(np.where(uniform, 0.0, factors), numbers, np.where(uniform, rows[:, 0].astype(np.float64), 0.0))

    @cached_property
    def constant(self) -> Array:
        """Which channels hold a constant?"""
        return np.asarray(self.factors == 0)

    @cached_property
    def zero(self) -> Array:
        """Which channels hold zeros?"""
        return np.asarray(self.constant & (self.shifts == 0))

    @cached_property
    def is_unknown(self) -> bool:
        """Is each channel's slice one of its own?"""
        return bool(self.factors.all()) and len(set(self.numbers.tolist())) == len(self.numbers)

    def line(self, scale: Array, shift: Array) -> Slices:
        """Those of scale * x + shift, [n] each."""
        with np.errstate(all="ignore"):
            return Slices(self.factors * scale, self.numbers, self.shifts * scale + shift)._finite()

    def with_constants(self, where: Array, values: Array) -> Slices:
        """The same with constants in some channels."""
        factors, shifts = self.factors.copy(), self.shifts.copy()
        factors[where], shifts[where] = 0.0, values
        return Slices(factors, self.numbers, shifts)._finite()

    def _finite(self) -> Slices:
        """The same, with slices of their own where something is infinite or not a number."""
        bad = ~(np.isfinite(self.factors) & np.isfinite(self.shifts))
        if not bad.any():
            return self
        own = self.numbers.max(initial=0) + 1 + np.arange(len(bad))
        return Slices(
            np.where(bad, 1.0, self.factors), np.where(bad, own, self.numbers), np.where(bad, 0.0, self.shifts)
        )

    def labels(self, shifts: bool) -> Array:
        """A label that channels share of which a consumer can take one for the other; GONE where it needs none.

        `shifts`: the consumer's bias takes what does not depend on its inputs. Else only multiples can stand for each other.
        """
        if shifts:
            return np.where(self.constant, GONE, self.numbers)
        rest = np.divide(self.shifts, self.factors, out=np.zeros(len(self.shifts)), where=~self.constant)
        labels = join_labels([np.where(self.constant, GONE, self.numbers), label_numbers(rest)])
        return np.where(self.zero, GONE, labels)

    @property
    def sizes(self) -> Array:
        """The difference between multiples of each other: the factor, or for constants the constant itself."""
        return np.where(self.constant, self.shifts, self.factors)


def combine(operands: Sequence[Slices], passes: Passes) -> Slices:
    """The output slices of an operator that treats all channels alike and separately."""
    shift = operands[0].shifts if Passes.SHIFT in passes else np.zeros(len(operands[0].shifts))
    shifts = [o.shifts - shift for o in operands]
    sizes = np.ones(len(shift))
    if Passes.POSITIVE in passes:
        for rest in reversed(shifts):
            sizes = np.where(rest != 0, rest, sizes)
        for o in reversed(operands):
            sizes = np.where(o.constant, sizes, o.factors)
        sizes = sizes if Passes.NEGATIVE in passes else np.abs(sizes)
    columns = []
    for o, rest in zip(operands, shifts, strict=True):
        columns += [
            np.where(o.constant, GONE, o.numbers),
            label_numbers(o.factors / sizes),
            label_numbers(rest / sizes),
        ]
    numbers = join_labels(columns)
    blank = np.all([o.constant & (rest == 0) for o, rest in zip(operands, shifts, strict=True)], axis=0)
    if Passes.POSITIVE in passes:
        sizes = np.where(blank, 0.0, sizes)
    return Slices(sizes, numbers, shift)


def add(operands: Sequence[Slices]) -> Slices:
    """The sum: what is constant is no part of the base."""
    shifts = np.sum([o.shifts for o in operands], axis=0)
    bases = [Slices(o.factors, o.numbers, np.zeros(len(shifts))) for o in operands]
    base = combine(bases, Passes.LINEAR)
    return Slices(base.factors, base.numbers, shifts)


def multiply(operands: Sequence[Slices]) -> Slices:
    """A product, or what else is linear in each of its operands: zero where one of them is."""
    sizes = np.prod([o.sizes for o in operands], axis=0)
    columns = []
    for o in operands:
        rest = np.divide(o.shifts, o.sizes, out=np.zeros(len(sizes)), where=o.sizes != 0)
        columns += [np.where(o.constant, GONE, o.numbers), label_numbers(rest)]
    return Slices(sizes, join_labels(columns), np.zeros(len(sizes)))._finite()
