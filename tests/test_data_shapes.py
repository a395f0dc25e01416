"""Shapes that depend on the data: budgets and errors of networks that have some."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node
from tiny import model, tensor

import onnxprune
from onnxprune.allocate import OutputComparer
from onnxprune.allocate.cost import make_cost
from onnxprune.graph.save import build_full_proto
from onnxprune.measure import ErrorSums, find_judges
from onnxprune.measure.shift import OutputDifference
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.repair import repair


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
        cost = make_cost(analysis, "macs")
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


# errors


def with_a_head() -> onnx.ModelProto:
    """What is positive in a first layer goes through two more, as many rows as there are: [n, 4] -> [k, 3]."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("Relu", ["h"], ["r"]),
        make_node("MatMul", ["r", "v"], ["s"]),
        make_node("Greater", ["s", "least"], ["is"]),
        make_node("NonZero", ["is"], ["at"]),
        make_node("Slice", ["at", "zero", "one", "zero"], ["first"]),
        make_node("Squeeze", ["first", "zero"], ["rows"]),
        make_node("Gather", ["x", "rows"], ["some"]),
        make_node("MatMul", ["some", "w1"], ["h1"]),
        make_node("Relu", ["h1"], ["r1"]),
        make_node("MatMul", ["r1", "w2"], ["y"]),
    ]
    weights = {"w": rng(4, 8), "v": rng(8, 1), "w1": rng(4, 9), "w2": rng(9, 3), "least": np.float32(0)}
    weights |= {"zero": np.array([0]), "one": np.array([1])}
    return model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["k", 3])], weights)


def mapped() -> onnx.ModelProto:
    """A classifier whose last node makes a list of dictionaries of its probabilities."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("MatMul", ["h", "v"], ["s"]),
        make_node("Softmax", ["s"], ["p"], axis=-1),
        make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    key = onnx.helper.make_map_type_proto(TensorProto.INT64, onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    y = onnx.helper.make_value_info("y", onnx.helper.make_sequence_type_proto(key))
    made = model(nodes, [tensor("x", ["n", 4])], [y], {"w": rng(4, 8), "v": rng(8, 3)})
    made.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    return made


def images(count: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 4, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("proto", "judged"),
    [
        (detector(), {"boxes": ["boxes"], "selected": ["boxes", "scores"]}),
        (detector(("selected",)), {"selected": ["boxes", "scores"]}),
        (with_a_head(), {"y": ["y"]}),
        (mapped(), {"y": ["p"]}),
    ],
)
def test_an_output_that_the_data_size_is_judged_by_what_it_is_made_of(
    proto: onnx.ModelProto, judged: dict[str, list[str]]
) -> None:
    assert find_judges(onnxprune.analyze(proto)) == judged


def test_the_error_of_a_detector_is_that_of_its_boxes_and_scores() -> None:
    """Half of the first convolution's filters go; numpy says what that does to boxes and scores."""
    proto = detector(("selected",))
    w, wb, ws = (onnx.numpy_helper.to_array(t)[:, :, 0, 0].astype(np.float64) for t in proto.graph.initializer[:3])
    tables = onnxprune.sensitivity(proto, images(), criterion="l2", ratios=[0.5])
    (table,) = tables.values()
    (choice,) = onnxprune.plan(proto, ratio=0.5, criterion="l2").groups.values()

    def made(kept: np.ndarray) -> list[np.ndarray]:
        r = np.maximum(np.einsum("oi,nihw->nohw", w[kept], images()["x"].astype(np.float64)), 0)
        b, s = (np.einsum("oi,nihw->nohw", v[:, kept], r) for v in (wb, ws))
        return [b, 1 / (1 + np.exp(-s))]

    want, got = made(np.arange(8)), made(np.array(choice.keep))
    errors = [np.square(b - a).sum() / np.square(a).sum() for a, b in zip(want, got, strict=True)]
    assert table.counts == [4] and table.moved[0].error == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.parametrize("make", [detector, lambda: detector(("selected",)), with_a_head, mapped])
def test_budgets_and_errors_of_shapes_that_the_data_decide(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    proto = make()
    x = images() if proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3 else {"x": rng(64, 4)}
    made = onnxprune.prune(proto, tmp_path / "o.onnx", params=0.6, calib=x, repair="lstsq", criterion="obs")
    assert made.report.params.after <= 0.6 * made.report.params.before
    errors = [m.error for t in onnxprune.sensitivity(proto, x).values() for m in t.moved]
    assert errors and all(0 < e < np.inf for e in errors)


def test_what_stands_behind_a_selection_is_not_fitted() -> None:
    """The pruned network selects other rows, which would be fitted to the original's."""
    proto = with_a_head()
    analysis = onnxprune.analyze(proto)
    plan = onnxprune.plan(analysis, ratio=0.5)
    model, report = repair(analysis, plan, [{"x": rng(64, 4)}])
    assert [*report.left_out] == ["h1", "y"] and all(
        why.startswith("the data decide") for why in report.left_out.values()
    )
    assert [x.output for x in report.layers] == ["s"]
    a, b = (build_full_proto(m).graph.initializer for m in (model, onnxprune.apply(analysis, plan)))
    weights = [{t.name: onnx.numpy_helper.to_array(t) for t in some} for some in (a, b)]
    np.testing.assert_array_equal(weights[0]["w2"], weights[1]["w2"])


@pytest.mark.parametrize(
    ("reference", "candidate", "value"),
    [
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([3.0, math.nan, 4.0, -math.inf], [3.0, 7.0, 4.5, math.nan], 0.1),  # nothing is wanted there
        ([3.0, 4.0], [3.0, math.nan], math.inf),
        ([3.0, 4.0], [3.0, math.inf], math.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1.0], math.inf),
        ([[3.0], [4.0]], [[3.0]], 0.8),  # a row less
        ([[3.0], [4.0]], [[3.0], [4.0], [5.0]], 1.0),  # a row more
        ([[3.0, 4.0]], [3.0, 4.0], 0.0),
        ([], [], 0.0),
        ([1, 2, 3, 4], [1, 2, 3, 5], 0.25),
        ([[1, 0]], [[1, 0], [0, 0]], 0.5),
    ],
)
def test_one_measure_for_all(reference: list[Any], candidate: list[Any], value: float) -> None:
    r, c = np.array(reference), np.array(candidate)
    sums = ErrorSums()
    sums.add(r, c)
    assert sums.value == pytest.approx(value)
    one = OutputDifference(None)
    one.add(r, c)
    assert one.value() == pytest.approx(value if r.dtype.kind == "i" else value**2)


def test_all_that_repairs_and_judges_treats_numbers_that_are_none_alike() -> None:
    """log(0) is -inf in the original, where nothing is wanted; a candidate that makes more of them is infinitely wrong."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("MatMul", ["h", "v"], ["s"]),
        make_node("Log", ["s"], ["y"]),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "v": np.float32([[2, 0, 0], [0, 3, 0], [0, 0, 0], [0, 0, 0]])}
    proto = model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 3])], weights)
    analysis = onnxprune.analyze(proto)
    (group,) = analysis.groups
    x = {"x": np.ones((2, 4), np.float32)}
    for keep, error in (((0, 1), 0.0), ((0, 2), math.inf)):
        plan = Plan(compute_fingerprint(analysis.model), {group.name: Choice(4, keep)})
        moved = OutputComparer(analysis, [x]).of(onnxprune.apply(analysis, plan))
        _, report = repair(analysis, plan, [x], "none")
        assert (moved.error, moved.relative_l2, report.error_before) == (error, error, error)
