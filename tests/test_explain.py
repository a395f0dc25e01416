"""The route from a frozen weight axis to what freezes it, on small graphs."""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import onnxprune
from onnxprune.explain import FIRST, LAST, Route, explain
from onnxprune.groups import ALONE


def build(nodes: str, outputs: str = "y", **weights: tuple[int, ...]) -> onnx.ModelProto:
    """x [N, 4] -> nodes, as text -> outputs [N, _]."""
    declared = ", ".join(f"float[N, _{n}] {n}" for n in outputs.split())
    opsets = '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>'
    model: onnx.ModelProto = onnx.parser.parse_model(f"{opsets} g (float[N, 4] x) => ({declared}) {{ {nodes} }}")
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return model


def rolled() -> onnx.ModelProto:
    """Channels that are added to themselves three places on: all eight are one."""
    model = build(
        "a = MatMul(x, w1) l, r = Split<axis = 1>(a, cuts) b = Concat<axis = 1>(r, l) c = Add(a, b) y = MatMul(c, w2)",
        w1=(4, 8), w2=(8, 3),
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 5]), "cuts"))
    return model


def routes(nodes: str, outputs: str = "y", **weights: tuple[int, ...]) -> dict[str, str]:
    """`w[0]` -> `MatMul 'a' <- Add 'b' <- ..` for every frozen axis that is no kernel position or the like."""
    found = explain(onnxprune.analyze(build(nodes, outputs, **weights)))
    return {f"{tensor}[{axis}]": said(r) for (tensor, axis), r in found.items()}


def said(route: Route) -> str:
    return " <- ".join(f"{s.operator} '{s.name}'" for s in route.stops)


def test_a_graph_output_freezes_the_last_layer_and_a_graph_input_the_first() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [act] b = Relu(a) [fc2] c = MatMul(b, w2) [sum] y = Add(c, bias)",
        w1=(4, 6), w2=(6, 3), bias=(3,),
    )  # fmt: skip
    assert found == {
        "w1[0]": "MatMul 'fc1' <- graph input 'x'",
        "w2[1]": "MatMul 'fc2' <- Add 'sum' <- graph output 'y'",
        "bias[0]": "Add 'sum' <- graph output 'y'",
    }


def test_the_route_goes_through_an_add_to_the_operator_that_froze() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [fc2] b = MatMul(x, w2) [both] c = Add(a, b) [odd] d = mine.Mystery(c) [fc3] y = MatMul(d, w3)",
        w1=(4, 6), w2=(4, 6), w3=(6, 3),
    )  # fmt: skip
    assert found["w1[1]"] == "MatMul 'fc1' <- Add 'both' <- Mystery 'odd'"
    assert found["w2[1]"] == "MatMul 'fc2' <- Add 'both' <- Mystery 'odd'"


def test_what_an_unknown_operator_reads_and_what_reads_it_is_frozen_by_it() -> None:
    found = routes("[odd] a = mine.Mystery(x, w1) [next] b = Relu(a) [fc] y = MatMul(b, w2)", w1=(4, 6), w2=(6, 3))
    assert found["w1[0]"] == found["w1[1]"] == "Mystery 'odd'"
    assert found["w2[0]"] == found["w2[1]"] == "MatMul 'fc'"  # b has no shape that anybody knows


def test_a_residual_stream_that_is_an_output_freezes_what_writes_to_it_and_what_reads_it() -> None:
    found = routes(
        "[stem] s = MatMul(x, w0) [up] u = MatMul(s, w1) [act] v = Relu(u) [down] d = MatMul(v, w2) [add] y = Add(s, d)",
        w0=(4, 6), w1=(6, 9), w2=(9, 6),
    )  # fmt: skip
    assert found == {
        "w0[0]": "MatMul 'stem' <- graph input 'x'",
        "w0[1]": "MatMul 'stem' <- Add 'add' <- graph output 'y'",
        "w1[0]": "MatMul 'up' <- Add 'add' <- graph output 'y'",  # both read s
        "w2[1]": "MatMul 'down' <- Add 'add' <- graph output 'y'",
    }


