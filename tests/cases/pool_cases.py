"""Cases: Pooling, resizing, reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from cases.base import F32, I64, MS, Built, Draw, Net, _above_one, any_mid, case


@case("AveragePool", "MaxPool", "LpPool", examples=4)
def pool(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 12, 19))
    m = any_mid(net, "image", "signal")
    k = m.rank - 2
    attrs: dict[str, Any] = {"kernel_shape": [2] * k, "strides": [d.int(1, 2)] * k}
    if d.flag():
        attrs["pads"] = [1] * (2 * k)
    return m.end(net.op(op, m.x, **attrs), exact=True)


@case("MaxPool", examples=2)
def pool_with_indices(d: Draw, op: str) -> Built:
    net = Net(d, 12)
    m = any_mid(net, "image")
    y, at = net.ops(op, m.x, outs=2, kernel_shape=[2, 2])
    y = net.op("Add", y, net.op("Mul", net.to_float(at), net.real(1e-3)))
    m.close(net.conv(y, "b", (4, m.c, 1, 1)), 4)
    return net.done(m.used, frozen=[m.made])


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", examples=3)
def global_pool(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 17))
    m = any_mid(net, "image", "signal")
    y = net.op(op, m.x)
    form = d.pick("conv", "flatten", "squeeze", "reshape")
    if form == "conv":
        return m.end(y, exact=True)
    if form == "flatten":
        y = net.op("Flatten", y, axis=d.pick(1, None))
    elif form == "squeeze":
        y = net.squeeze(y, *range(2, m.rank))
    else:
        y = d.pick(lambda: net.reshape(y, -1, m.c), lambda: net.reshape(y, "0", -1), lambda: net.reshape(y, 0, m.c))()
    net.out(net.gemm(y, "z", 3, m.c))
    return net.done(m.made, ("z.weight", 1), exact=True)


@case("Resize", examples=10)
def resize(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 11, 13, 18))
    m = any_mid(net, "image", "signal")
    k = m.rank - 2
    mode = d.pick("nearest", "linear")
    form = d.pick("scales", "sizes", "computed") if net.opset >= 11 else "scales"
    if form == "scales":
        scales = net.const([1.0, 1.0, *([2.0] * k)], F32)
        ins = [scales] if net.opset == 10 else [net.init("roi", np.zeros(0, F32)) if net.opset < 13 else "", scales]
        return m.end(net.op(op, m.x, *ins, mode=mode), exact=True)
    if form == "sizes":  # to a fixed picture; the batch is read from the shape
        sizes = net.op("Concat", net.size(m.x, 0), net.const([m.c, *([9] * k)]), axis=0)
    else:
        shape = net.op("Shape", m.x)
        head = net.op("Slice", shape, net.const([0]), net.const([2]), net.const([0]))
        tail = net.op("Slice", shape, net.const([2]), net.const([m.rank]), net.const([0]))
        sizes = net.op("Concat", head, net.op("Mul", tail, net.const([2])), axis=0)
    if net.opset >= 18 and d.flag():
        tail = net.op("Slice", sizes, net.const([2]), net.const([m.rank]), net.const([0]))
        return m.end(net.op(op, m.x, "", "", tail, mode=mode, axes=list(range(2, m.rank))), exact=True)
    roi = net.init("roi", np.zeros(0, F32)) if net.opset < 13 else ""
    nil = net.init("nil", np.zeros(0, F32)) if net.opset < 13 else ""
    return m.end(net.op(op, m.x, roi, nil, sizes, mode=mode), exact=True)


@case("Upsample", examples=3)
def upsample(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(8, 9))
    m = any_mid(net, "image")
    scales = [1.0, 1.0, 2.0, 2.0]
    if net.opset < 9:
        return m.end(net.op(op, m.x, scales=scales, mode="nearest"), exact=True)
    return m.end(net.op(op, m.x, net.const(scales, F32), mode="nearest"), exact=True)


@case("GridSample", examples=3)
def grid_sample(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(16, 20))
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, net.op("Tanh", net.input("grid", "N", 5, 4, 2))), exact=True)


@case("GridSample", domain=MS, examples=2)
def ms_grid_sample(d: Draw, op: str) -> Built:
    net = Net(d, 13, ms=True)
    m = any_mid(net, "image")
    return m.end(net.op(op, m.x, net.op("Tanh", net.input("grid", "N", 5, 4, 2)), domain=MS), exact=True)


@case("RoiAlign", examples=3)
def roi_align(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 16))
    m = any_mid(net, "image")
    boxes = net.init("boxes", np.array([[0, 0, 4, 4], [1, 1, 5, 6]], F32))
    return m.end(net.op(op, m.x, boxes, net.init("batch", np.zeros(2, I64)), output_height=2, output_width=2))


@case("MaxRoiPool", examples=2)
def max_roi_pool(d: Draw, op: str) -> Built:
    net = Net(d, 13)
    m = any_mid(net, "image")
    return m.end(
        net.op(op, m.x, net.init("rois", np.array([[0, 0, 0, 4, 4], [0, 1, 1, 5, 5]], F32)), pooled_shape=[2, 2])
    )


@case(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare", examples=5,
)  # fmt: skip
def reduction(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13, 18))
    since = 13 if op == "ReduceSum" else 18
    m = any_mid(net, "image", "tokens")
    x = _above_one(net, m.x) if op in ("ReduceProd", "ReduceLogSum") else m.x
    form = d.pick("others", "negative", "channel", "noop")
    others = [a for a in range(1, m.rank) if a != m.axis]
    if form == "noop" and net.opset >= since:
        return m.end(net.op(op, x, noop_with_empty_axes=1))
    if form == "channel":  # an exported gate: a mean over channels scales them
        s = net.axes_op(op, x, [d.pick(m.axis, m.axis - m.rank)], since, keepdims=1)
        return m.end(net.op("Mul", net.op("Sigmoid", s), m.x), exact=False)
    axes = [a - m.rank for a in others] if form == "negative" else others
    keepdims = d.int(0, 1)
    y = net.axes_op(op, x, axes, since, keepdims=keepdims)
    if keepdims:
        return m.end(y, exact=True)
    net.out(net.op("Gemm", y, net.init("z.weight", net.matrix(m.c, 3))))
    return net.done(m.made, ("z.weight", 0), exact=True)


@case("ArgMax", "ArgMin", examples=3)
def arg(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 13))
    m = any_mid(net, "image", "tokens")
    keep = d.int(0, 1)
    if d.flag():  # along the channels, which stay
        at = net.op(
            op,
            net.linear(m.x, "b", m.c, 4) if m.kind == "tokens" else net.conv(m.x, "b", (4, m.c, 1, 1)),
            axis=m.axis,
            keepdims=keep,
        )
        net.out(at, TensorProto.INT64)
        return net.done(m.made, frozen=[("b.weight", 1 if m.kind == "tokens" else 0)], exact=True)
    axis = d.pick(1, -2) if m.kind == "tokens" else d.pick(2, -2)
    at = net.to_float(net.op(op, m.x, axis=axis, keepdims=1))
    return m.end(at)


@case("TopK", examples=3)
def top_k(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(10, 11))
    m = any_mid(net, "tokens")
    k = net.const([2])
    if d.flag():
        values, _ = net.ops(op, m.x, k, outs=2, axis=1)
        return m.end(values)
    values, _ = net.ops(op, m.x, k, outs=2, axis=-1)
    net.linear(values, "b", 2, 4)
    m.close(net.linear(values, "c", 2, 4), 4)
    return net.done(("c.weight", 1), m.used, frozen=[m.made])


@case("CumSum", examples=3)
def cumulative(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(11, 14))
    m = any_mid(net, "tokens", "image")
    if d.flag():
        return m.end(net.op(op, m.x, net.const(1 if m.kind == "tokens" else -1)))
    y = net.op(op, m.x, net.const(m.axis))
    m.close(net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4), 4)
    return net.done(m.used, frozen=[m.made])


@case("CumProd", examples=3)
def cumulative_product(d: Draw, op: str) -> Built:
    net = Net(d, 26)
    m = any_mid(net, "tokens")
    return m.end(net.op(op, m.x, net.const(1)))


@case("ReduceMean", examples=4)
def layer_norm_decomposed(d: Draw, op: str) -> Built:
    net = Net(d, d.pick(13, 18))
    m = any_mid(net, "tokens", "image")
    centered = net.op("Sub", m.x, net.mean(m.x, [d.pick(m.axis, m.axis - m.rank)]))
    square = net.op("Pow", centered, net.real(2.0)) if d.flag() else net.op("Mul", centered, centered)
    var = net.mean(square, [m.axis])
    y = net.op("Div", centered, net.op("Sqrt", net.op("Add", var, net.real(1e-5))))
    y = net.op("Add", net.op("Mul", y, net.weight("ln.scale", *m.column())), net.weight("ln.bias", *m.column()))
    m.close(y)
    return net.done(m.made, ("ln.scale", 0), ("ln.bias", 0), m.used, exact=False)


@case("ReduceMean", examples=4)
def group_norm_decomposed(d: Draw, op: str) -> Built:
    """GroupNorm out of Reshape, ReduceMean and arithmetic."""
    net = Net(d, d.pick(13, 18))
    m = any_mid(net, "image", c=6)
    target = d.pick((0, 2, -1), ("0", 2, -1), (0, 2, 3, -1))
    y = net.reshape(m.x, *target)
    axes = list(range(2, len(target)))
    y = net.op("Sub", y, net.mean(y, axes))
    y = net.op("Div", y, net.op("Sqrt", net.op("Add", net.mean(net.op("Mul", y, y), axes), net.real(1e-5))))
    y = net.op("Reshape", y, net.op("Shape", m.x))
    y = net.op("Add", net.op("Mul", y, net.weight("gn.scale", *m.column())), net.weight("gn.bias", 1, *m.column()))
    m.close(y)
    return net.done(m.made, ("gn.scale", 0), ("gn.bias", 1), m.used)


@case("Crop", examples=2)
def crop(d: Draw, op: str) -> Built:
    """An operator of before ONNX 1.0 that old files still hold."""
    net = Net(d, 7)
    m = any_mid(net, "image")
    m.close(net.op("Relu", net.op(op, m.x, border=[1, 0, 1, 2], scale=d.pick(None, [3, 4]))))
    return net.done(m.made, m.used)
