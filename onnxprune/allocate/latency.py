"""How long a model takes, against another: medians of runs that take turns, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.calibration.run import open_session, run
from onnxprune.graph.io import Model, full_proto
from onnxprune.graph.weights import Array

RUNS, WARM = 15, 3


class Stopwatch:
    """Runs a model on one batch, next to the original."""

    def __init__(self, original: Model, feeds: Mapping[str, Array]) -> None:
        self.feeds = feeds
        self.original = open_session(full_proto(original), "original")

    def ratio(self, model: Model) -> float:
        """The time that `model` takes as a fraction of the original's."""
        sessions = (self.original, open_session(full_proto(model), "candidate"))
        for s in sessions * WARM:
            run(s, self.feeds)
        seconds = np.array([[self._seconds(s) for s in sessions] for _ in range(RUNS)])
        before, after = np.median(seconds, axis=0)
        return float(after / before)

    def _seconds(self, session: Any) -> float:
        start = time.perf_counter()
        run(session, self.feeds)
        return time.perf_counter() - start
