"""The distance between two versions of a model: the formulas, and the compared tensors."""

from __future__ import annotations

from onnxprune.measure.metric import ACCURACY, Metric, load_metric
from onnxprune.measure.metrics import ErrorSums, agreed, agreement, align, class_scores, predict_classes
from onnxprune.measure.shift import OutputShift, ShiftSums
from onnxprune.measure.watched import find_stand_ins, judged, showing, watched

__all__ = [
    "ACCURACY",
    "ErrorSums",
    "Metric",
    "OutputShift",
    "ShiftSums",
    "agreed",
    "agreement",
    "align",
    "class_scores",
    "predict_classes",
    "judged",
    "load_metric",
    "showing",
    "find_stand_ins",
    "watched",
]
