"""Errors of models on calibration data, against the original's outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onnxprune.allocate.behind import Difference
from onnxprune.calibration.array_store import Memory, StoredBatches
from onnxprune.calibration.sessions import count, open_session, run, take_batches
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.graph.weights import Array
from onnxprune.groups import Analysis
from onnxprune.measure import OutputShift, ShiftSums, list_judged, show_tensors
from onnxprune.measure.shift import Feeds


class OutputComparer:
    """Knows what the original makes of some batches, and measures what others make of them."""

    def __init__(
        self,
        original: Analysis,
        batches: Iterable[Feeds],
        *,
        samples: int | None = None,
        threads: int | None = None,
        shown: Sequence[str] = (),
        memory: Memory | None = None,
    ) -> None:
        """Store the inputs and the original's outputs for comparisons; what exceeds `memory` is stored in files.

        `samples` is the number of first samples to use; `shown` are outputs that are needed in full.
        Raises OnnxPruneError where there is no batch, or the original does not run on one.
        """
        self.threads = threads
        self.feeds: Sequence[Feeds] = store_batches(take_batches(batches, samples), memory)
        if not self.feeds:
            raise OnnxPruneError("calibration: there is no batch of inputs; give some")
        self.tokens = find_vocabulary_size(original.flat.proto)
        self.names = list_judged(original)
        self.shown = shown
        session = open_session(show_tensors(original.model, [*self.names, *shown]), "original", threads)
        batches_of_outputs = (run(session, feeds) for feeds in self.feeds)
        self.samples = sum(map(count, self.feeds))
        seen = ({name: outputs[name] for name in (*self.names, *shown)} for outputs in batches_of_outputs)
        self.reference: Sequence[Feeds] = store_batches(seen, memory)
        self._difference = Difference(original.model, self.feeds, threads, memory)

    def key(self) -> str:
        """A hash of the inputs, and of what the original makes of them."""
        h = hashlib.sha256()
        for arrays in (*self.feeds, *self.reference):
            for name, x in arrays.items():
                h.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        return h.hexdigest()[:32]

    def of(self, model: Model) -> OutputShift:
        """Run a model, from where it differs from the original. Raises OnnxPruneError where ONNX Runtime does not."""
        sums = ShiftSums(self.tokens)
        self._add(*self._difference.part(model, [*self.names, *self.shown]), sums)
        return sums.value()

    def add(self, model: Model, sums: ShiftSums) -> list[dict[str, Array]]:
        """The same of a whole model, to be summed up with what other samples show; the outputs to see, batch by batch."""
        return self._add(show_tensors(model, [*self.names, *self.shown]), self.feeds, sums)

    def _add(self, model: Model, batches: Sequence[Feeds], sums: ShiftSums) -> list[dict[str, Array]]:
        session = open_session(model, "candidate", self.threads)
        seen = []
        for feeds, before in zip(batches, self.reference, strict=True):
            after = run(session, feeds)
            sums.add({name: before[name] for name in self.names}, after)
            seen.append({name: after[name] for name in self.shown})
        return seen


def store_batches(batches: Iterable[Feeds], memory: Memory | None) -> StoredBatches:
    """Batches that can be read again; what exceeds `memory` waits in files."""
    stored = StoredBatches(memory)
    for arrays in batches:
        stored.append(arrays)
    return stored


def hash_model(analysis: Analysis) -> str:
    """A hash of a model's operators, wiring and weights."""
    h = hashlib.sha256(analysis.model.proto.SerializeToString(deterministic=True))
    for name, w in analysis.model.weights.items():
        array: Any = w.array()
        h.update(name.encode() + (repr(array.tolist()).encode() if array.dtype == object else array.tobytes()))
    return h.hexdigest()[:32]
