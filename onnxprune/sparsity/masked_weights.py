"""Weights whose smallest entries are zero, masked while they are read: no more than a block of a tensor is in memory at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnxprune.graph.ahead import make_ahead
from onnxprune.graph.forms import Form
from onnxprune.graph.integers import pack, unpack
from onnxprune.graph.weights import DerivedWeight, Weight, dtype_of, flat_source, is_float, keep_memory
from onnxprune.machine import count_threads
from onnxprune.sparsity.halves import halve
from onnxprune.sparsity.patterns import NofM

Array = npt.NDArray[Any]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
BFLOAT16 = dtype_of(TensorProto.BFLOAT16)
HALF_INFINITY = 0x7C00  # the bits of a float16 that is infinite; those of NaN are more
WIDE = {1: np.int16, 2: np.int32, 4: np.int64, 8: np.int64}  # differences of integers of so many bytes
BLOCK_BYTES = 1 << 19  # what is masked at once: it stays in a core's cache
ADDED = 1024  # numbers that are summed up before the sums go on in double precision
MOST_THREADS = 4  # one thread writes what they make, and keeps up with no more
TWO_OF_FOUR = NofM(2, 4)


@dataclass(frozen=True)
class Numbers:
    """The decoding of a tensor's entries: numbers, or integers less a zero point, times a scale.

    `zero` and `scale` broadcast against the entries as they lie in the file; a scale that is the same within every group
    of weights that compete need not be given. Of fewer than 8 `bits`, several entries share a byte.
    """

    zero: Array | None = None
    scale: Array | None = None
    bits: int = 8

    def entries(self, x: Array) -> Array:
        """The entries of a tensor of the file, one by one: its last axis is longer where several share a byte."""
        return x if self.bits == 8 else unpack(x, self.bits).reshape(*x.shape[:-1], -1)

    def stored(self, entries: Array) -> Array:
        """The same as the file has them."""
        return entries if self.bits == 8 else pack(entries.reshape(-1, 8 // self.bits), self.bits)

    def sizes(self, x: Array) -> Array:
        """Something that grows with the magnitude: the bits without the sign for floats, which are in order."""
        if is_float(x.dtype):
            bits = UNSIGNED[x.dtype.itemsize]
            return np.asarray(x.view(bits) & bits(find_sign_bit(x.dtype) - 1))
        wide = WIDE[x.dtype.itemsize]
        away = np.abs(x.astype(wide) - self._offset(x).astype(wide))
        return np.asarray(away if self.scale is None else away * np.abs(self.scale))

    def magnitudes(self, x: Array) -> Array:
        """|w| of a tensor of the file, in float32 (float64 for doubles)."""
        return self.floats(self.sizes(self.entries(x)), x.dtype)

    def floats(self, sizes: Array, dtype: np.dtype[Any]) -> Array:
        """The magnitudes that the sizes of numbers of a type are."""
        if dtype == np.float32:
            return sizes.view(np.float32)
        if dtype == np.float16 and sizes.max(initial=0) < HALF_INFINITY:
            # The exponent's bias is 127, not 15. numpy's own conversion takes ten times as long.
            return (sizes.astype(np.uint32) << np.uint32(13)).view(np.float32) * np.float32(2.0**112)
        if dtype == BFLOAT16:
            return (sizes.astype(np.uint32) << np.uint32(16)).view(np.float32)
        numbers = sizes.view(dtype) if is_float(dtype) else sizes
        return numbers.astype(np.float64 if dtype == np.float64 else np.float32, copy=False)

    def there(self, x: Array) -> Array:
        """A mask of the nonzero numbers of a tensor of the file."""
        entries = self.entries(x)
        return np.asarray(entries != (0 if is_float(x.dtype) else self._offset(entries)))

    def cleared(self, x: Array, keep: Array) -> Array:
        """`x` with the number zero where `keep` is False."""
        if is_float(x.dtype):
            bits = x.view(UNSIGNED[x.dtype.itemsize])
            factors = keep.view(np.uint8).astype(bits.dtype)  # np.where takes ten times as long
            factors *= bits
            return factors.view(x.dtype)
        return np.where(keep, x, self._offset(x))

    def _offset(self, x: Array) -> Array:
        """The integers that stand for zero, in the type of `x`."""
        return np.asarray(0 if self.zero is None else self.zero).astype(x.dtype)


@cache
def find_sign_bit(dtype: np.dtype[Any]) -> int:
    """The bit of the sign of a float; ml_dtypes has a byte for each narrow one."""
    narrow = dtype.name[:5] == "float" and dtype.name[5:7] in ("4_", "6_")
    return 1 << (int(dtype.name[5]) if narrow else dtype.itemsize * 8) - 1


@dataclass
class Tally:
    """Counts of a layer: its weights, those not zero before and after, and their magnitudes."""

    weights: int = 0
    nonzero_before: int = 0
    nonzero: int = 0
    magnitude: float = 0.0
    kept_magnitude: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.weights + other.weights,
            self.nonzero_before + other.nonzero_before,
            self.nonzero + other.nonzero,
            self.magnitude + other.magnitude,
            self.kept_magnitude + other.kept_magnitude,
        )

    @property
    def share(self) -> float | None:
        """The share of the magnitude that stays; None of a layer that is zero, or not finite."""
        share = self.kept_magnitude / self.magnitude if self.magnitude else math.nan
        return share if math.isfinite(share) else None


class Selects(Protocol):
    """A choice of the remaining weights, as a pattern makes it."""

    @property
    def group(self) -> int:
        """The number of adjacent inputs that are decided together and apart from all others; 0 if the whole weight counts."""

    def keep(self, scores: Array) -> Array:
        """A mask of the remaining weights: bool [B, O, I, P]."""


class MaskedWeight(DerivedWeight):
    """`base` with zeros where a pattern says so; `tally` is of the last time that it was read.

    `pattern` decides from scores [B, O, I, P] of a part of the weight.
    """

    def __init__(self, base: Weight, form: Form, pattern: Selects, numbers: Numbers | None = None) -> None:
        self.base, self.form, self.pattern = base, form, pattern
        self.numbers = numbers or Numbers()
        self.data_type, self.shape = base.data_type, base.shape
        self.tally = Tally()

    def parts(self) -> Iterator[Array]:
        self.tally = Tally()
        source = flat_source(self.base)
        shared = 8 // self.numbers.bits
        keep_memory()

        def mask_block(at: int, form: Form) -> tuple[Array, Tally]:
            stop = at + math.prod(form.file_shape)
            entries = self.numbers.entries(source(at // shared, stop // shared))
            part, tally = self._masked(entries.reshape(form.file_shape), form)
            return self.numbers.stored(part), tally

        places = list(
            iterate_blocks(self.form, self.pattern.group if self._apart else 0, dtype_of(self.data_type).itemsize)
        )
        for part, tally in make_ahead(
            lambda place: mask_block(*place), places, min(count_threads(), MOST_THREADS, len(places))
        ):
            self.tally += tally
            yield part

    @property
    def _apart(self) -> bool:
        """Have all rows of the file the same zero point and scale?"""
        given = (p for p in (self.numbers.zero, self.numbers.scale) if p is not None)
        return all(p.size == 1 for p in given)

    def _masked(self, x: Array, form: Form) -> tuple[Array, Tally]:
        if self.pattern == TWO_OF_FOUR and form.shape[2] % 4 == 0 and is_float(x.dtype) and x.dtype.itemsize <= 2:
            return self._halved(x, form)  # wider floats fill the cache, and gain nothing
        sizes = self.numbers.sizes(x)
        size = self.numbers.floats(sizes, x.dtype)
        keep = form.back(self.pattern.keep(form.view(sizes if self.pattern.group else size)))
        before, magnitude = int(np.count_nonzero(sizes)), _sum(size)
        del sizes, size  # the next ones take their place in the cache
        left = self.numbers.cleared(x, keep)
        left_sizes = self.numbers.sizes(left)
        after = int(np.count_nonzero(left_sizes))
        return left, Tally(x.size, before, after, magnitude, _sum(self.numbers.floats(left_sizes, x.dtype)))

    def _halved(self, x: Array, form: Form) -> tuple[Array, Tally]:
        bits = form.view(x.view(UNSIGNED[x.dtype.itemsize]))
        left = np.empty_like(bits)  # in the same order in memory
        ranks = halve(bits, find_sign_bit(x.dtype), left)
        dense = np.count_nonzero(ranks[-1]) == ranks[-1].size  # so are the larger ones then
        counts = [row.size if dense else int(np.count_nonzero(row)) for row in ranks]
        sums = _sums(self.numbers.floats(ranks, x.dtype)).tolist()
        tally = Tally(x.size, sum(counts), sum(counts[:2]), sum(sums), sum(sums[:2]))
        return form.back(left).view(x.dtype), tally


def _sum(x: Array) -> float:
    return float(_sums(x.reshape(1, -1))[0])


def _sums(rows: Array) -> Array:
    """The sum of each row, in single precision over short pieces; numpy's einsum takes half as long as its sum."""
    whole = rows.shape[1] - rows.shape[1] % ADDED
    pieces = np.einsum("rpa->rp", rows[:, :whole].reshape(len(rows), -1, ADDED))
    return np.asarray(pieces.sum(axis=1, dtype=np.float64) + rows[:, whole:].sum(axis=1, dtype=np.float64))


def iterate_blocks(form: Form, group: int, itemsize: int) -> Iterator[tuple[int, Form]]:
    """Where parts of a tensor start, in elements, and their forms; one part where they cannot be taken apart."""
    step = form.step(group) if group else 0
    if not step:
        yield 0, form
        return
    extent, stride = form.outermost
    rows = max(1, BLOCK_BYTES // (itemsize * stride * step)) * step
    whole = form.rows(rows)
    for at in range(0, extent, rows):
        yield at * stride, whole if at + rows <= extent else form.rows(extent - at)
