"""Cases: Bodies, local functions, and what is opaque."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from cases.base import DIMS, F32, UNCHECKED, Built, Draw, Net, any_mid, case


@case("If", "Loop", examples=3)
def captured(d: Draw, op: str) -> Built:
    """Bodies read an outer value: it is frozen; the rest is not."""
    net = Net(d)
    m = any_mid(net, "tokens")
    made = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    if op == "If":
        bodies = [
            helper.make_graph([helper.make_node(n, [m.x], ["r"])], n, [], made) for n in ("Relu", "Neg")
        ]  # fmt: skip
        cond = net.op("Greater", net.op("ReduceSum", "input", keepdims=0), net.real(0.0))
        y = net.op(op, cond, then_branch=bodies[0], else_branch=bodies[1])
    else:

        def info(name: str, elem: int, shape: list[int] | None) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, elem, shape)

        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["k"]), helper.make_node("Add", ["s", m.x], ["r"])], "body",
            [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("s", TensorProto.FLOAT, None)],
            [info("k", TensorProto.BOOL, []), *made],
        )  # fmt: skip
        y = net.op(op, net.const(2), "", m.x, body=body)
    if declared := d.flag():
        net.declare(y, "N", "T", m.c)
    y = net.linear(net.op("Relu", net.linear(y, "b", m.c, 5)), "c", 5, 4)
    m.close(y, 4)
    prunable = [("b.weight", 1), ("c.weight", 0), ("c.weight", 1), m.used] if declared else []
    return net.done(*prunable, frozen=[m.made], groups=2 if declared else 0)


@case("Half", domain="local", examples=2)
def local_function(d: Draw, op: str) -> Built:
    """A model with all that a file can hold besides its graph, which an empty plan must keep."""
    net = Net(d, 13)
    m = any_mid(net)
    y = net.op("Half", m.x, domain="local")
    if declared := d.flag():
        net.declare(y, *(m.c if a == m.axis else n for a, n in enumerate(DIMS[m.kind])))
    if m.kind == "flat":
        y = net.gemm(y, "b", 4, m.c)
    else:
        y = net.conv(y, "b", (4, m.c, 1, 1)) if m.kind == "image" else net.linear(y, "b", m.c, 4)
    m.close(net.op("Relu", y), 4)
    nodes = [helper.make_node("Constant", [], ["h"], value_float=0.5), helper.make_node("Mul", ["x", "h"], ["y"])]
    half = helper.make_function("local", "Half", ["x"], ["y"], nodes, [helper.make_opsetid("", 13)])
    made = ("b.weight", 1 if m.kind == "tokens" else 0)
    return net.done(*([made, m.used] if declared else []), functions=[half], frozen=[m.made], groups=int(declared))


@case("NonMaxSuppression", "Compress", "Unique", examples=2)
def selected(d: Draw, op: str) -> Built:
    """Selections: everything that they read is frozen, their neighbours are not."""
    net = Net(d, 13)
    c = 4
    x = net.linear(net.input("input", 1, 5, 6), "a", 6, c)
    if op == "NonMaxSuppression":
        scores = net.op("Transpose", net.linear("input", "s", 6, 2), perm=[0, 2, 1])
        net.out(net.op(op, x, scores, net.const([3]), net.const([0.5], F32)), TensorProto.INT64)
    elif op == "Compress":
        net.out(net.op(op, x, net.const([True, False, True, True, False], np.bool_), axis=1))
    else:
        net.out(net.op(op, x))
    y = net.op("Relu", net.linear("input", "b", 6, 5))
    net.out(net.linear(y, "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


@case("Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", examples=2)
def drawn_from_channels(d: Draw, op: str) -> Built:
    """Noise as wide as the channels, times zero."""
    net = Net(d, 15)
    m = any_mid(net, "flat")
    x = net.op("Sigmoid", m.x)
    y = net.to_float(net.op(op, x, sample_size=m.c if op == "Multinomial" else None))
    y = net.op("Add", x, net.op("Mul", y, net.real(0.0)))
    m.close(net.op("Relu", net.gemm(y, "b", 4, m.c)), 4)
    return net.done(("b.weight", 0), m.used, frozen=[m.made])


@case("Scan", "SequenceMap", examples=2)
def body_over_a_sequence(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    x = net.linear(net.input("input", 3, 5, 6), "a", 6, 4)
    info = helper.make_tensor_value_info
    if op == "Scan":
        body = helper.make_graph(
            [helper.make_node("Neg", ["i"], ["o"])], "body", [info("i", 1, [5, 4])], [info("o", 1, [5, 4])]
        )
        y = net.op(op, x, body=body, num_scan_inputs=1)
    else:
        body = helper.make_graph(
            [helper.make_node("Neg", ["i"], ["o"])], "body", [info("i", 1, None)], [info("o", 1, None)]
        )
        parts = net.op("SplitToSequence", x, axis=0, keepdims=1)
        y = net.op("ConcatFromSequence", net.op(op, parts, body=body), axis=0)
    net.declare(y, 3, 5, 4)
    net.out(net.linear(net.op("Relu", net.linear(y, "b", 4, 5)), "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


UNCHECKED[("", "SpatialBN")] = "Caffe2's operator of before ONNX 1.0: no runtime has it, and onnx.checker refuses it"
