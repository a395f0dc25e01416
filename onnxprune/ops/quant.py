"""Quantisation in QDQ form: scales and zero points follow the axis that they belong to."""

from __future__ import annotations

from onnxprune.layout import find
from onnxprune.ops.registry import Axes, Op, couple


@couple("DequantizeLinear", "QuantizeLinear")
def qdq(op: Op) -> list[Axes | None]:
    """y = (x - zero_point) * scale and back, per tensor or per channel of `axis`; blocks freeze their axis.

    Source: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
    """
    x = op.x(0)
    axis = op.attr("axis", 1) % max(len(x), 1)
    for i in (1, 2):
        if not op.has(i):
            continue
        scale = op.x(i)
        op.role(i, 0, "stat")
        if len(scale) == 1 and find(scale[0]).size != 1:
            op.tie(scale[0], x[axis])
        elif len(scale) > 1:
            op.freeze(x[axis], "quantised in blocks along it")
            for a, d in enumerate(scale):
                if a == axis:
                    op.freeze(d, "a block scale")
                else:
                    op.tie(d, x[a])
    return [list(x)]


@couple("DynamicQuantizeLinear")
def dynamic_quantize(op: Op) -> list[Axes | None]:
    """One scale for the whole tensor, from its range: every channel takes part in it.

    Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    x = op.x(0)
    for d in x:
        op.mix(d, "takes its range over it")
    return [list(x), [], []]
