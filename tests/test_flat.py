"""Bodies and calls laid out flat, and put back."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.graph.edit import Editor
from onnxprune.graph.flat import FLAT, flatten, nest
from onnxprune.graph.model import Model
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import compute_fingerprint

op = helper.make_node
IMPORTS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def w(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32), name)


def value(name: str, *dims: Any, elem: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, dims)


def model() -> onnx.ModelProto:
    """Two layers; a call on what the first makes, one on the output; an If whose branches share names and own weights."""
    constant = op("Constant", [], ["k"], value=w("k", 8))
    twice = [op("Half", ["a"], ["c"], domain="local"), op("Add", ["c", "c"], ["b"])]
    functions = [
        helper.make_function("local", "Scaled", ["a"], ["b"], [constant, op("Mul", ["a", "k"], ["b"])], IMPORTS),
        helper.make_function("local", "Twice", ["a"], ["b"], twice, IMPORTS),
        helper.make_function("local", "Half", ["a"], ["b"], [op("Identity", ["a"], ["b"])], IMPORTS),
        helper.make_function("local", "Unused", ["a"], ["b"], [op("Relu", ["a"], ["b"])], IMPORTS),
    ]  # fmt: skip
    branches = {
        f"{name}_branch": helper.make_graph(
            [op("Add", ["s", "p"], ["t"]), op("Relu", ["t"], ["r"])], name, [], [value("r", "n", 8)], [w("p", 8)],
            value_info=[value("t", "n", 8)],
        )
        for name in ("then", "else")
    }  # fmt: skip
    nodes = [
        op("MatMul", ["x", "w1"], ["h"]),
        op("Scaled", ["h"], ["s"], domain="local"),
        op("If", ["flag"], ["i"], name="choice", **branches),
        op("MatMul", ["i", "w2"], ["z"]),
        op("Twice", ["z"], ["y"], domain="local"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", "n", 6), value("flag", elem=TensorProto.BOOL)],
        [value("y", "n", 3)],
        [w("w1", 6, 8), w("w2", 8, 3)],
    )
    return helper.make_model(graph, opset_imports=IMPORTS, functions=functions, ir_version=9)


def test_flat_and_back_is_the_same_model() -> None:
    source = onnxprune.load(model())
    flat = flatten(source)
    names = [o for n in flat.proto.graph.node for o in n.output]
    assert len(names) == len(set(names)), "one scope, so every name once"
    assert not any(a.type == onnx.AttributeProto.GRAPH for n in flat.proto.graph.node for a in n.attribute)
    assert {n.op_type for n in flat.proto.graph.node if n.domain == FLAT} == {
        "IfOpen",
        "Close",
        "CallOpen",
        "CallClose",
    }
    back = build_full_proto(nest(Editor(flat).finish(), source))
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in model().graph.node]
    assert {f.name for f in back.functions} == {"Scaled", "Twice", "Half", "Unused"}
    onnx.checker.check_model(back, full_check=True)


def test_a_model_without_bodies_is_flat_already() -> None:
    proto = model()
    del proto.graph.node[1:3], proto.graph.node[2:], proto.functions[:]
    source = Model(proto, {}, None, 0)
    assert flatten(source) is source


def test_a_call_stays_where_nothing_in_it_changed() -> None:
    analysis = onnxprune.analyze(model())
    (group,) = analysis.groups
    assert {m.tensor for m in group.members} >= {"w1", "w2", "k", "p", "p__2"}
    plan = onnxprune.Plan(compute_fingerprint(analysis.model), {group.name: onnxprune.Choice(8, (1, 4, 6))})
    proto = build_full_proto(onnxprune.apply(analysis, plan))
    onnx.checker.check_model(proto, full_check=True)
    assert [n.op_type for n in proto.graph.node] == ["MatMul", "Constant", "Mul", "If", "MatMul", "Twice"]
    assert [f.name for f in proto.functions] == ["Twice", "Half", "Unused"], "nobody calls Scaled any more"
    for branch in proto.graph.node[3].attribute:
        assert [list(t.dims) for t in branch.g.initializer] == [[3]], "a branch keeps its own weights"
        assert branch.g.output[0].type.tensor_type.shape.dim[1].dim_value == 3
    assert {t.name for t in proto.graph.initializer} == {"w1", "w2"}


@pytest.mark.parametrize("version", [16, 17])
def test_a_function_of_another_opset_is_not_inlined(version: int) -> None:
    proto = model()
    proto.functions[0].opset_import[0].version = version
    calls = [n for n in flatten(onnxprune.load(proto)).proto.graph.node if n.op_type == "Scaled"]
    assert len(calls) == (version != 17)
