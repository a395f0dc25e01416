"""The distance between two versions of a model: the formulas, and the compared tensors."""

from __future__ import annotations

from onnxprune.measure.metric import ACCURACY, Metric, load_metric
from onnxprune.measure.metrics import (
    ErrorSums,
    align,
    compare_classes,
    find_class_scores,
    measure_agreement,
    predict_classes,
)
from onnxprune.measure.shift import OutputShift, ShiftSums
from onnxprune.measure.watched import find_judges, find_stand_ins, list_judged, show_tensors

__all__ = [
    "ACCURACY",
    "ErrorSums",
    "Metric",
    "OutputShift",
    "ShiftSums",
    "compare_classes",
    "measure_agreement",
    "align",
    "find_class_scores",
    "predict_classes",
    "list_judged",
    "load_metric",
    "show_tensors",
    "find_stand_ins",
    "find_judges",
]
