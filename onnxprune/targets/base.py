"""What a target is: where the model is to run, and which channel counts are fast there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# The multiple that the channels of a product want to be, given its kind (`Product.kind` in ops/records.py) and the element type
# of its weights, as NumPy names it; 1: it does not care.
Multiple = Callable[[str, str], int]

CONVOLUTIONS = frozenset(
    {"convolution", "transposed convolution", "deformable convolution", "convolution with channels last"}
)
MATRICES = frozenset({"matrix product", "sum over letters", "attention"})


@dataclass(frozen=True)
class Target:
    """One place to run a model. `evidence` says how its rules are known: a measurement, or the vendor's page."""

    name: str
    multiple: Multiple
    evidence: str