def test_a_shared_weight_carries_the_reason_from_one_reader_to_the_other() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [here] b = MatMul(a, tied) [fc2] c = MatMul(b, w2) [there] d = MatMul(x, tied4)"
        "[mix] y = Add(c, d) [fc3] e = MatMul(x, w3) [again] z = MatMul(e, tied)",
        "y z", w1=(4, 6), tied=(6, 5), w2=(5, 3), tied4=(4, 3), w3=(4, 6),
    )  # fmt: skip
    assert found["tied[1]"] == "MatMul 'again' <- graph output 'z'"
    assert found["w2[0]"] == "MatMul 'fc2' <- MatMul 'here' <- weight 'tied' <- MatMul 'again' <- graph output 'z'"
    assert "w1[1]" not in found


def test_each_use_of_a_shared_vector_has_a_route_of_its_own() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [one] b = Add(a, v) [fc2] c = MatMul(b, w2) [two] y = Add(c, v)",
        w1=(4, 6), w2=(6, 6), v=(6,),
    )  # fmt: skip
    assert found["v[0]"] == "Add 'two' <- graph output 'y'"
    assert "w1[1]" not in found


def test_a_route_goes_through_bodies() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [sum] s = ReduceSum<keepdims = 0>(x) [c] cond = Cast<to = 9>(s)"
        "[choice] y = If(cond) <then_branch = t () => (float[N, 6] p) { [act] p = Relu(a) },"
        " else_branch = e () => (float[N, 6] q) { [act] q = mine.Mystery(a) }>",
        w1=(4, 6),
    )  # fmt: skip
    assert found["w1[1]"] == "MatMul 'fc1' <- Mystery 'act'"


def test_a_route_ends_behind_an_if() -> None:
    found = routes(
        "[fc1] a = MatMul(x, w1) [sum] s = ReduceSum<keepdims = 0>(x) [c] cond = Cast<to = 9>(s)"
        "[choice] y = If(cond) <then_branch = t () => (float[N, 6] p) { [up] p = Relu(a) },"
        " else_branch = e () => (float[N, 6] q) { [down] q = Neg(a) }>",
        w1=(4, 6),
    )  # fmt: skip
    assert found["w1[1]"] == "MatMul 'fc1' <- Relu 'up' <- If 'choice' <- graph output 'y'"


def test_a_long_route_is_cut_in_the_middle() -> None:
    n = 3 * (FIRST + LAST)
    chain = " ".join(f"[n{i}] t{i + 1} = Relu(t{i})" for i in range(n))
    model = build(f"[fc] t0 = MatMul(x, w) {chain} [odd] y = mine.Mystery(t{n})", w=(4, 6))
    route = explain(onnxprune.analyze(model))["w", 1]
    names = [s.name for s in route.stops]
    assert names == ["fc", *(f"n{i}" for i in range(FIRST - 1)), *(f"n{i}" for i in range(n - LAST + 1, n)), "odd"]
    assert len(names) + route.left_out == n + 2


def test_an_axis_that_a_single_channel_owns_is_frozen_without_a_route() -> None:
    a = onnxprune.analyze(rolled())
    assert not a.groups
    assert {(f.tensor, f.axis) for f in a.frozen if f.reason.text == ALONE} == {("w1", 1), ("w2", 0)}
    assert explain(a)["w1", 1] == Route()


def test_a_frozen_axis_names_the_use_that_is_frozen() -> None:
    nodes = "a = MatMul(x, w1) c = Add(a, b) e = Relu(c) z = MatMul(e, w2) d = MatMul(x, v1) y = Add(d, b)"
    a = onnxprune.analyze(build(nodes, "y z", w1=(4, 8), v1=(4, 8), w2=(8, 3), b=(8,)))
    (use,) = (f.use for f in a.frozen if f.tensor == "b")
    assert a.flat.proto.graph.node[use[1]].output[0] == "y"
