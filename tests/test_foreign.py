"""Operators that onnx has no shape function for: shapes come from the file, from a run, or the user is told what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from laws import check
from onnx import TensorProto, helper
from onnx.helper import make_node
from tiny import model, tensor

import onnxprune
from onnxprune import Options
from onnxprune.axes import Dynamic
from onnxprune.errors import OnnxPruneError
from onnxprune.groups import Analysis

WEIGHTS = {"w0": (8, 24), "w1": (24, 16), "w2": (16, 32), "w3": (32, 4)}


def rng(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.2


def network(
    *middle: onnx.NodeProto, domain: str = "com.microsoft", shape: Any = None, **more: np.ndarray
) -> onnx.ModelProto:
    """Two products, the nodes `middle` from h [N, 16] to s [N, 16], two products; `shape` is what the file says of s."""
    nodes = [
        make_node("MatMul", ["x", "w0"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("MatMul", ["b", "w1"], ["h"]),
        *middle,
        make_node("MatMul", ["s", "w2"], ["c"]),
        make_node("Relu", ["c"], ["d"]),
        make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    weights = {name: rng(*size) for name, size in WEIGHTS.items()} | more
    proto = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 4])], weights)
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    if shape is not None:
        proto.graph.value_info.append(tensor("s", shape))
    return proto


def analyze(proto: onnx.ModelProto) -> Analysis:
    return onnxprune.analyze(onnxprune.load(proto))


def sizes(analysis: Analysis) -> dict[str, int]:
    return {g.name: g.size for g in analysis.groups}


MACS = 8 * 24 + 24 * 16 + 16 * 32 + 32 * 4
KNOWN = {
    "distances": [make_node("CDist", ["h", "k"], ["s"], domain="com.microsoft")],
    "one axis more": [
        make_node("ExpandDims", ["h", "one"], ["p"], domain="com.microsoft"),
        make_node("Squeeze", ["p", "axis"], ["s"]),
    ],
}
CONSTANTS = {"k": rng(16, 16), "one": np.array(1, np.int32), "axis": np.array([1])}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shape", [None, ["unknown", 16], ["N", 16]])
def test_what_onnx_runtime_knows_is_measured(name: str, shape: Any) -> None:
    proto = network(*KNOWN[name], shape=shape, **CONSTANTS)
    checker = check(proto, [{"x": rng(n, 8)} for n in (1, 3)])
    assert sizes(checker.analysis) == {"w0": 24, "w2": 32}
    assert checker.analysis.macs() == (None if name == "distances" else MACS)


def test_no_count_leaves_out_an_operator_that_may_multiply() -> None:
    analysis = analyze(network(*KNOWN["distances"], **CONSTANTS))
    with pytest.raises(
        OnnxPruneError, match=r"nothing is known of com\.microsoft::CDist, which reads a weight; use --params"
    ):
        onnxprune.plan(analysis, Options(macs=0.5))
    assert len(onnxprune.plan(analysis, Options(params=0.5)).groups) == 2


@pytest.mark.parametrize("shape", [["N", 16], ["unknown", 16]])
def test_a_custom_operator_has_the_shape_that_the_file_says(shape: Any) -> None:
    analysis = analyze(network(make_node("Foo", ["h"], ["s"], domain="my.ops"), domain="my.ops", shape=shape))
    assert sizes(analysis) == {"w0": 24, "w2": 32}
    assert analysis.macs() == MACS
    plan = onnxprune.plan(analysis, Options(macs=0.5))
    after = onnxprune.analyze(onnxprune.apply(analysis, plan))
    assert 0 < (after.macs() or 0) <= 0.5 * MACS


def test_where_nothing_is_known_the_user_is_told_what_to_do() -> None:
    analysis = analyze(network(make_node("Foo", ["h"], ["s"], domain="my.ops"), domain="my.ops"))
    assert sizes(analysis) == {"w0": 24}
    said = {f.tensor: f.reason.text for f in analysis.frozen}
    assert said["w2"] == said["w3"] == "the shape of 's' is unknown; declare it in the graph's value_info"


def test_sizes_that_the_data_decide_stay_open() -> None:
    """Which of the rows are different from those before them: another number in each run."""
    unique = make_node("Unique", ["r"], ["u", "", ""], domain="com.microsoft")
    proto = model(
        [
            make_node("MatMul", ["x", "w"], ["h"]),
            make_node("Relu", ["h"], ["p"]),
            make_node("Reshape", ["p", "flat"], ["r"]),
            unique,
        ],
        [tensor("x", ["N", 8])],
        [tensor("u", ["K"]), tensor("p", ["N", 6])],
        {"w": rng(8, 6), "flat": np.array([-1])},
    )
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    trace = analyze(proto).coupling.trace
    assert isinstance((trace.shape("u") or ())[0], Dynamic)
    assert trace.dtype("u") == TensorProto.FLOAT
