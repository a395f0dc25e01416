"""Constants that the graph computes for its products are folded before they get a pattern; nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import Array, run_ort
from onnx import TensorProto, helper, numpy_helper
from sparse_checker import operands, violations
from tiny import saved, tensor

import onnxprune
from onnxprune.graph.io import load
from onnxprune.graph.save import build_full_proto
from onnxprune.groups import analyze
from onnxprune.sparsity import Sparsity, check_pattern, sparsify
from onnxprune.sparsity.constants import fold

ALL = Sparsity(layers="all", target="none")
Graph = tuple[onnx.ModelProto, dict[str, Array]]
CASES: dict[str, Callable[[], Graph]] = {}


def case(make: Callable[[], Graph]) -> Callable[[], Graph]:
    CASES[make.__name__] = make
    return make


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph(
    nodes: list[onnx.NodeProto], weights: dict[str, Array], x: list[Any], outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(x)) for name in outputs]
    g = helper.make_graph(nodes, "g", [tensor("x", x)], outs, stored)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def node(op: str, ins: str, outs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, ins.split(), outs.split(), name=f"{op}_{outs.split()[0]}", **attrs)


@case
def weight_norm() -> Graph:
    nodes = [
        node("ReduceL2", "v axes", "norm", keepdims=1), node("Div", "v norm", "unit"), node("Mul", "unit g", "w"),
        node("Conv", "x w", "y"),
    ]  # fmt: skip
    weights = {"v": draw(6, 8, 3), "g": draw(6, 1, 1, seed=1), "axes": np.array([1, 2])}
    return graph(nodes, weights, ["N", 8, 9]), {"x": draw(2, 8, 9)}


@case
def gates_in_another_order() -> Graph:
    """As exporters write an LSTM: its gates are cut out, joined in ONNX's order, and get an axis of directions."""
    nodes = []
    for name in ("W", "R"):
        parts = []
        for at in (0, 3, 1, 2):
            parts.append(f"{name}{at}")
            nodes.append(node("Slice", f"{name} at{4 * at} at{4 * at + 4} zero", parts[-1]))
        nodes += [
            node("Concat", " ".join(parts), f"{name}_joined", axis=0),
            node("Unsqueeze", f"{name}_joined zero", f"{name}_all"),
        ]
    nodes += [node("LSTM", "x W_all R_all", "h", hidden_size=4), node("Squeeze", "h one", "y")]
    weights = {"W": draw(16, 8), "R": draw(16, 4, seed=1), "zero": np.array([0]), "one": np.array([1])}
    weights |= {f"at{at}": np.array([at]) for at in range(0, 20, 4)}
    return graph(nodes, weights, [5, "N", 8]), {"x": draw(5, 2, 8)}


@case
def parts_of_a_packed_weight() -> Graph:
    nodes = [
        node("Split", "w", "q k v", axis=1, num_outputs=3), node("MatMul", "x q", "a"), node("MatMul", "x k", "b"),
        node("MatMul", "x v", "c"), node("Sum", "a b c", "y"),
    ]  # fmt: skip
    return graph(nodes, {"w": draw(12, 24)}, ["N", 12]), {"x": draw(3, 12)}


@case
def a_mask() -> Graph:
    mask = (np.arange(96).reshape(12, 8) % 3 > 0).astype(np.float32)
    nodes = [
        node("Mul", "w mask", "m"),
        node("Transpose", "m", "t"),
        node("Cast", "t", "c", to=1),
        node("Gemm", "x c", "y", transB=1),
    ]
    return graph(nodes, {"w": draw(12, 8), "mask": mask}, ["N", 12]), {"x": draw(3, 12)}


@case
def integers_that_are_cut_out() -> Graph:
    """What is behind the cut stays: the integers are folded, not their numbers."""
    nodes = [
        node("Slice", "w zero eight zero", "part"),
        node("DequantizeLinear", "part s z", "d"),
        node("MatMul", "x d", "y"),
    ]
    w = np.random.default_rng(0).integers(0, 256, (12, 8)).astype(np.uint8)
    weights = {"w": w, "s": np.float32(0.1), "z": np.uint8(100), "zero": np.array([0]), "eight": np.array([8])}
    return graph(nodes, weights, ["N", 8]), {"x": draw(3, 8)}


@case
def sizes_of_an_input() -> Graph:
    """The graph takes a size that is static from its input."""
    nodes = [
        node("Shape", "x", "size", start=1), node("Slice", "w zero size zero", "part"), node("MatMul", "x part", "y"),
    ]  # fmt: skip
    return graph(nodes, {"w": draw(20, 8), "zero": np.array([0])}, ["N", 12]), {"x": draw(3, 12)}


