"""Cases: Bodies, local functions, and what is opaque."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cases.base import F32, UNCHECKED, Array, Built, Draw, Mid, Net, any_mid, case, mid


def body(
    name: str, nodes: Sequence[onnx.NodeProto], ins: Mapping[str, int], outs: Mapping[str, int], **weights: Array
) -> onnx.GraphProto:
    """A body; its inputs and outputs are names with element types, its weights initializers of its own."""
    values = [
        [helper.make_tensor_value_info(n, t, None if t == 1 else []) for n, t in kind.items()] for kind in (ins, outs)
    ]
    return helper.make_graph(nodes, name, *values, [numpy_helper.from_array(w, n) for n, w in weights.items()])


def tip(m: Mid, net: Net, y: str) -> Built:
    """The case ends: relu, another layer, the output."""
    m.close(net.op("Relu", y))
    return net.done(m.made, m.used)


@case("If", examples=12)
def branches(d: Draw, op: str) -> Built:
    """Two branches read one outer value, or a second one, and own weights; names of one branch come back in the other."""
    net = Net(d)
    m = any_mid(net, "tokens", "image")
    other = m.again("b") if d.flag() else m.x
    scale = net.matrix(*m.column()) + F32(1)
    then = body(
        "then",
        [helper.make_node("Mul", [m.x, "w"], ["t"]), helper.make_node("Tanh", ["t"], ["r"])],
        {},
        {"r": 1},
        w=scale,
    )
    nested = helper.make_node(
        "If", ["k"], ["r"], name="inner",
        then_branch=body("a", [helper.make_node("Relu", [m.x], ["r2"])], {}, {"r2": 1}),
        else_branch=body("b", [helper.make_node("Neg", ["t"], ["r2"])], {}, {"r2": 1}),
    )  # fmt: skip
    nodes = [helper.make_node("Add", [other, "w"], ["t"])]
    if d.flag():
        nodes += [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(d.flag()))), nested]
    else:
        nodes.append(helper.make_node("Sigmoid", ["t"], ["r"]))
    cond = net.op("Greater", net.op("ReduceSum", "input", keepdims=0), net.real(d.pick(0.0, 1e9, -1e9)))
    y = net.op(op, cond, then_branch=then, else_branch=body("else", nodes, {}, {"r": 1}, w=scale * F32(2)))
    return tip(m, net, y)


@case("If", examples=4)
def never_taken(d: Draw, op: str) -> Built:
    """The condition is a constant, as exporters leave it: the branch that is never taken would not fit."""
    net = Net(d)
    m = any_mid(net, "tokens")
    one = d.flag()
    ones = net.op("Shape", net.op("Unsqueeze", m.x, net.const([1]))) if one else net.op("Shape", m.x)
    cond = net.op("Equal", net.op("Gather", ones, net.const(1 if one else 2), axis=0), net.const(1))
    x = net.op("Unsqueeze", m.x, net.const([1])) if one else m.x
    squeeze = body("then", [helper.make_node("Squeeze", [x, net.init("ax", np.array([1]))], ["r"])], {}, {"r": 1})
    keep = body("else", [helper.make_node("Identity", [x], ["s"])], {}, {"s": 1})
    return tip(m, net, net.op(op, cond, then_branch=squeeze, else_branch=keep))


@case("If", examples=3)
def branches_of_other_sizes(d: Draw, op: str) -> Built:
    """Branches that differ in a channel count freeze it."""
    net = Net(d, 13)
    m = mid(net, "tokens", 4)
    net.linear("input", "b", 6, 5)
    branches = {
        f"{name}_branch": body(name, [helper.make_node("Identity", [x], [name])], {}, {name: 1})
        for name, x in (("then", m.x), ("else", net.nodes[-1].output[0]))
    }
    cond = net.op("Greater", net.op("ReduceSum", "input", keepdims=0), net.real(d.pick(1e9, -1e9)))
    y = net.op("ReduceMean", net.op(op, cond, **branches), axes=[-1], keepdims=1)
    net.out(net.linear(net.op("Relu", net.linear(y, "c", 1, 5)), "z", 5, 3))
    return net.done(("c.weight", 1), ("z.weight", 0), frozen=[m.made, ("b.weight", 1)])


@case("Loop", examples=12)
def recurrence(d: Draw, op: str) -> Built:
    """state = tanh(state @ w + layer), a number of times; every step's state is returned too."""
    net = Net(d)
    m = any_mid(net, "tokens", "flat")
    own = d.flag()
    w = {"w": net.matrix(m.c, m.c)}
    if not own:
        net.init("w", w.pop("w"))
    cond = d.pick("c", "t")
    nodes = [
        helper.make_node("MatMul", ["s", "w"], ["p"]),
        helper.make_node("Add", ["p", m.x], ["q"]),
        helper.make_node("Tanh", ["q"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["u"], axes=[-1], keepdims=0),
        helper.make_node("Identity", [cond], ["k"]),
    ]
    if cond == "t":
        nodes.insert(0, helper.make_node("Less", ["i", net.const(3)], ["t"]))
    inner = body(
        "body",
        nodes,
        {"i": TensorProto.INT64, "c": TensorProto.BOOL, "s": 1},
        {"k": TensorProto.BOOL, "r": 1, "u": 1},
        **w,
    )
    start = d.pick(m.x, "zeros")
    if start == "zeros":
        start = net.op("Mul", m.x, net.real(0.0)) if m.kind == "tokens" else net.init("h0", net.matrix(1, m.c) * F32(0))
    if start == "h0":
        start = net.op("Add", start, net.op("Mul", m.x, net.real(0.0)))
    count = d.pick(net.const(2), "")
    if not count and cond == "c":
        count = net.const(3)
    y, steps = net.ops(op, count, d.pick("", net.const(True, np.bool_)), start, outs=2, body=inner)
    net.out(net.op("ReduceSum", steps, net.const([0]), keepdims=0))
    m.close(net.op("Relu", y))
    return net.done(m.made, m.used, *([] if own else [("w", 0), ("w", 1)]))


@case("Loop", examples=3)
def growing(d: Draw, op: str) -> Built:
    """What a loop carries grows along the tokens; its features are channels all the same."""
    net = Net(d, 13)
    m = mid(net, "tokens", d.int(3, 5))
    nodes = [helper.make_node("Concat", ["s", m.x], ["r"], axis=1), helper.make_node("Identity", ["c"], ["k"])]
    inner = body(
        "body", nodes, {"i": TensorProto.INT64, "c": TensorProto.BOOL, "s": 1}, {"k": TensorProto.BOOL, "r": 1}
    )
    return tip(m, net, net.op(op, net.const(2), "", m.x, body=inner))


@case("Loop", examples=2)
def growing_channels(d: Draw, op: str) -> Built:
    """A loop that doubles the channels freezes them."""
    net = Net(d, 13)
    m = mid(net, "tokens", 4)
    nodes = [helper.make_node("Concat", ["s", m.x], ["r"], axis=2), helper.make_node("Identity", ["c"], ["k"])]
    inner = body(
        "body", nodes, {"i": TensorProto.INT64, "c": TensorProto.BOOL, "s": 1}, {"k": TensorProto.BOOL, "r": 1}
    )
    y = net.op("ReduceMean", net.op(op, net.const(2), "", m.x, body=inner), axes=[-1], keepdims=1)
    net.out(net.linear(net.op("Relu", net.linear(y, "c", 1, 5)), "z", 5, 3))
    return net.done(("c.weight", 1), ("z.weight", 0), frozen=[m.made])


@case("Scan", examples=8)
def scan(d: Draw, op: str) -> Built:
    """A recurrent layer written as a Scan over the tokens, its weights inside or outside."""
    net = Net(d, 17)
    c = d.int(3, 5)
    x = net.linear(net.input("input", 3, "T", 6), "a", 6, c)
    own = d.flag()
    w = {"w": net.matrix(c, c)}
    if not own:
        net.init("w", w.pop("w"))
    nodes = [
        helper.make_node("MatMul", ["s", "w"], ["p"]),
        helper.make_node("Add", ["p", "i"], ["q"]),
        helper.make_node("Tanh", ["q"], ["r"]),
        helper.make_node("Relu", ["r"], ["o"]),
    ]
    inner = body("body", nodes, {"s": 1, "i": 1}, {"r": 1, "o": 1}, **w)
    axis = d.pick(1, -2)
    start = net.init("h0", net.matrix(3, c))
    last, y = net.ops(
        op, start, x, outs=2, body=inner, num_scan_inputs=1, scan_input_axes=[axis], scan_output_axes=[axis],
    )  # fmt: skip
    net.out(net.op("MatMul", last, net.init("l", net.matrix(c, 2))))
    net.out(net.linear(y, "z", c, 3))
    return net.done(("a.weight", 1), ("z.weight", 0), ("h0", 1), ("l", 0), groups=1)


@case("SequenceMap", examples=2)
def body_over_a_sequence(d: Draw, op: str) -> Built:
    net = Net(d, 17)
    x = net.linear(net.input("input", 3, 5, 6), "a", 6, 4)
    inner = body("body", [helper.make_node("Neg", ["i"], ["o"])], {"i": 1}, {"o": 1})
    parts = net.op("SplitToSequence", x, axis=0, keepdims=1)
    y = net.op("ConcatFromSequence", net.op(op, parts, body=inner), axis=0)
    net.declare(y, 3, 5, 4)
    net.out(net.linear(net.op("Relu", net.linear(y, "b", 4, 5)), "z", 5, 3))
    return net.done(("b.weight", 1), ("z.weight", 0), frozen=[("a.weight", 1)])


@case("Half", domain="local", examples=2)
def local_function(d: Draw, op: str) -> Built:
    """A call between two layers."""
    net = Net(d, 13)
    m = any_mid(net)
    y = net.op("Half", m.x, domain="local")
    m.close(net.op("Relu", y))
    nodes = [helper.make_node("Constant", [], ["h"], value_float=0.5), helper.make_node("Mul", ["x", "h"], ["y"])]
    half = helper.make_function("local", "Half", ["x"], ["y"], nodes, [helper.make_opsetid("", 13)])
    return net.done(m.made, m.used, functions=[half])


@case("Block", domain="local", examples=6)
def function_with_weights(d: Draw, op: str) -> Built:
    """A function that calls another, with attributes, a default, a body and a constant as wide as the channels."""
    net = Net(d, 17)
    m = mid(net, "tokens", 4)
    given = {"slope": 0.3} if d.flag() else {}
    y = net.op("Block", m.x, net.init("w", net.matrix(4, 5)), domain="local", **given)
    y = net.op(
        "Block", net.op("Relu", net.linear(y, "b", 5, 4)), net.init("v", net.matrix(4, 4)), domain="local", **given
    )
    m.close(y)
    scale = numpy_helper.from_array(net.matrix(4) + F32(2))
    leaky = helper.make_node("LeakyRelu", ["t"], ["y"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    twice = helper.make_node("Twice", ["u"], ["t"], domain="local")
    nodes = [
        helper.make_node("Constant", [], ["s"], value=scale),
        helper.make_node("Mul", ["x", "s"], ["k"]),
        helper.make_node("MatMul", ["k", "w"], ["u"]),
        twice,
        leaky,
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    block = helper.make_function("local", "Block", ["x", "w"], ["y"], nodes, imports)
    block.attribute_proto.append(helper.make_attribute("slope", 0.1))
    double = helper.make_function("local", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], imports)
    return net.done(m.made, ("w", 0), ("w", 1), ("b.weight", 0), ("b.weight", 1), ("v", 0), functions=[block, double])


@case("NonMaxSuppression", "Compress", "Unique", examples=2)
def selected(d: Draw, op: str) -> Built:
    """Selections: everything that they read is frozen, their neighbors are not."""
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


for _copy in ("MemcpyFromHost", "MemcpyToHost"):
    UNCHECKED["", _copy] = "ONNX Runtime writes it for a GPU, and runs it on no other device"
UNCHECKED[("", "SpatialBN")] = "Caffe2's operator of before ONNX 1.0: no runtime has it, and onnx.checker refuses it"
