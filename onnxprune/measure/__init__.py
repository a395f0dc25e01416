"""How far one version of a model is from another: the formulas, and the tensors that are looked at."""

from __future__ import annotations

from onnxprune.measure.metric import ACCURACY, Metric, load_metric
from onnxprune.measure.metrics import ErrorSums, agreed, agreement, aligned, class_scores, predictions
from onnxprune.measure.shift import OutputShift, ShiftSums
from onnxprune.measure.watched import judged, showing, stand_ins, watched

__all__ = [
    "ACCURACY",
    "ErrorSums",
    "Metric",
    "OutputShift",
    "ShiftSums",
    "agreed",
    "agreement",
    "aligned",
    "class_scores",
    "predictions",
    "judged",
    "load_metric",
    "showing",
    "stand_ins",
    "watched",
]
