"""Compare a pruned model with its original in ONNX Runtime, and put numbers on the difference.

`compare.validate` is the way in; `data` finds inputs to feed (random ones, or the user's files), and
`metrics` holds the formulas. Nothing here decides whether a difference is acceptable.
"""

from __future__ import annotations

from onnxprune.validation.compare import Result, validate
from onnxprune.validation.data import Batches, InputSpec, input_specs, load_data, random_inputs

__all__ = ["Batches", "InputSpec", "Result", "input_specs", "load_data", "random_inputs", "validate"]
