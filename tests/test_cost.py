"""What a plan leaves, counted without applying it: law 6 of `laws.py` on real networks, and the corners of the counting."""

from __future__ import annotations

from pathlib import Path

import laws
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_zoo import SAMPLE, every_model, load, needs_zoo

import onnxprune
from onnxprune import Analysis, Options
from onnxprune.allocate import COSTS, make_cost, select_candidates
from onnxprune.allocate.polynomial import Compiled, Poly

MODELS = Path(__file__).parents[1] / "models"


def counted(analysis: Analysis) -> dict[str, int | None]:
    return {"macs": analysis.macs(), "params": analysis.params(), "bytes": laws.stored_bytes(analysis)}


def compare(analysis: Analysis, ratio: float, seed: int = 0) -> None:
    """Cut some of the groups, and count both ways."""
    rng = np.random.default_rng(seed)
    chosen = [g for g in analysis.groups if rng.random() < 0.8]
    keeps = {g.name: sorted(rng.permutation(g.size)[: max(1, round(g.size * (1 - ratio)))].tolist()) for g in chosen}
    pruned = onnxprune.analyze(onnxprune.apply(analysis, laws.plan_of(analysis, keeps)))
    for kind, want in counted(pruned).items():
        cost = make_cost(analysis, kind)
        assert (None if cost is None else cost.of(keeps)) == want, kind


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_the_models_of_the_project(name: str, ratio: float) -> None:
    compare(onnxprune.analyze(MODELS / f"{name}.onnx"), ratio)


@needs_zoo
@pytest.mark.parametrize("name", SAMPLE)
def test_models_of_the_zoo(name: str) -> None:
    compare(onnxprune.analyze(load(name)), 0.5)


@needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", every_model())
def test_every_model_of_the_zoo(name: str) -> None:
    analysis = onnxprune.analyze(load(name))
    for seed, ratio in enumerate((0.3, 0.9)):
        compare(analysis, ratio, seed)


def test_counts_alone_give_what_plans_give() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(1, g.size + 1, 5) for g in analysis.groups], -1)
    for kind in COSTS:
        cost = make_cost(analysis, kind)
        assert cost is not None
        plans = [{g.name: range(n) for g, n in zip(analysis.groups, row, strict=True)} for row in counts]
        assert cost.at(counts).tolist() == [cost.of(p) for p in plans]
        assert cost.of_plan(laws.plan_of(analysis, plans[0])) == cost.of(plans[0])
        assert cost.whole == counted(analysis)[kind]


def two_layers(bias: str, narrow: bool = False) -> onnx.ModelProto:
    """x [n, 4] -> 8 -> 8 -> y [n, 3]; both hidden layers add the vector `bias` if it is one, or each its own."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 8), "w2": (8, 8), "w3": (8, 3), "b1": (8,), "b2": (8,)}
    held = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", bias or "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "w2", bias or "b2"], ["h2"]),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("Gemm", ["r2", "w3"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 4), ("y", 3)))
    used = {n for node in nodes for n in node.input}
    graph = helper.make_graph(nodes, "g", [x], [y], [t for t in held if t.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_vector_that_layers_share_counts_once_for_each_of_its_contents() -> None:
    analysis = onnxprune.analyze(two_layers("b1"))
    cost = make_cost(analysis, "params")
    assert cost is not None and cost.whole == 32 + 64 + 24 + 8
    assert cost.of({"w1": [0, 1], "w2": [0, 1]}) == 8 + 4 + 6 + 2
    assert cost.of({"w1": [0, 1], "w2": [0, 2]}) == 8 + 4 + 6 + 2 + 2
    assert cost.of({"w1": [0, 1]}) == 8 + 16 + 24 + 2 + 8


def test_what_shared_vectors_hold_is_remembered_for_the_right_counts() -> None:
    c = select_candidates(onnxprune.analyze(two_layers("b1")), Options())
    cost = make_cost(c.analysis, "bytes")
    assert cost is not None
    exact = cost.exact(c.keep)
    for counts in np.array([[2, 2], [2, 3], [8, 2], [2, 2], [8, 8]]):
        assert exact(counts) == cost.of_plan(c.plan(counts, lambda g: ""))


def test_macs_are_unknown_where_the_model_s_own_are() -> None:
    proto = two_layers("")
    proto.graph.node.insert(0, helper.make_node("Compress", ["x0", "picked"], ["x"], axis=0))
    proto.graph.input[0].name = "x0"
    proto.graph.input.append(helper.make_tensor_value_info("picked", TensorProto.BOOL, ["n"]))
    analysis = onnxprune.analyze(proto)
    assert (analysis.macs() is None) == (make_cost(analysis, "macs") is None)


def test_polynomials() -> None:
    x, y = Poly({(0,): 1}), Poly({(1,): 1})
    p = Compiled((x + 3) * (2 * y + x) + 5, 2)
    assert p(np.array([[2, 7], [0, 0], [1, 1]])).tolist() == [5 * 16 + 5, 5, 4 * 3 + 5]
    assert Compiled(7, 2)(np.array([1, 1])).tolist() == 7
    assert Compiled(x * 0, 1)(np.array([4])).tolist() == 0
