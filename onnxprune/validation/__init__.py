"""Compare a pruned model with its original in ONNX Runtime, and put numbers on the difference.

`compare.validate` is the way in: outputs, accuracy, latency, peak memory. `layers` says which layer first goes wrong.
Nothing here decides whether a difference is acceptable.
"""

from __future__ import annotations

from onnxprune.report.types import LayerError, Reconstruction
from onnxprune.validation.by_layer import measure_layer_errors
from onnxprune.validation.compare import Result, validate

__all__ = ["LayerError", "Reconstruction", "Result", "measure_layer_errors", "validate"]
