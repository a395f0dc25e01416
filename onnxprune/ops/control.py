"""Operators that no rule reaches into: everything that they touch is frozen, and the report says so."""

from __future__ import annotations

from onnxprune.layout import LayoutError
from onnxprune.ops.registry import Axes, Op, couple


@couple("If", "Loop", "Scan", "SequenceMap")
def bodies(op: Op) -> list[Axes | None]:
    """Bodies are kept as they are; what they read and make is frozen."""
    raise LayoutError(f"{op.type} keeps its body as it is")


@couple("NonMaxSuppression", "Unique", "Compress", "Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike")
def opaque(op: Op) -> list[Axes | None]:
    """The result counts, selects or draws positions: all axes are frozen."""
    raise LayoutError(f"{op.type} counts, selects or draws positions")
