"""How far a network's outputs are from the original's."""

from __future__ import annotations

import math

import numpy as np

from onnxprune.repair.store import Array


class OutputError:
    """|candidate - original| / |original| over all float outputs of all batches.

    Of a network that has none, the share of the outputs' elements that differ. Infinite where a value of the candidate is not
    finite that was so in the original.
    """

    def __init__(self) -> None:
        self._energy = self._error = 0.0
        self._unequal = self._count = 0

    def add(self, want: Array, got: Array) -> None:
        if want.dtype.kind not in "fV" or want.shape != got.shape:
            self._unequal += int(np.count_nonzero(want != got)) if want.shape == got.shape else want.size
            self._count += want.size
            return
        a, b = want.astype(np.float64), got.astype(np.float64)
        fine = np.isfinite(a)
        self._energy += float(np.square(a[fine]).sum())
        self._error += float(np.square(a[fine] - b[fine]).sum()) if np.isfinite(b[fine]).all() else math.inf

    @property
    def value(self) -> float:
        if self._energy or self._error:
            return math.sqrt(self._error / self._energy) if self._energy else math.inf
        return self._unequal / self._count if self._count else 0.0
