"""Productions: branches and loops whose bodies read values and weights from outside."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from fuzzing.linear import dense
from fuzzing.pool import Pool, Skip, Value, production, static

FLOAT = TensorProto.FLOAT


def value_info(name: str, elem: int = FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def body_of(p: Pool, v: Value, c: int) -> tuple[list[onnx.NodeProto], Value]:
    """A few nodes that act on v, taken out of the net: its weights stay outside."""
    start = len(p.net.nodes)
    y = dense(p, v, c) if p.dice.chance(0.7) else v
    y = p.like(p.dice.pick("Relu", "Tanh", "Neg"), y)
    inside = p.net.nodes[start:]
    del p.net.nodes[start:]
    return inside, y


@production(1, since=13)
def branch(p: Pool) -> None:
    """If, on what the data say: two bodies that read one tensor."""
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[-1], 2))
    c = v.shape[-1]
    assert isinstance(c, int)
    cond = p.net.op("Greater", p.net.op("ReduceMax", v, keepdims=0), p.net.real(p.dice.pick(-9.0, 0.5, 9.0)))
    bodies = []
    for name in ("then", "else"):
        nodes, y = body_of(p, v, c)
        if not nodes:
            raise Skip
        bodies.append(helper.make_graph(nodes, name, [], [value_info(y)]))
    p.add(p.make("If", [cond], v.shape, v.axis, then_branch=bodies[0], else_branch=bodies[1]))


@production(1, since=13)
def loop(p: Pool) -> None:
    """Loop, a fixed number of times: x = f(x), with a tensor from outside or without."""
    v = p.draw(lambda v: v.rank >= 2 and static(v.shape[-1], 2))
    c = v.shape[-1]
    assert isinstance(c, int)
    carried = Value(p.net.name("carried"), v.shape, v.axis)
    nodes, y = body_of(p, carried, c)
    go, on, step = (p.net.name(n) for n in ("go", "on", "step"))
    last = p.net.name("last")
    nodes.append(helper.make_node("Add", [y, p.dice.pick(carried, v)], [last]))
    nodes.append(helper.make_node("Identity", [go], [on]))
    body = helper.make_graph(
        nodes, "body",
        [value_info(step, TensorProto.INT64, []), value_info(go, TensorProto.BOOL, []), value_info(carried)],
        [value_info(on, TensorProto.BOOL, []), value_info(last)],
    )  # fmt: skip
    p.add(p.make("Loop", [p.net.const(p.dice.pick(1, 2, 3)), "", v], v.shape, v.axis, body=body))
