"""Losses whose squared derivative is, in the mean, twice what the error (`shift.py`) grows by: their gradients at the outputs.

    class scores        cross-entropy with a class drawn from their softmax at the error's temperature
    scores of tokens    the same at each position, the sum over the square root of the positions
    other floats        the projection on a random direction, relative to the outputs' size

Several outputs are averaged as errors are. Where there are labels, the first class scores are compared with them instead, at a
temperature of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.graph.weights import Array, is_float
from onnxprune.measure.metrics import find_class_scores
from onnxprune.measure.shift import LEAST, OF_TOKENS, TEMPERATURE, is_probabilities, log_softmax


def draw_gradients(
    outputs: Mapping[str, Array], samples: int, tokens: int | None, rng: np.random.Generator
) -> dict[str, Array]:
    """dL/dy of each output y of floats, for a batch of so many samples; L is the sum over these."""
    floats = {name: y for name, y in outputs.items() if is_float(y.dtype) and y.size}
    return {name: _draw(y, samples, tokens, rng) / math.sqrt(len(floats)) for name, y in floats.items()}


def compare_labels(outputs: Mapping[str, Array], labels: Array, tokens: int | None) -> dict[str, Array] | None:
    """dL/dy of the first class scores that have a row for each label; None where there are none."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    for name, y in outputs.items():
        scores = find_class_scores(y, tokens)
        if scores is not None and len(scores) == len(labels) and labels.min() >= 0 and labels.max() < scores.shape[1]:
            return {name: _descend(scores.astype(np.float64), 1.0, lambda _: labels).reshape(y.shape)}
    return None


def _draw(y: Array, samples: int, tokens: int | None, rng: np.random.Generator) -> Array:
    wide, scores = y.astype(np.float64), find_class_scores(y, tokens)
    if scores is None:
        size = math.sqrt(max(float(np.sum(wide * wide)) / samples, LEAST))
        return rng.standard_normal(y.shape) * (math.sqrt(2) / size)
    temperature = OF_TOKENS if scores.shape[1] == tokens else TEMPERATURE

    def draw(log: Array) -> Array:  # the largest of log p and Gumbel noise is a draw
        drawn: Array = (log + rng.gumbel(size=log.shape)).argmax(1)
        return drawn

    gradient = _descend(wide.reshape(scores.shape), temperature, draw)
    return gradient.reshape(y.shape) / math.sqrt(max(len(scores) / samples, 1.0))


def _descend(scores: Array, temperature: float, choose: Callable[[Array], Array]) -> Array:
    """The gradient of -log p at the chosen classes, p the softmax of the scores [N, C] at a temperature."""
    known = is_probabilities(scores)
    log = log_softmax((np.log(np.maximum(scores, LEAST)) if known else scores) / temperature)
    gradient = np.exp(log)
    gradient[np.arange(len(log)), choose(log)] -= 1
    gradient /= temperature
    return np.where(scores > LEAST, gradient / np.maximum(scores, LEAST), 0) if known else gradient
