"""How far the outputs of a smaller model are from the original's on calibration data, in one number; no labels.

    class scores [N, C]   KL(original || smaller) of the softmax of both, scores divided by a temperature of 4: what the
                          original is nearly sure of says more that way. Rows that are probabilities are taken as such.
    scores of tokens      the same at a temperature of 1, in the mean over all positions: what the loss of a language model
                          rises by
    other floats          |smaller - original|^2 / |original|^2
    integers              the fraction that differs

Both are quadratic in small changes, so that errors of small cuts add up; several outputs are averaged.
Source: the temperature is that of Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxprune.calibration.run import first, open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import Model, full_proto
from onnxprune.graph.vocabulary import vocabulary
from onnxprune.graph.weights import Array, is_float
from onnxprune.groups import Analysis
from onnxprune.validation.metrics import ErrorSums, class_scores, predictions

TEMPERATURE, OF_TOKENS = 4.0, 1.0
BLOCK = 1 << 22  # scores that are looked at at once
LEAST = 1e-12  # a probability below this says nothing
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Moved:
    """`error` as above; |smaller - original| / |original| over all float outputs; how often both prefer the same class."""

    error: float
    relative_l2: float | None
    agreement: float | None

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)


class Judge:
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
        session = open_session(full_proto(original.model), "original", threads)
        self.reference = [run(session, feeds) for feeds in self.feeds]

    def key(self) -> str:
        """A hash of the inputs, and of what the original makes of them."""
        h = hashlib.sha256()
        for arrays in (*self.feeds, *self.reference):
            for name, x in arrays.items():
                if isinstance(x, np.ndarray):
                    h.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        return h.hexdigest()[:32]

    def of(self, model: Model) -> Moved:
        """Run a model on the batches. Raises OnnxPruneError where ONNX Runtime does not."""
        session = open_session(full_proto(model), "candidate", self.threads)
        sums: dict[str, _Sum] = {}
        overall, same = ErrorSums(), list[Array]()
        scored: str | None = None
        for feeds, before in zip(self.feeds, self.reference, strict=True):
            after = run(session, feeds)
            for name, r in before.items():
                if isinstance(r, np.ndarray) and isinstance(after[name], np.ndarray) and r.size:
                    sums.setdefault(name, _Sum(self.tokens)).add(r, after[name])
                    if is_float(r.dtype):
                        overall.add(r, after[name])
                    if (scored or name) == name and (both := _classes(r, after[name], self.tokens)) is not None:
                        scored = name
                        same.append(both)
        total = float(np.mean([s.value() for s in sums.values()])) if sums else 0.0
        return Moved(total, overall.result()["relative_l2"], float(np.mean(np.concatenate(same))) if same else None)


def _classes(r: Array, c: Array, tokens: int | None) -> Array | None:
    """For each row whether both prefer the same class; None where these are no class scores."""
    before, after = class_scores(r, tokens), class_scores(c, tokens)
    if before is None or after is None:
        return None
    p, q = predictions(before), predictions(after)
    agree: Array = (p == q) & (p >= 0)
    return agree


class _Sum:
    """The error of one output, gathered batch after batch."""

    def __init__(self, tokens: int | None) -> None:
        self.tokens = tokens
        self.top = self.bottom = 0.0

    def add(self, r: Array, c: Array) -> None:
        if not is_float(r.dtype):
            self.top, self.bottom = self.top + float(np.count_nonzero(r != c)), self.bottom + r.size
            return
        scores = class_scores(r, self.tokens)
        width = 1 if scores is None else scores.shape[1]
        rows = r.reshape(-1, width), c.reshape(-1, width)
        for at in range(0, len(rows[0]), max(1, BLOCK // width)):
            x, y = (np.asarray(a[at : at + max(1, BLOCK // width)], np.float64) for a in rows)
            self._add(x, y, scores is not None)

    def _add(self, x: Array, y: Array, scores: bool) -> None:
        if not np.isfinite(y[np.isfinite(x)]).all():
            self.top = math.inf
            return
        x, y = np.where(np.isfinite(x), x, 0), np.where(np.isfinite(x), y, 0)
        if scores:
            temperature = OF_TOKENS if x.shape[1] == self.tokens else TEMPERATURE
            self.top, self.bottom = self.top + kl(x, y, temperature), self.bottom + len(x)
        else:
            self.top, self.bottom = self.top + float(np.sum((x - y) ** 2)), self.bottom + float(np.sum(x * x))

    def value(self) -> float:
        return self.top / self.bottom if self.bottom else (0.0 if not self.top else math.inf)


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
