"""How far the outputs of a smaller model are from the original's on calibration data, in one number; no labels.

    class scores [N, C]   KL(original || smaller) of the softmax of both, scores divided by a temperature of 4: what the
                          original is nearly sure of says more that way. Rows that are probabilities are taken as such.
    scores of tokens      the same at a temperature of 1, in the mean over all positions: what the loss of a language model
                          rises by
    other floats          |smaller - original|^2 / |original|^2
    integers              the fraction that differs

Both are quadratic in small changes, so that errors of small cuts add up; several outputs are averaged. Outputs that are no tensors,
or as long as the data decide, are judged by what they are made of (see `measure/watched.py`).
Source: the temperature is that of Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.calibration.run import first, open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.save import full_proto
from onnxprune.graph.vocabulary import vocabulary
from onnxprune.graph.weights import Array, is_float
from onnxprune.groups import Analysis
from onnxprune.measure import ErrorSums, agreed, aligned, class_scores, judged, showing

TEMPERATURE, OF_TOKENS = 4.0, 1.0
BLOCK = 1 << 22  # scores that are looked at at once
LEAST = 1e-12  # a probability below this says nothing
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class OutputShift:
    """`error` as above; |smaller - original| / |original| (see `ErrorSums.value`); how often both prefer the same class."""

    error: float
    relative_l2: float | None
    agreement: float | None


class OutputComparer:
    """Knows what the original makes of some batches, and measures what others make of them."""

    def __init__(
        self,
        original: Analysis,
        batches: Iterable[Feeds],
        *,
        samples: int | None = None,
        threads: int | None = None,
    ) -> None:
        """`samples` takes the first so many.

        Raises OnnxPruneError where there is no batch, or the original does not run on one.
        """
        self.threads = threads
        self.feeds = list(first(batches, samples))
        if not self.feeds:
            raise OnnxPruneError("calibration: there is no batch of inputs; give some")
        self.tokens = vocabulary(original.flat.proto)
        self.names = judged(original)
        session = open_session(showing(full_proto(original.model), self.names), "original", threads)
        made = (run(session, feeds) for feeds in self.feeds)
        self.reference = [{name: outputs[name] for name in self.names} for outputs in made]

    def key(self) -> str:
        """A hash of the inputs, and of what the original makes of them."""
        h = hashlib.sha256()
        for arrays in (*self.feeds, *self.reference):
            for name, x in arrays.items():
                h.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        return h.hexdigest()[:32]

    def of(self, model: Model) -> OutputShift:
        """Run a model on the batches. Raises OnnxPruneError where ONNX Runtime does not."""
        session = open_session(showing(full_proto(model), self.names), "candidate", self.threads)
        sums: dict[str, _Sum] = {}
        overall, same = ErrorSums(), list[Array]()
        scored: str | None = None
        for feeds, before in zip(self.feeds, self.reference, strict=True):
            after = run(session, feeds)
            for name, r in before.items():
                if r.size:
                    sums.setdefault(name, _Sum(self.tokens)).add(r, after[name])
                    overall.add(r, after[name])
                    if (scored or name) == name and (both := agreed(r, after[name], self.tokens)) is not None:
                        scored = name
                        same.append(both)
        total = float(np.mean([s.value() for s in sums.values()])) if sums else 0.0
        return OutputShift(total, overall.value, float(np.mean(np.concatenate(same))) if same else None)


class _Sum:
    """The error of one output, gathered batch after batch; where that is of class scores, `sums` know only what is no number."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.sums = ErrorSums()
        self.divergence, self.rows = 0.0, 0

    def add(self, r: Array, c: Array) -> None:
        if is_float(r.dtype) and r.shape != c.shape:
            r, c = aligned(r, c)
        self.sums.add(r, c)
        scores = class_scores(r, self.tokens) if is_float(r.dtype) else None
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
    p, q = (_log_softmax(s / temperature) for s in _as_scores(original, smaller))
    return float(np.sum(np.exp(p) * (p - q)))


def _as_scores(original: Array, smaller: Array) -> tuple[Array, Array]:
    """Probabilities become their logarithms."""
    if original.min() < 0 or not np.allclose(original.sum(1), 1, atol=1e-3):
        return original, smaller
    return np.log(np.maximum(original, LEAST)), np.log(np.maximum(smaller, LEAST))


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(1, keepdims=True)
    log: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return log


def model_key(analysis: Analysis) -> str:
    """A hash of a model's operators, wiring and weights."""
    h = hashlib.sha256(analysis.model.proto.SerializeToString(deterministic=True))
    for name, w in analysis.model.weights.items():
        array: Any = w.array()
        h.update(name.encode() + (repr(array.tolist()).encode() if array.dtype == object else array.tobytes()))
    return h.hexdigest()[:32]
