"""Shapes that depend on the data: budgets and errors of networks that have some."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node
from tiny import model, tensor

import onnxprune
from onnxprune.allocate.cost import cost_of


def rng(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.2


def detector(outputs: tuple[str, ...] = ("boxes", "selected")) -> onnx.ModelProto:
    """Two convolutions, boxes and scores, NonMaxSuppression. MACs: 16 positions x (8*3 + 4*8 + 1*8)."""
    nodes = [
        make_node("Conv", ["x", "w"], ["h"]),
        make_node("Relu", ["h"], ["r"]),
        make_node("Conv", ["r", "wb"], ["b"]),
        make_node("Conv", ["r", "ws"], ["s"]),
        make_node("Transpose", ["b"], ["bt"], perm=[0, 2, 3, 1]),
        make_node("Reshape", ["bt", "box"], ["boxes"]),
        make_node("Reshape", ["s", "score"], ["logits"]),
        make_node("Sigmoid", ["logits"], ["scores"]),
        make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["selected"]),
    ]
    weights = {"w": rng(8, 3, 1, 1), "wb": rng(4, 8, 1, 1), "ws": rng(1, 8, 1, 1)}
    weights |= {"box": np.array([1, 16, 4]), "score": np.array([1, 1, 16]), "most": np.array([16])}
    known = {"boxes": tensor("boxes", [1, 16, 4]), "selected": tensor("selected", ["k", 3], TensorProto.INT64)}
    return model(nodes, [tensor("x", [1, 3, 4, 4])], [known[o] for o in outputs], weights)


def selecting(reduced: bool) -> onnx.ModelProto:
    """x [n, 4] @ [4, 8]; of that the entries that are not zero: as [k, 1], or summed up as [1, 1], times [1, 5]."""
    nodes = [
        make_node("MatMul", ["x", "v"], ["h"]),
        make_node("NonZero", ["h"], ["at"]),
        make_node("Transpose", ["at"], ["places"], perm=[1, 0]),
        make_node("GatherND", ["h", "places"], ["some"]),
        make_node("Unsqueeze", ["some", "one"], ["column"]),
        *([make_node("ReduceSum", ["column", "zero"], ["row"])] if reduced else []),
        make_node("MatMul", ["row" if reduced else "column", "w"], ["y"]),
    ]
    weights = {"v": rng(4, 8), "w": rng(1, 5), "one": np.array([1]), "zero": np.array([0])}
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", [None, 5])], weights)


def test_only_an_operator_that_multiplies_makes_the_macs_unknown() -> None:
    for proto, macs in ((detector(), 16 * (8 * 3 + 5 * 8)), (selecting(True), 4 * 8 + 5), (selecting(False), None)):
        analysis = onnxprune.analyze(proto)
        cost = cost_of(analysis, "macs")
        assert analysis.macs() == macs == (None if cost is None else cost.whole)


def test_a_batch_that_the_inputs_give_is_no_matter_of_the_data() -> None:
    """The largest of some rows, as many as the data say, for each sample: [n, k, 4] -> [n, 4]."""
    nodes = [
        make_node("NonZero", ["x"], ["at"]),
        make_node("Slice", ["at", "zero", "one", "zero"], ["first"]),
        make_node("Squeeze", ["first", "zero"], ["rows"]),
        make_node("Gather", ["z", "rows"], ["many"], axis=1),
        make_node("ReduceMax", ["many"], ["best"], axes=[1], keepdims=0),
        make_node("MatMul", ["best", "w"], ["y"]),
    ]
    weights = {"w": rng(4, 6), "zero": np.array([0]), "one": np.array([1])}
    proto = model(nodes, [tensor("x", [9]), tensor("z", ["n", 9, 4])], [tensor("y", ["n", 6])], weights)
    assert onnxprune.analyze(proto).macs() == 4 * 6
