"""validate: the metrics against independent formulas, and small models side by side."""

from __future__ import annotations

import json
import math
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from tiny import linear, model, saved, tensor

from onnxprune.calibration import list_input_specs, load_data
from onnxprune.calibration.sessions import open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.vocabulary import find_vocabulary_size
from onnxprune.measure.metrics import ErrorSums, compare, find_class_scores, measure_top1_agreement
from onnxprune.report import to_json
from onnxprune.report.types import ErrorNumbers, NonFinite, NotComparable, OutputMismatch, Shares
from onnxprune.validation import validate

F32 = np.dtype(np.float32)
finite = st.floats(-1e6, 1e6).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
vectors = hnp.arrays(np.float64, st.integers(1, 20), elements=finite)


# Metrics


def assert_close(a: ErrorNumbers, b: ErrorNumbers) -> None:
    for x, y in zip(astuple(a), astuple(b), strict=True):
        assert x is y is None or x == pytest.approx(y, rel=1e-6, abs=1e-6)


def test_compare_by_hand() -> None:
    m = compare(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    assert m.relative_l2 == pytest.approx(1 / 5)
    assert m.max_abs == 1.0
    assert m.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert m.sqnr_db == pytest.approx(10 * math.log10(25))
    assert (m.nonfinite_reference, m.nonfinite_candidate) == (0, 0)


@given(vectors, st.floats(-4, 4).filter(lambda s: abs(s) > 1e-3 and abs(s - 1) > 1e-3))
def test_scaling_has_a_known_error(r: np.ndarray, s: float) -> None:
    m = compare(r, s * r)
    if not r.any():
        assert (m.relative_l2, m.cosine, m.sqnr_db) == (0.0, 1.0, None)
        return
    assert m.relative_l2 == pytest.approx(abs(s - 1))
    assert m.sqnr_db == pytest.approx(-20 * math.log10(abs(s - 1)), abs=1e-6)
    assert m.cosine == pytest.approx(math.copysign(1, s))
    assert m.max_abs == pytest.approx(abs(s - 1) * np.abs(r).max())


@given(vectors, st.data())
def test_common_scale_changes_only_max_abs(r: np.ndarray, data: st.DataObject) -> None:
    c = data.draw(hnp.arrays(np.float64, r.shape, elements=finite))
    one, two = compare(r, c), compare(4 * r, 4 * c)  # a power of two scales without rounding
    assert one.max_abs is not None and two.max_abs == 4 * one.max_abs
    assert_close(replace(one, max_abs=two.max_abs), two)


@given(vectors)
def test_exact_match(r: np.ndarray) -> None:
    m = compare(r, r.copy())
    assert (m.relative_l2, m.max_abs, m.cosine, m.sqnr_db) == (0.0, 0.0, 1.0, None)


@given(vectors.filter(lambda r: bool(r.any())))
def test_one_side_all_zero(r: np.ndarray) -> None:
    zero = np.zeros_like(r)
    m = compare(r, zero)
    assert (m.relative_l2, m.cosine, m.sqnr_db) == (pytest.approx(1), None, pytest.approx(0, abs=1e-9))
    assert (m.nonfinite_reference, m.nonfinite_candidate) == (0, 0)
    m = compare(zero, r)
    assert (m.relative_l2, m.cosine, m.sqnr_db) == (None, None, None)
    assert m.max_abs == np.abs(r).max()


@given(vectors, st.data())
def test_nonfinite_are_counted_and_left_out(r: np.ndarray, data: st.DataObject) -> None:
    odd = st.sampled_from([math.nan, math.inf, -math.inf])
    where = st.lists(st.integers(0, r.size - 1), unique=True)
    at_r, at_c, c = data.draw(where), data.draw(where), r + 1
    dirty_r, dirty_c = r.copy(), c.copy()
    dirty_r[at_r], dirty_c[at_c] = data.draw(odd), data.draw(odd)
    clean = [i for i in range(r.size) if i not in {*at_r, *at_c}]
    expected = compare(r[clean], c[clean])
    expected = replace(expected, nonfinite_reference=len(at_r), nonfinite_candidate=len(at_c))
    assert compare(dirty_r, dirty_c) == expected


@given(vectors, st.data())
def test_batches_add_up_to_the_whole(r: np.ndarray, data: st.DataObject) -> None:
    c = data.draw(hnp.arrays(np.float64, r.shape, elements=finite))
    cut = data.draw(st.integers(0, r.size))
    sums = ErrorSums()
    sums.add(r[:cut], c[:cut])
    sums.add(r[cut:], c[cut:])
    assert_close(sums.result(), compare(r, c))


@pytest.mark.parametrize("r", [[], [math.nan], [1e300, 1e300], [math.inf, 1.0]])
def test_results_are_valid_json(r: list[float]) -> None:
    m = compare(np.array(r), -np.array(r))
    json.dumps(to_json(m), allow_nan=False)


def test_nothing_to_compare_is_none_not_zero() -> None:
    m = compare(np.array([math.nan]), np.array([1.0]))
    assert (m.relative_l2, m.max_abs, m.cosine, m.sqnr_db) == (None, None, None, None)
    assert (m.nonfinite_reference, m.nonfinite_candidate) == (1, 0)


def test_shapes_must_be_equal() -> None:
    with pytest.raises(OnnxPruneError, match=r"\[2, 3\] and \[3\]"):
        compare(np.zeros((2, 3)), np.zeros(3))


@pytest.mark.parametrize(
    ("shape", "dtype", "is_scores"),
    [
        ((5, 10), np.float32, True),
        ((5, 10, 1, 1), np.float16, True),
        ((5, 10), ml_dtypes.bfloat16, True),
        ((5, 10), np.int8, True),
        ((5, 1), np.float32, False),
        ((5, 10, 1), np.float32, False),
        ((5, 10, 4, 4), np.float32, False),
        ((5, 10), np.int64, False),
        ((10,), np.float32, False),
    ],
)
def test_what_looks_like_class_scores(shape: tuple[int, ...], dtype: Any, is_scores: bool) -> None:
    assert (find_class_scores(np.zeros(shape, dtype)) is not None) == is_scores


def test_scores_of_tokens_are_known_by_the_vocabulary() -> None:
    y = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert find_class_scores(y) is None and find_class_scores(y, 5) is None
    np.testing.assert_array_equal(find_class_scores(y, 4), y.reshape(6, 4))
    np.testing.assert_array_equal(find_class_scores(y[:, 0], 7), y[:, 0])  # rows are rows, as before


def language_model(tables: dict[str, Any], head: Any) -> onnx.ModelProto:
    """y [N, T, V] = the embedding of ids [N, T], with that of positions [N, T], times the head."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["emb", "i"], ["e"]),
        helper.make_node("Gather", ["pos", "at"], ["p"]),
        helper.make_node("Add", ["e", "p"], ["h"]),
        helper.make_node("MatMul", ["h", "head"], ["y"]),
    ]
    inputs = [tensor(n, ["N", "T"], TensorProto.INT32) for n in ("ids", "at")]
    weights = {n: np.asarray(a, np.float32) for n, a in {**tables, "head": head}.items()}
    return model(nodes, inputs, [tensor("y", None)], weights)


def test_a_language_model_prefers_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tables = {"emb": np.eye(6)[:, :4], "pos": rng.standard_normal((5, 4)) * 1e-3}
    head, ids = np.eye(4, 6), np.tile(np.arange(4, dtype=np.int32), (3, 1))
    m, other = language_model(tables, head), language_model(tables, head[[1, 0, 2, 3]])
    assert find_vocabulary_size(m) == 6 and find_vocabulary_size(linear(np.eye(4))) is None
    data = load_data(saved(tmp_path, ids=ids, at=ids), list_input_specs(m))
    r = validate(m, other, data=data)
    assert (r.class_output, r.top1_agreement) == ("y", 0.5)
    narrow = [language_model(tables, h[:, :5]) for h in (head, head)]
    assert validate(*narrow, data=data).class_output is None, "as many numbers as no table has rows"


def test_top1_agreement_counts_nan_as_a_miss() -> None:
    r = np.array([[1, 2], [2, 1], [1, 2], [math.nan, 2]])
    c = np.array([[0, 9], [0, 9], [math.nan, 2], [math.nan, 2]])
    assert measure_top1_agreement(r, c) == 0.25
    assert measure_top1_agreement(r[:, :1], c[:, :1]) is None


# Two models


def test_a_model_against_itself_in_every_form(tmp_path: Path) -> None:
    m = linear(np.eye(4))
    onnx.save(m, tmp_path / "m.onnx")
    forms = (m, m.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    results = [to_json(validate(form, form, threads=1).error) for form in forms]
    assert all(r == results[0] for r in results)
    r = results[0]
    assert r["overall"]["max_abs"] == 0.0 and r["top1_agreement"] == 1.0 and r["accuracy"] is None
    assert (r["data"], r["samples"], r["dynamic_sizes"]) == ("random seed 0", 2, {"N": 2})
    assert r["inputs"] == {"x": {"dtype": "float32", "shape": [2, 4]}}
    json.dumps(r, allow_nan=False)


def test_a_scaled_model_has_the_scale_as_its_error() -> None:
    w = np.random.default_rng(0).standard_normal((4, 3))
    r = validate(linear(w), linear(1.5 * w), seed=7, sizes={"N": 5})
    assert r.outputs["y"].relative_l2 == pytest.approx(0.5, rel=1e-5)
    assert r.overall == r.outputs["y"]
    assert (r.class_output, r.top1_agreement, r.samples) == ("y", 1.0, 5)


def test_accuracy_from_labels(tmp_path: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    path = saved(tmp_path, x=x, labels=np.arange(4))
    m, flipped = linear(np.eye(4)), linear(np.eye(4)[[1, 0, 2, 3]])
    r = validate(m, flipped, data=load_data(path, list_input_specs(m), batch_size=3))
    assert r.accuracy == Shares(1.0, 0.5) and r.top1_agreement == 0.5
    assert (r.data, r.samples) == (str(path), 4)
    with pytest.raises(OnnxPruneError, match="no output looks like class scores"):
        one = linear(np.ones((4, 1)))
        validate(one, one, data=load_data(path, list_input_specs(one)))


def test_a_static_batch_reports_what_it_dropped(tmp_path: Path) -> None:
    m = linear(np.eye(4), batch=3)
    data = load_data(saved(tmp_path, x=np.ones((7, 4), np.float32)), list_input_specs(m))
    r = validate(m, m, data=data)
    assert (r.samples, r.dropped, r.inputs["x"].shape) == (6, 1, [3, 4])


def test_integer_outputs_are_a_fraction_and_stay_out_of_the_sums() -> None:
    def cast(bias: list[int]) -> onnx.ModelProto:
        nodes = [helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Identity", ["z"], ["f"])]
        inputs = [tensor("x", ["N", 4], TensorProto.INT64), tensor("z", ["N"])]
        outputs = [tensor("y", ["N", 4], TensorProto.INT64), tensor("f", ["N"])]
        return model(nodes, inputs, outputs, {"b": np.array(bias)})

    r = validate(cast([0, 0, 0, 0]), cast([0, 9, 0, 0]))
    assert r.outputs["y"] == OutputMismatch(0.25)
    assert r.overall.max_abs == 0.0 and r.overall.relative_l2 == 0.0


def test_nonfinite_outputs_are_counted() -> None:
    def log(scale: float) -> onnx.ModelProto:
        nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Mul", ["a", "s"], ["b"])]
        nodes.append(helper.make_node("Sqrt", ["b"], ["y"]))
        return model(nodes, [tensor("x", [6])], [tensor("y", [6])], {"s": np.array(scale, np.float32)})

    r = validate(log(1), log(-1))
    assert r.nonfinite == NonFinite(0, 6) and r.overall.relative_l2 is None


def test_a_changed_output_shape_is_named_and_the_rest_compared() -> None:
    def two(width: int) -> onnx.ModelProto:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
        return model(
            nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", None]), tensor("z", ["N", 4])],
            {"w": np.ones((4, width), np.float32)},
        )  # fmt: skip

    r = validate(two(3), two(2))
    assert r.outputs["y"] == NotComparable("shape [2, 3] of the original became [2, 2]")
    assert r.outputs["z"].max_abs == 0.0 and r.class_output == "z"


def test_names_must_be_the_originals() -> None:
    m, n = linear(np.eye(2)), linear(np.eye(2))
    n.graph.node[0].output[0] = n.graph.output[0].name = "other"
    with pytest.raises(OnnxPruneError, match=r"outputs \['y'\] of the original are missing"):
        validate(m, n)
    n = linear(np.eye(2))
    n.graph.node[0].input[0] = n.graph.input[0].name = "other"
    with pytest.raises(OnnxPruneError, match="inputs are not the original's"):
        validate(m, n)


@pytest.mark.parametrize("shape", [(1, 12), (1, 8 * 3), (2, 512 * 3)])
def test_random_sizes_are_tried_until_the_original_runs(shape: tuple[int, int]) -> None:
    """A Reshape that takes exactly `shape`, out of x [N, T, 3]."""
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    m = model(nodes, [tensor("x", ["N", "T", 3])], [tensor("y", list(shape))], {"s": np.array(shape)})
    if shape[1] == 12:
        with pytest.raises(OnnxPruneError, match=r"original: ONNX Runtime does not run .* other guesses.*give data"):
            validate(m, m)
        assert validate(m, m, sizes={"N": 1, "T": 4}).samples == 1
    else:
        assert validate(m, m).dynamic_sizes == {"N": shape[0], "T": shape[1] // 3}


def test_a_small_vocabulary_is_found() -> None:
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["y"])]
    inputs = [tensor("input_ids", [1, 64], TensorProto.INT64)]
    m = model(nodes, inputs, [tensor("y", [1, 64, 2])], {"table": np.ones((5, 2), np.float32)})
    assert validate(m, m).overall.max_abs == 0.0


def test_token_ids_under_another_name_are_found() -> None:
    """The model takes the first of the ids above 1; ids of 0 and 1 leave none to take."""
    nodes = [
        helper.make_node("Greater", ["x", "one"], ["big"]),
        helper.make_node("Compress", ["x", "big"], ["few"], axis=0),
        helper.make_node("Gather", ["few", "zero"], ["y"]),
    ]
    weights = {"one": np.array(1), "zero": np.array(0)}
    m = model(nodes, [tensor("x", [64], TensorProto.INT64)], [tensor("y", [], TensorProto.INT64)], weights)
    assert validate(m, m).outputs["y"] == OutputMismatch(0.0)


def test_a_candidate_that_fails_is_called_the_candidate() -> None:
    shape = {"s": np.array([2, 9])}
    m, n = (model([helper.make_node(op, i, ["y"])], [tensor("x", ["N", 3])], [tensor("y", None)], shape)
            for op, i in (("Relu", ["x"]), ("Reshape", ["x", "s"])))  # fmt: skip
    with pytest.raises(OnnxPruneError, match=r"candidate: .*x float32 \[2, 3\]"):
        validate(m, n)


def test_models_that_do_not_load(tmp_path: Path) -> None:
    m = linear(np.eye(2))
    bad = linear(np.eye(2))
    bad.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(OnnxPruneError, match=r"candidate: ONNX Runtime does not load.*NoSuchOperator"):
        validate(m, bad)
    with pytest.raises(OnnxPruneError, match="original: "):
        validate(tmp_path / "absent.onnx", m)
    with pytest.raises(OnnxPruneError, match="original: cannot be read"):
        validate(b"nonsense", m)


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    m = linear(np.random.default_rng(0).random((64, 64)))
    onnx.save(m, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert validate(tmp_path / "m.onnx", tmp_path / "m.onnx").overall.max_abs == 0.0
    with pytest.raises(OnnxPruneError, match=r"external files.*give the path"):
        validate((tmp_path / "m.onnx").read_bytes(), m)


def test_data_and_sizes_exclude_each_other(tmp_path: Path) -> None:
    m = linear(np.eye(2))
    data = load_data(saved(tmp_path, x=np.ones((2, 2), np.float32)), list_input_specs(m))
    with pytest.raises(OnnxPruneError, match="leave one of the two out"):
        validate(m, m, data=data, sizes={"N": 2})


def test_random_sound_is_as_long_as_the_kernels_need() -> None:
    """A window of 2,048 samples, whose positions a second convolution reads 8 apart: no shorter guess would run."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], strides=[160]),
        helper.make_node("Conv", ["h", "v"], ["y"], dilations=[8]),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("w", (2, 1, 2048)), ("v", (1, 2, 3)))
    ]
    graph = helper.make_graph(nodes, "g", [tensor("x", ["N", 1, "length"])], [tensor("y", ["N", 1, None])], weights)
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert validate(m, m).dynamic_sizes["length"] >= 2048 + 16 * 160


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16])
def test_types_that_numpy_lacks(kind: int) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [tensor("x", ["N", 3], kind)], [tensor("y", ["N", 3], kind)])
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.arange(6).reshape(2, 3).astype(helper.tensor_dtype_to_np_dtype(kind))
    y = run(open_session(m, "original"), {"x": x})["y"]
    assert y.dtype == x.dtype and np.array_equal(y, x)
    assert validate(m, m).outputs["y"].relative_l2 == 0.0


def test_sequence_outputs_are_said_not_to_be_compared() -> None:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    out = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N", 3])
    m = model([node], [tensor("x", ["N", 3])], [out])
    assert "not a tensor" in validate(m, m).outputs["y"].error


ZOO = os.environ.get("ONNXPRUNE_ZOO", "")
MODELS = sorted(Path(ZOO).rglob("*.onnx")) if ZOO else []


@pytest.mark.skipif(not MODELS, reason="set ONNXPRUNE_ZOO to a folder of .onnx files to run them against themselves")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_real_models_equal_themselves(path: Path) -> None:
    try:
        open_session(path, "original")
    except OnnxPruneError as e:
        pytest.skip(str(e))
    r = validate(path, path)
    assert r.overall.max_abs in (0.0, None)
    for o in r.outputs.values():
        assert not isinstance(o, NotComparable)
        assert not isinstance(o, OutputMismatch) or not o.mismatch
