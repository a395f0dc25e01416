"""The distance of a smaller model's outputs from the original's, in one number; without labels.

    class scores [N, C]   KL(original || smaller) of the softmax of both, scores divided by a temperature of 4: what the
                          original is nearly sure of says more that way. Rows that are probabilities are taken as such.
    scores of tokens      the same at a temperature of 1, in the mean over all positions: what the loss of a language model
                          rises by
    other floats          |smaller - original|^2 / |original|^2
    integers              the fraction that differs

Both are quadratic in small changes, so that errors of small cuts add up; several outputs are averaged. Outputs that are no tensors,
or as long as the data decide, are judged by what they are made of (see `watched.py`).
Source: the temperature is that of Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.weights import Array, is_float
from onnxprune.measure.bound import compute_lower_bound
from onnxprune.measure.metrics import ErrorSums, align, compare_classes, find_class_scores

TEMPERATURE, OF_TOKENS = 4.0, 1.0
BLOCK = 1 << 17  # scores that are looked at at once; more do not stay in a cache
LEAST = 1e-12  # a probability below this says nothing
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class OutputShift:
    """The distance of the outputs of a smaller model from the original's.

    `error` is as above, `relative_l2` |smaller - original| / |original| (see `ErrorSums.value`), `agreement` the share of
    `rows` of class scores for which both models prefer the same class.
    """

    error: float
    relative_l2: float | None
    agreement: float | None
    rows: int | None = None

    @property
    def least_agreement(self) -> float | None:
        """The agreement is at least so much with 95 % confidence, where the rows are independent samples."""
        return (
            compute_lower_bound(round(self.agreement * self.rows), self.rows)
            if self.agreement is not None and self.rows
            else None
        )


class ShiftSums:
    """The shift of some outputs, gathered batch after batch; `tokens` as `graph.vocabulary` finds them."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.sums: dict[str, OutputDifference] = {}
        self.overall = ErrorSums()
        self.same = list[Array]()
        self.scored: str | None = None  # the output whose class scores are compared

    def add(self, before: Feeds, after: Feeds) -> None:
        for name, r in before.items():
            if not r.size:
                continue
            self.sums.setdefault(name, OutputDifference(self.tokens)).add(r, after[name])
            self.overall.add(r, after[name])
            if (self.scored or name) == name and (both := compare_classes(r, after[name], self.tokens)) is not None:
                self.scored = name
                self.same.append(both)

    def value(self) -> OutputShift:
        total = float(np.mean([s.value() for s in self.sums.values()])) if self.sums else 0.0
        same = np.concatenate(self.same) if self.same else None
        share, rows = (None, None) if same is None else (float(np.mean(same)), len(same))
        return OutputShift(total, self.overall.value, share, rows)


class OutputDifference:
    """The error of one output, gathered batch after batch; where that is of class scores, `sums` know only what is no number."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.sums = ErrorSums()
        self.divergence, self.rows = 0.0, 0

    def add(self, r: Array, c: Array) -> None:
        if is_float(r.dtype) and r.shape != c.shape:
            r, c = align(r, c)
        self.sums.add(r, c)
        scores = find_class_scores(r, self.tokens) if is_float(r.dtype) else None
        if scores is None:
            return
        width = scores.shape[1]
        temperature = OF_TOKENS if width == self.tokens else TEMPERATURE
        rows, step = (scores, c.reshape(scores.shape)), max(1, BLOCK // width)
        for at in range(0, len(scores), step):
            x, y = (np.asarray(a[at : at + step], np.float64) for a in rows)
            fine = np.isfinite(x) & np.isfinite(y)
            self.divergence += kl(np.where(fine, x, 0), np.where(fine, y, 0), temperature)
        self.rows += len(scores)

    def value(self) -> float:
        if self.rows and not self.sums.broken:
            return self.divergence / self.rows
        return self.sums.value ** (2 if self.sums.compared else 1)


def kl(original: Array, smaller: Array, temperature: float = TEMPERATURE) -> float:
    """The sum over rows [N, C] of KL(p || q), p and q the softmax of the scores at the temperature; float64."""
    p, q = (log_softmax(s / temperature) for s in _as_scores(original, smaller))
    return float(np.sum(np.exp(p) * (p - q)))


def _as_scores(original: Array, smaller: Array) -> tuple[Array, Array]:
    """Probabilities become their logarithms."""
    if not is_probabilities(original):
        return original, smaller
    return np.log(np.maximum(original, LEAST)), np.log(np.maximum(smaller, LEAST))


def is_probabilities(scores: Array) -> bool:
    """Is each row of `scores [N, C]` a distribution already?"""
    return bool(scores.min() >= 0) and np.allclose(scores.sum(1), 1, atol=1e-3)


def log_softmax(x: Array) -> Array:
    """Of each row."""
    shifted = x - x.max(1, keepdims=True)
    log: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return log
