"""The distance of a candidate's outputs from the reference's: formulas over arrays, in float64.

A value that does not exist or is not a finite number is None.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array, is_float
from onnxprune.report.types import ErrorNumbers

BLOCK = 1 << 16  # elements that are widened to float64 at a time; larger arrays would be new from the system each time


class ErrorSums:
    """The sums behind every error of arrays, gathered batch after batch in float64; everything that measures one uses these.

    What is no finite number on either side is left out of all sums, and counted: a model that starts to overflow shows up in
    `nonfinite_candidate`, not as an average. One that has such numbers where the reference has none is `broken`: its `value` is
    infinite. Where the shapes differ, as of what the data select, both are laid into the smallest shape that holds both:
    zeros stand for floats that one does not have, and other elements of one alone are unequal.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.nonfinite_reference = 0
        self.nonfinite_candidate = 0
        self.broken = False
        self._rr = self._cc = self._rc = self._ee = 0.0
        self._max_abs = 0.0
        self._unequal = self._elements = 0  # of what is no float

    def add(self, reference: Array, candidate: Array) -> None:
        """Take in one batch."""
        floats = is_float(reference.dtype)
        if reference.shape != candidate.shape:
            own = np.ones(reference.shape, bool), np.ones(candidate.shape, bool)
            (reference, candidate), (ours, other) = align(reference, candidate), align(*own)
            if not floats:
                both = ours & other
                alone = int(np.count_nonzero(ours ^ other))
                self._unequal += alone
                self._elements += alone
                reference, candidate = reference[both], candidate[both]
        if not floats:
            self._unequal += int(np.count_nonzero(reference != candidate))
            self._elements += reference.size
            return
        r, c = reference.reshape(-1), candidate.reshape(-1)
        for start in range(0, r.size, BLOCK):
            self._add_floats(r[start : start + BLOCK], c[start : start + BLOCK])

    def _add_floats(self, reference: Array, candidate: Array) -> None:
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
        fine_r, fine_c = np.isfinite(r), np.isfinite(c)
        self.nonfinite_reference += int(r.size - np.count_nonzero(fine_r))
        self.nonfinite_candidate += int(c.size - np.count_nonzero(fine_c))
        fine = fine_r & fine_c
        if not fine.all():
            self.broken |= bool((fine_r & ~fine_c).any())
            r, c = r[fine], c[fine]
        if not r.size:
            return
        with np.errstate(over="ignore"):  # float64 outputs near 1e154 and above: reported as None
            e = c - r
            self._rr += float(r @ r)
            self._cc += float(c @ c)
            self._rc += float(r @ c)
            self._ee += float(e @ e)
        self._max_abs = max(self._max_abs, float(np.abs(e).max()))
        self.compared += r.size

    @property
    def value(self) -> float:
        """One number to decide by: |candidate - reference| / |reference| over all floats, infinite where that is no number.

        Where there are none, or all are zero on both sides, the share of the other elements that differ.
        """
        if self.broken:
            return math.inf
        if self._rr or self._ee:
            relative = self._relative_l2()
            return math.inf if relative is None else relative
        return self.mismatch or 0.0

    @property
    def mismatch(self) -> float | None:
        """The share of elements that differ, of what is no float."""
        return self._unequal / self._elements if self._elements else None

    def result(self) -> ErrorNumbers:
        """The numbers of `compare` for everything added so far."""
        return ErrorNumbers(
            relative_l2=self._relative_l2(),
            max_abs=_finite(self._max_abs) if self.compared else None,
            cosine=self._cosine(),
            sqnr_db=self._sqnr_db(),
            nonfinite_reference=self.nonfinite_reference,
            nonfinite_candidate=self.nonfinite_candidate,
        )

    def _relative_l2(self) -> float | None:
        if not self.compared:
            return None
        if self._rr == 0.0:
            return 0.0 if self._ee == 0.0 else None
        return _finite(math.sqrt(self._ee) / math.sqrt(self._rr))

    def _cosine(self) -> float | None:
        if not self.compared:
            return None
        if self._ee == 0.0 or self._rr == 0.0 or self._cc == 0.0:
            return 1.0 if self._ee == 0.0 else None
        cosine = _finite(self._rc / (math.sqrt(self._rr) * math.sqrt(self._cc)))
        return None if cosine is None else min(1.0, max(-1.0, cosine))

    def _sqnr_db(self) -> float | None:
        if self._ee == 0.0 or self._rr == 0.0:
            return None
        return _finite(10.0 * (math.log10(self._rr) - math.log10(self._ee)))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def compare(reference: Array, candidate: Array) -> ErrorNumbers:
    """Distance of `candidate` c from `reference` r, over the positions where both are finite.

    relative_l2          |c - r| / |r|                0 for an exact match; None when only r is all zero
    max_abs              max |c_i - r_i|
    cosine               r . c / (|r| |c|)            1 for an exact match; None when only one is all zero
    sqnr_db              20 log10(|r| / |c - r|)      None for an exact match (infinite) or an all-zero r
    nonfinite_reference  how many r_i are NaN or infinite; nonfinite_candidate the same for c

    The first four are None when no position is left to compare. Raises OnnxPruneError where the
    shapes differ.
    """
    if reference.shape != candidate.shape:
        raise OnnxPruneError(
            f"cannot compare arrays of shapes {list(reference.shape)} and {list(candidate.shape)}: "
            "an element of one has no counterpart in the other"
        )
    sums = ErrorSums()
    sums.add(reference, candidate)
    return sums.result()


