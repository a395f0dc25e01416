"""How long calibrated pruning is going to take, from the time that the model takes for one batch.

The factors are near what was measured for MobileNetV2 (160 images) on one core. For tiny networks
they are too high: digits_cnn with a limit was announced as 57 s, and took 8.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from onnxprune.allocate.depth import SHARES, find_branches
from onnxprune.allocate.evaluator import FOLDS, WATCHED_SAMPLES, Evaluator, count_trial_samples
from onnxprune.allocate.planning import HALVINGS
from onnxprune.calibration import Batches
from onnxprune.calibration.sessions import count, open_session, run
from onnxprune.graph.model import Model
from onnxprune.settings import Options

WATCH, MEASURE, DEPTH, TRY, REPAIR = 3.0, 4.0, 4.0, 7.0, 9.0  # runs of a sample that each stage costs for each sample
TRAIN = (
    5.0  # the same of a pass of training, with what the original makes of it and short trainings that look for a rate
)
CLOCK_SECONDS = 5.0  # of the comparison at the end
LONG_SECONDS = 10.0  # below that nobody has to be told


@dataclass(frozen=True)
class Forecast:
    """The seconds of each stage, in their order, and what they are spent on."""

    stages: Mapping[str, float]
    samples: int
    groups: int

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


def forecast(evaluator: Evaluator, options: Options, check: bool, passes: int = 0) -> Forecast | None:
    """With so many `passes` of a training at the end. None where nobody knows how many data there are before they are read."""
    samples = evaluator.batches.samples if evaluator.batches else None
    if evaluator.batches is None or not samples:
        return None
    once = _time_sample(evaluator.original.model, evaluator.batches)
    plans = HALVINGS if options.limit else 1 if options.allocation != "search" else 2
    branches = options.has_depth and bool(find_branches(evaluator.original, options))
    plans += len(SHARES) if branches else 0
    held_out = FOLDS if options.limit or options.effort == "high" else 1
    tried = min(samples, count_trial_samples(samples))
    stages = {
        "calibrate": WATCH * min(samples, WATCHED_SAMPLES),
        "measure": MEASURE * samples if options.allocation == "search" else 0.0,
        "depth": DEPTH * samples if branches else 0.0,
        "try": TRY * tried * plans * held_out if options.effort != "low" and evaluator.repair != "none" else 0.0,
        "repair": REPAIR * samples if evaluator.repair != "none" else 0.0,
        "distill": TRAIN * samples * passes,
        "validate": 2.0 * samples if check else 0.0,
    }
    seconds = {stage: runs * once for stage, runs in stages.items() if runs}
    if check:
        seconds["validate"] += CLOCK_SECONDS
    return Forecast(seconds, samples, len(evaluator.original.groups))


def forecast_training(original: Model, batches: Batches, passes: int) -> Forecast | None:
    """The same of a training alone."""
    if not batches.samples:
        return None
    seconds = TRAIN * batches.samples * passes * _time_sample(original, batches)
    return Forecast({"distill": seconds}, batches.samples, 0)


def _time_sample(original: Model, batches: Batches) -> float:
    """Seconds of the original for one sample, by its second run of the first batch."""
    feeds = batches.first()
    session = open_session(original, "original")
    run(session, feeds)
    start = time.perf_counter()
    run(session, feeds)
    return (time.perf_counter() - start) / max(count(feeds), 1)
