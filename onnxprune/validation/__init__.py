"""Compare a pruned model with its original in ONNX Runtime, and put numbers on the difference.

`compare.validate` is the way in; `metrics` holds the formulas. Nothing here decides whether a difference is acceptable.
"""

from __future__ import annotations

from onnxprune.validation.compare import Result, validate

__all__ = ["Result", "validate"]
