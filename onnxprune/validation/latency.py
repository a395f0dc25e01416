"""How long a model takes, against another: medians of runs that take turns, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.calibration.data import Batches
from onnxprune.calibration.run import count, open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.save import full_proto
from onnxprune.graph.weights import Array
from onnxprune.report.types import Latency

RUNS, LEAST_RUNS, WARM = 15, 3, 3
SECONDS = 1.5  # after so long fewer runs have to do
PATIENCE = 20.0  # the same where a decision hangs on it

Feeds = Mapping[str, Array]


def one_sample(session: Any, batches: Batches) -> Feeds:
    """A batch of one sample; the first batch where the model does not run on fewer."""
    try:
        feeds = batches.limit(1).first()
        run(session, feeds)
        return feeds
    except OnnxPruneError:
        return batches.first()


def race(original: Any, candidate: Any, feeds: Feeds, limit: float = SECONDS) -> Latency:
    """Time two sessions on one batch: up to three runs of each to warm up, then 3 to 15 in turns, as `limit` seconds allow."""
    start = time.perf_counter()
    for _ in range(WARM):
        _turn(original, candidate, feeds)
        if time.perf_counter() - start > limit / 3:
            break
    seconds = list[tuple[float, float]]()
    while len(seconds) < LEAST_RUNS or (len(seconds) < RUNS and time.perf_counter() - start < limit):
        seconds.append(_turn(original, candidate, feeds))
    before, after = np.median(seconds, axis=0)
    return Latency(float(before), float(after), len(seconds), count(feeds))


def _turn(original: Any, candidate: Any, feeds: Feeds) -> tuple[float, float]:
    return _seconds(original, feeds), _seconds(candidate, feeds)


def _seconds(session: Any, feeds: Feeds) -> float:
    start = time.perf_counter()
    run(session, feeds)
    return time.perf_counter() - start


class Stopwatch:
    """Runs models on one sample, next to the original."""

    def __init__(self, original: Model, batches: Batches) -> None:
        self.original = open_session(full_proto(original), "original")
        self.feeds = one_sample(self.original, batches)

    def ratio(self, model: Model) -> float:
        """The time that `model` takes as a fraction of the original's."""
        found = race(self.original, open_session(full_proto(model), "candidate"), self.feeds, PATIENCE)
        return found.after / found.before
