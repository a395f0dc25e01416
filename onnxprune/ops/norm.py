"""Normalizations: the scale and bias are tied to the axis that they scale; means along channels are declared as mixing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.layout import LayoutError, factor, find
from onnxprune.ops.records import Line, NodeFacts
from onnxprune.ops.registry import MICROSOFT, Axes, Op, couple


def _normalize(node: NodeFacts, slot: int, constants: Mapping[int, np.ndarray]) -> Line | None:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta with what it carries; [c, 1, ..] of x [N, c, *s]."""
    if slot or node.attr("training_mode", 0) or not all(i in constants for i in range(1, 5)):
        return None
    gamma, beta, mean, var = (constants[i].astype(np.float64) for i in range(1, 5))
    scale = gamma / np.sqrt(var + node.attr("epsilon", 1e-5))
    shape = (-1,) + (1,) * max(node.rank() - 2, 0)
    return scale.reshape(shape), (beta - mean * scale).reshape(shape)


@couple("BatchNormalization", affine=_normalize, statistics=(3, 4), learned=(1, 2))
@couple("SpatialBN", affine=_normalize, statistics=(3, 4), learned=(1, 2))
def batch_norm(op: Op) -> list[Axes | None]:
    """x [N, c, *s]; scale, bias, mean, var [c].

    Source: https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    x = op.x(0)
    if op.version < 9 and not op.attr("spatial", 1):
        raise LayoutError("statistics for every position")
    for i, role in enumerate(("scale", "bias", "stat", "stat"), start=1):
        op.tie(op.x(i)[0], x[1] if len(x) > 1 else x[0])
        op.role(i, 0, role)
    if op.attr("training_mode", 0):
        for d in (x[0], *x[2:]):
            op.mix(d, "takes its mean along it")
    return [list(x), *(list(op.x(3)) for _ in op.node.output[1:])]


@couple("InstanceNormalization", learned=(1, 2))
def instance_norm(op: Op) -> list[Axes | None]:
    """x [N, c, *s]; scale, bias [c]; mean and variance over *s. (A GroupNorm in disguise has channels there: they mix.)

    Source: https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html
    """
    x = op.x(0)
    for i, role in ((1, "scale"), (2, "bias")):
        op.tie(op.x(i)[0], x[1])
        op.role(i, 0, role)
    for d in x[2:]:
        op.mix(d, "takes its mean along it")
    return [list(x)]


@couple("GroupNormalization", any_opset=True, learned=(1, 2))
def group_norm(op: Op) -> list[Axes | None]:
    """x [N, (g c), *s]; scale, bias [(g c)], or [g] before opset 21; the mean is over c and *s.

    Source: https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
    """
    x = op.x(0)
    size = find(x[1]).size
    if not isinstance(size, int):
        raise LayoutError("channels of dynamic size")
    g, c = factor(x[1], size // op.attr("num_groups"))
    for i, role in ((1, "scale"), (2, "bias")):
        op.tie(op.x(i)[0], g if op.version < 21 else x[1])
        op.role(i, 0, role)
    for d in (c, *x[2:]):
        op.mix(d, "takes its mean along it")
    op.follow_attr("num_groups", g)
    return [list(x)]


@couple("GroupNorm", "SkipGroupNorm", domain=MICROSOFT, learned=(1, 2))
def group_norm_nhwc(op: Op) -> list[Axes | None]:
    """x [N, h, w, (g c)] (or [N, (g c), h, w]); gamma, beta [(g c)]; y = norm(x [+ skip + bias]), and the sum itself."""
    x = op.x(0)
    channel = -1 if op.attr("channels_last", 1) else 1
    size = find(x[channel]).size
    if not isinstance(size, int):
        raise LayoutError("channels of dynamic size")
    g, c = factor(x[channel], size // op.attr("groups"))
    for i, role in ((1, "scale"), (2, "bias")):
        op.tie(op.x(i)[0], x[channel])
        op.role(i, 0, role)
    op.mix(c, "takes its mean along it")
    op.follow_attr("groups", g)
    for i, role in ((3, "out"), (4, "bias")):  # skip [N, (g c)], or with axes of size 1 or the picture's; bias [(g c)]
        if op.has(i):
            last = channel if op.rank(i) == len(x) else -1
            op.tie(op.x(i)[last], x[channel])
            op.role(i, last % op.rank(i), role)
    return [list(x), list(x)]


@couple("LayerNormalization", "SimplifiedLayerNormalization", any_opset=True, learned=(1, 2))
@couple("RMSNormalization", learned=(1,))
@couple("SimplifiedLayerNormalization", domain=MICROSOFT, learned=(1,))
def layer_norm(op: Op) -> list[Axes | None]:
    """Normalize over the axes from `axis` on; scale and bias broadcast to them.

    Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    x = op.x(0)
    axis = op.axis(-1)
    for d in x[axis:]:
        op.mix(d, "takes its mean along it")
    y = _affine(op, x, 1, 2)
    stats: Axes = [*x[:axis], *(op.plain(1) for _ in x[axis:])]
    return [y, *([stats] * (len(op.node.output) - 1))]