def align(reference: Array, candidate: Array) -> tuple[Array, Array]:
    """Both in the smallest shape that holds both, filled up with zeros; of two ranks as vectors."""
    if reference.ndim != candidate.ndim:
        reference, candidate = reference.reshape(-1), candidate.reshape(-1)
    size = np.maximum(reference.shape, candidate.shape)
    r, c = (np.pad(x, [(0, n - m) for n, m in zip(size, x.shape, strict=True)]) for x in (reference, candidate))
    return r, c


def find_class_scores(output: Any, tokens: int | None = None) -> Array | None:
    """`output` as class scores `[N, C]`, or None where it does not look like them.

    Class scores are a float array (or an 8 bit integer one: a quantized classifier) of shape `[N, C]`
    with C >= 2, `[N, C, 1, 1]` as a classifier without a Flatten ends, or `[.., C]` with as many classes
    as the model knows `tokens` (see `graph.vocabulary`): a row for each position. Other `[N, T, C]` and
    `[N, C, H, W]` are not: labels of tokens and segmentation maps cannot be told from hidden states and pictures.
    """
    if not isinstance(output, np.ndarray) or not (is_float(output.dtype) or output.dtype in (np.int8, np.uint8)):
        return None
    if output.ndim > 2 and tokens is not None and output.shape[-1] == tokens > 1:
        return output.reshape(-1, tokens)
    if output.ndim not in (2, 4) or output.shape[1] < 2 or output.shape[2:] not in ((), (1, 1)):
        return None
    return output.reshape(output.shape[:2])


def predict_classes(scores: Array) -> Array:
    """The best class of each row of `scores [N, C]` as int64 `[N]`; -1 for a row with a NaN in it."""
    wide = scores.astype(np.float64)
    return np.where(np.isnan(wide).any(axis=1), -1, wide.argmax(axis=1))


def measure_agreement(predicted: Array, wanted: Array) -> float | None:
    """The fraction of positions where both name the same class; -1 (no class) agrees with nothing."""
    if predicted.size == 0:
        return None
    return float(np.mean((predicted == wanted) & (predicted >= 0)))


def compare_classes(reference: Array, candidate: Array, tokens: int | None = None) -> Array | None:
    """For each row of class scores whether both prefer the same class, [N] bool; None where these are no class scores.

    A row that only one of them has is no agreement.
    """
    before, after = find_class_scores(reference, tokens), find_class_scores(candidate, tokens)
    if before is None or after is None:
        return None
    p, q = predict_classes(before), predict_classes(after)
    both = min(len(p), len(q))
    same = np.zeros(max(len(p), len(q)), bool)
    same[:both] = (p[:both] == q[:both]) & (p[:both] >= 0)
    return same


def measure_top1_agreement(reference: Array, candidate: Array) -> float | None:
    """The fraction of samples for which both models prefer the same class; None if not `find_class_scores`.

    A sample with a NaN score on either side counts as a disagreement.
    """
    r, c = find_class_scores(reference), find_class_scores(candidate)
    if r is None or c is None or r.shape != c.shape:
        return None
    return measure_agreement(predict_classes(r), predict_classes(c))