@pytest.mark.parametrize("name", CASES)
def test_what_the_graph_computes_is_folded_and_gets_the_pattern(name: str) -> None:
    model, feeds = CASES[name]()
    folded = fold(analyze(load(model)))
    assert len(folded.proto.graph.node) < len(model.graph.node)
    for old, new in zip(run_ort(model, [feeds])[0], run_ort(build_full_proto(folded), [feeds])[0], strict=True):
        assert np.array_equal(old, new)
    before = operands(build_full_proto(folded))
    assert all(np.allclose(w, before[key]) for key, w in operands(model).items())
    found = sparsify(analyze(load(model)), ALL)
    assert found.layers and all(x.chosen for x in found.layers), [x.why for x in found.layers]
    sparse = build_full_proto(found.model)
    onnx.checker.check_model(sparse, full_check=True)
    after = operands(sparse)
    assert before.keys() == after.keys()
    for key, w in after.items():
        assert violations(w, 2, 4) == 0 < violations(before[key], 2, 4) and np.array_equal(
            w[w != 0], before[key][w != 0]
        )
    assert all(c.holds for c in check_pattern(load(sparse), ALL))
    checked = check_pattern(load(model), ALL)
    assert len(checked) == len(found.layers) and all(c.broken for c in checked)


LEFT = {
    "moved": ([node("Transpose", "w", "t"), node("MatMul", "x t", "y")], {"w": draw(8, 8)}),
    "random": (
        [node("RandomNormalLike", "w", "r"), node("Mul", "w r", "m"), node("MatMul", "x m", "y")], {"w": draw(8, 8)},
    ),
    "an output": ([node("Abs", "w", "z"), node("MatMul", "x z", "y")], {"w": draw(8, 8)}),
    "no constant of a product": ([node("Abs", "w", "b"), node("Add", "x b", "y")], {"w": draw(8)}),
    "much larger than what it is made of": (
        [node("Expand", "w shape", "e"), node("MatMul", "x e", "y")], {"w": draw(8, 1), "shape": np.array([8, 20000])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_need_not_or_cannot_be_folded_stays(name: str) -> None:
    nodes, weights = LEFT[name]
    model = graph(nodes, weights, ["N", 8], ("y", "z") if name == "an output" else ("y",))
    a = analyze(load(model))
    assert fold(a) is a.model


def test_what_else_reads_a_part_reads_the_folded_one() -> None:
    """A Split whose last part is a bias: it goes as a whole, and the packed weight with it."""
    nodes = [node("Split", "w sizes", "a b", axis=0), node("MatMul", "x a", "m"), node("Add", "m b", "y")]
    model = graph(nodes, {"w": draw(9, 8), "sizes": np.array([8, 1])}, ["N", 8])
    folded = build_full_proto(fold(analyze(load(model))))
    assert [n.op_type for n in folded.graph.node] == ["MatMul", "Add"]
    assert [list(t.dims) for t in folded.graph.initializer] == [[8, 8], [1, 8]]
    feeds = {"x": draw(3, 8)}
    assert np.array_equal(run_ort(model, [feeds])[0][0], run_ort(folded, [feeds])[0][0])


def test_only_what_gets_the_pattern_is_folded() -> None:
    nodes = [
        node("Abs", "v", "a"), node("MatMul", "x a", "b"), node("Abs", "w", "c"), node("MatMul", "b c", "y"),
    ]  # fmt: skip
    model = graph(nodes, {"v": draw(8, 8), "w": draw(8, 8, seed=1)}, ["N", 8])
    found = sparsify(analyze(load(model)), Sparsity(layers="all", target="none", include=["MatMul_y"]))
    assert [(x.chosen, x.why) for x in found.layers] == [(False, "Abs 'Abs_a' computes it"), (True, "")]
    assert [n.name for n in found.model.proto.graph.node] == ["Abs_a", "MatMul_b", "MatMul_y"]
    untouched = sparsify(analyze(load(model)), Sparsity())  # too small for the target
    assert build_full_proto(untouched.model) == build_full_proto(load(model))


def test_repair_fits_what_was_computed(tmp_path: Path) -> None:
    model, _ = CASES["parts_of_a_packed_weight"]()
    onnx.save(model, tmp_path / "m.onnx")
    calib = saved(tmp_path, x=draw(256, 12, seed=5) @ draw(12, 12, seed=6))
    errors = []
    for how in ({"method": "magnitude", "repair": "none"}, {}):
        made = onnxprune.sparsify(
            tmp_path / "m.onnx", tmp_path / "o.onnx", layers="all", target="none", calib=calib, **how
        )
        assert not any(violations(w, 2, 4) for w in operands(onnx.load(tmp_path / "o.onnx")).values())
        errors.append(made.report.error.relative_l2)
        assert all(0 < x.relative_l2 < 0.6 for x in made.report.reconstruction.layers)
    assert errors[1] < 0.9 * errors[0]