def _affine(op: Op, x: Axes, gamma: int, beta: int) -> Axes:
    for i, role in ((gamma, "scale"), (beta, "bias")):
        if op.has(i):
            x = op.broadcast(x, op.x(i))
            op.role(i, op.rank(i) - 1, role)
    return x


@couple("SkipLayerNormalization", domain=MICROSOFT, adds=4, learned=(2, 3, 4))
@couple("SkipSimplifiedLayerNormalization", domain=MICROSOFT, adds=3, learned=(2, 3))
def skip_layer_norm(op: Op) -> list[Axes | None]:
    """y = norm(x + skip [+ bias]) gamma + beta over the last axis; the last output is the sum itself.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    simplified = op.type.startswith("SkipSimplified")
    bias = 3 if simplified else 4
    x = op.broadcast(op.x(0), op.x(1), *([op.x(bias)] if op.has(bias) else []))
    op.mix(x[-1], "takes its mean along it")
    y = _affine(op, x, 2, 99 if simplified else 3)
    stats: Axes = [*x[:-1], op.plain(1)]
    return [y, stats, stats, list(x)]


@couple("GatedRMSNorm", domain=MICROSOFT, learned=(1,))
def gated_rms_norm(op: Op) -> list[Axes | None]:
    """y = rms_norm(x) scale act(gate): x, gate [.., (h c)], scale [c]."""
    x, (scale,) = op.broadcast(op.x(0), op.x(2)), op.x(1)
    _, c = factor(x[-1], find(scale).size)
    op.tie(scale, c)
    op.role(1, 0, "scale")
    op.mix(c, "takes its mean along it")
    return [x]


@couple("EmbedLayerNormalization", "QEmbedLayerNormalization", domain=MICROSOFT, learned=(2, 3, 4, 5, 6), table=(2, 0))
def embed_layer_norm(op: Op) -> list[Axes | None]:
    """norm(words[ids] + positions + segments[ids]) gamma + beta -> y [B, s, e], the mask's lengths [B], the sum.

    The tables are [v, e]. Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    ids = op.x(0)
    tables = [op.x(i) for i in (2, 3, 4) if op.has(i)]
    op.freeze_rows(op.x(2)[0])
    for t in tables[1:]:
        op.freeze(t[0], "a row is looked up by an index that the data holds")
    e = op.tie_column([t[1] for t in tables])
    for i in (2, 3, 4):
        if op.has(i):
            op.role(i, 1, "out")
    for i in range(2, 7) if op.type.startswith("Q") else ():
        if op.has(i):
            op.quantized(i, i + 6, i + 11, 0)
    op.mix(e, "takes its mean along it")
    op.kind(e, "embedding")
    y = _affine(op, [*ids, e], 5, 6)
    return [y, [ids[0]], y]


@couple("LRN")
def lrn(op: Op) -> list[Axes | None]:
    """Sums over neighboring channels: their order matters, so the channel axis is frozen.

    Source: https://onnx.ai/onnx/operators/onnx__LRN.html
    """
    x = op.x(0)
    op.freeze(x[1], "sums over neighboring channels, so their order matters")
    return [list(x)]


@couple("MeanVarianceNormalization", any_opset=True)
@couple("LpNormalization")
def mean_variance(op: Op) -> list[Axes | None]:
    """Normalize over `axes` (or `axis`): those mix. Below opset 9 ONNX Runtime has a MeanVarianceNormalization of its own."""
    x = op.x(0)
    if op.type == "LpNormalization":
        axes = [op.axis(-1)]
    elif op.version < 9:
        axes = list(range(1 if op.attr("across_channels", 0) else 2, len(x)))
    else:
        axes = op.attr("axes", [0, 2, 3])
    for a in axes:
        op.mix(x[a % len(x)], "normalizes along it")
    return [list(x)]


@couple("Softmax", bounds=lambda _node, _constants: (0.0, 1.0))
@couple("LogSoftmax", "Hardmax")
def softmax(op: Op) -> list[Axes | None]:
    """Each position's value depends on which others are there: the axis is frozen.

    Before opset 13 all axes from `axis` on are one. Source: https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    x = op.x(0)
    axis = op.axis(1 if op.version < 13 else -1)
    for d in x[axis:] if op.version < 13 else [x[axis]]:
        op.freeze(d, f"{op.type} runs along it")
    return [list(x)]
