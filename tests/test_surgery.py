"""Surgery's corners that no generated case reaches."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import compute_fingerprint


def weight(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def with_captured_bias() -> onnx.ModelProto:
    """x -> Gemm(w, b) -> Gemm(z) + If(.., reduce(b)): the body reads the bias that the first layer adds."""
    one = helper.make_tensor_value_info("one", TensorProto.FLOAT, [1])
    two = helper.make_tensor_value_info("two", TensorProto.FLOAT, [1])
    then = helper.make_graph([helper.make_node("ReduceMax", ["b"], ["one"], axes=[0])], "then", [], [one])
    other = helper.make_graph([helper.make_node("ReduceMin", ["b"], ["two"], axes=[0])], "else", [], [two])
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "z"], ["g"], name="second"),
        helper.make_node("If", ["flag"], ["c"], name="choice", then_branch=then, else_branch=other),
        helper.make_node("Add", ["g", "c"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "g", inputs, [output], [weight("w", 5, 8), weight("b", 8), weight("z", 8, 3)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_vector_that_a_body_captures_stays_whole_for_the_body() -> None:
    analysis = onnxprune.analyze(with_captured_bias())
    group = analysis.by_name["w"]
    plan = onnxprune.Plan(compute_fingerprint(analysis.model), {"w": onnxprune.Choice(group.size, (1, 4, 6))})
    proto = build_full_proto(onnxprune.apply(analysis, plan))
    onnx.checker.check_model(proto, full_check=True)
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    read = {a.g.node[0].input[0] for a in proto.graph.node[3].attribute}
    assert [shapes[n] for n in read] == [(8,)], "the bodies read all of it"
    assert shapes["w"] == (5, 3) and shapes["z"] == (3, 3)
    assert shapes[proto.graph.node[0].input[2]] == (3,)
