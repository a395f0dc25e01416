"""validate: the metrics against independent formulas, the data loader's errors, and small models side by side."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import OnnxPruneError
from onnxprune.validation import InputSpec, input_specs, load_data, random_inputs, validate
from onnxprune.validation.compare import open_session, run
from onnxprune.validation.metrics import ErrorSums, Metrics, class_scores, compare, top1_agreement

F32 = np.dtype(np.float32)
finite = st.floats(-1e6, 1e6).map(lambda x: 0.0 if abs(x) < 1e-6 else x)
vectors = hnp.arrays(np.float64, st.integers(1, 20), elements=finite)


# Metrics


def assert_close(a: Metrics, b: Metrics) -> None:
    assert a.keys() == b.keys()
    for x, y in zip(a.values(), b.values(), strict=True):
        assert x is y is None or x == pytest.approx(y, rel=1e-6, abs=1e-6)


def test_compare_by_hand() -> None:
    m = compare(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    assert m["relative_l2"] == pytest.approx(1 / 5)
    assert m["max_abs"] == 1.0
    assert m["cosine"] == pytest.approx(21 / (5 * math.sqrt(18)))
    assert m["sqnr_db"] == pytest.approx(10 * math.log10(25))
    assert (m["nonfinite_reference"], m["nonfinite_candidate"]) == (0, 0)


@given(vectors, st.floats(-4, 4).filter(lambda s: abs(s) > 1e-3 and abs(s - 1) > 1e-3))
def test_scaling_has_a_known_error(r: np.ndarray, s: float) -> None:
    m = compare(r, s * r)
    if not r.any():
        assert (m["relative_l2"], m["cosine"], m["sqnr_db"]) == (0.0, 1.0, None)
        return
    assert m["relative_l2"] == pytest.approx(abs(s - 1))
    assert m["sqnr_db"] == pytest.approx(-20 * math.log10(abs(s - 1)), abs=1e-6)
    assert m["cosine"] == pytest.approx(math.copysign(1, s))
    assert m["max_abs"] == pytest.approx(abs(s - 1) * np.abs(r).max())


@given(vectors, st.data())
def test_common_scale_changes_only_max_abs(r: np.ndarray, data: st.DataObject) -> None:
    c = data.draw(hnp.arrays(np.float64, r.shape, elements=finite))
    one, two = compare(r, c), compare(4 * r, 4 * c)  # a power of two scales without rounding
    assert two.pop("max_abs") == 4 * one.pop("max_abs")  # type: ignore[operator]
    assert_close(one, two)


@given(vectors)
def test_exact_match(r: np.ndarray) -> None:
    m = compare(r, r.copy())
    assert (m["relative_l2"], m["max_abs"], m["cosine"], m["sqnr_db"]) == (0.0, 0.0, 1.0, None)


@given(vectors.filter(lambda r: bool(r.any())))
def test_one_side_all_zero(r: np.ndarray) -> None:
    zero = np.zeros_like(r)
    assert compare(r, zero) | {"max_abs": 0} == compare(zero, zero) | {
        "relative_l2": pytest.approx(1), "cosine": None, "sqnr_db": pytest.approx(0, abs=1e-9)
    }  # fmt: skip
    m = compare(zero, r)
    assert (m["relative_l2"], m["cosine"], m["sqnr_db"]) == (None, None, None)
    assert m["max_abs"] == np.abs(r).max()


@given(vectors, st.data())
def test_nonfinite_are_counted_and_left_out(r: np.ndarray, data: st.DataObject) -> None:
    odd = st.sampled_from([math.nan, math.inf, -math.inf])
    where = st.lists(st.integers(0, r.size - 1), unique=True)
    at_r, at_c, c = data.draw(where), data.draw(where), r + 1
    dirty_r, dirty_c = r.copy(), c.copy()
    dirty_r[at_r], dirty_c[at_c] = data.draw(odd), data.draw(odd)
    clean = [i for i in range(r.size) if i not in {*at_r, *at_c}]
    expected = compare(r[clean], c[clean]) | {"nonfinite_reference": len(at_r), "nonfinite_candidate": len(at_c)}
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
    json.dumps(m, allow_nan=False)


def test_nothing_to_compare_is_none_not_zero() -> None:
    m = compare(np.array([math.nan]), np.array([1.0]))
    assert (m["relative_l2"], m["max_abs"], m["cosine"], m["sqnr_db"]) == (None, None, None, None)
    assert (m["nonfinite_reference"], m["nonfinite_candidate"]) == (1, 0)


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
    assert (class_scores(np.zeros(shape, dtype)) is not None) == is_scores


def test_top1_agreement_counts_nan_as_a_miss() -> None:
    r = np.array([[1, 2], [2, 1], [1, 2], [math.nan, 2]])
    c = np.array([[0, 9], [0, 9], [math.nan, 2], [math.nan, 2]])
    assert top1_agreement(r, c) == 0.25
    assert top1_agreement(r[:, :1], c[:, :1]) is None


# Inputs


def spec(name: str, shape: tuple[int | str | None, ...], dtype: Any = np.float32) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


def tensor(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(w, name) for name, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear(w: np.ndarray, batch: Any = "N") -> onnx.ModelProto:
    """y [N, O] = x [N, I] @ w [I, O]"""
    i, o = w.shape
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return model([node], [tensor("x", [batch, i])], [tensor("y", [batch, o])], {"w": w.astype(np.float32)})


def test_input_specs_leave_initializers_out() -> None:
    m = linear(np.ones((3, 2)))
    m.graph.input.append(tensor("w", [3, 2]))
    m.graph.input.append(tensor("paddle", [-1, "?", "None", "h"], TensorProto.BFLOAT16))
    assert input_specs(m) == [
        spec("x", ("N", 3)),
        spec("paddle", (None, None, None, "h"), ml_dtypes.bfloat16),
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (tensor("s", [1], TensorProto.STRING), "strings"),
        (helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1]), "sequence_type"),
        (tensor("s", None), "declares no shape"),
    ],
)
def test_inputs_that_cannot_be_fed(value: onnx.ValueInfoProto, why: str) -> None:
    with pytest.raises(OnnxPruneError, match=f"input 's'.*{why}"):
        input_specs(model([], [value], []))


def test_one_symbol_one_size_and_batch_wins() -> None:
    specs = [spec("state", (2, "k", 4)), spec("x", ("k", "t")), spec("y", ("k", "t + 1", None))]
    arrays, sizes = random_inputs(specs, seed=0, batch=3)
    assert sizes == {"k": 3, "t": 16, "t + 1": 17, "y[2]": 16}
    assert [arrays[s.name].shape for s in specs] == [(2, 3, 4), (3, 16), (3, 17, 16)]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("N", 3, "h", "w"), (2, 3, 224, 224)),
        ((None, None, None, None), (2, 3, 224, 224)),
        (("N", "h", "w", 3), (2, 224, 224, 3)),
        (("batch-size", 8, "past_sequence_length", 64), (2, 8, 16, 64)),
        (("N", 1, "d", "h", "w"), (2, 1, 32, 32, 32)),
        ((1, "time"), (1, 16)),
        ((), ()),
    ],
)
def test_sizes_of_dynamic_axes(shape: tuple[Any, ...], expected: tuple[int, ...]) -> None:
    arrays, _ = random_inputs([spec("x", shape)], seed=0)
    assert arrays["x"].shape == expected


def test_given_sizes_win_and_unknown_ones_are_named() -> None:
    specs = [spec("x", ("N", None))]
    assert random_inputs(specs, seed=0, sizes={"N": 5, "x[1]": 7})[0]["x"].shape == (5, 7)
    with pytest.raises(OnnxPruneError, match=r"'M' names no dynamic axis.*\['N', 'x\[1\]'\]"):
        random_inputs(specs, seed=0, sizes={"M": 5})
    with pytest.raises(OnnxPruneError, match="'N' is 0"):
        random_inputs(specs, seed=0, sizes={"N": 0})


def test_values_follow_types_and_names() -> None:
    names = {"input_ids": np.int64, "attention_mask": np.int64, "token_type_ids": np.int32, "position_ids": np.int64}
    specs = [spec(n, (2, 300), t) for n, t in names.items()]
    specs += [spec("flags", (2, 300), np.bool_), spec("picture", (2, 300), np.uint8), spec("kind", (2, 300), np.int64)]
    a, _ = random_inputs(specs, seed=0)
    assert all(a[s.name].dtype == s.dtype for s in specs)
    assert a["input_ids"].min() == 0 and 90 < a["input_ids"].max() < 100
    assert (a["attention_mask"] == 1).all() and not a["token_type_ids"].any()
    assert (a["position_ids"] == np.arange(300)).all()
    assert set(np.unique(a["kind"])) == {0, 1} and a["picture"].max() > 200
    assert a["flags"].any() and not a["flags"].all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_random_floats_are_seeded_and_normal(dtype: Any) -> None:
    specs = [spec("x", (1000,), dtype)]
    one, two, other = (random_inputs(specs, seed=s)[0]["x"] for s in (1, 1, 2))
    assert one.dtype == dtype and one.tobytes() == two.tobytes() != other.tobytes()
    assert abs(float(one.astype(float).mean())) < 0.2 and 0.8 < float(one.astype(float).std()) < 1.2


# The user's data


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_dynamic_batches_keep_the_remainder(tmp_path: Path) -> None:
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    b = load_data(saved(tmp_path, x=x, labels=np.arange(7)), [spec("x", ("N", 2))], batch_size=3)
    assert [f["x"].tolist() for f in b] == [x[:3].tolist(), x[3:6].tolist(), x[6:].tolist()]
    assert (b.samples, b.dropped, b.sizes, b.source) == (7, 0, {"N": 3}, str(tmp_path / "data.npz"))
    assert b.labels is not None and b.labels.tolist() == list(range(7))


def test_static_batches_drop_and_say_so(tmp_path: Path) -> None:
    x = np.zeros((7, 2), np.float32)
    b = load_data(saved(tmp_path, x=x, label=np.arange(7)), [spec("x", (3, 2))])
    assert [f["x"].shape for f in b] == [(3, 2), (3, 2)]
    assert (b.samples, b.dropped) == (6, 1)
    assert b.labels is not None and b.labels.tolist() == list(range(6))


def test_batch_axis_follows_its_symbol_and_states_are_shared(tmp_path: Path) -> None:
    specs = [spec("x", ("k", 4)), spec("state", (2, "k", 3)), spec("rate", (), np.int64), spec("table", (5, 2))]
    arrays = {"x": (6, 4), "state": (2, 6, 3), "table": (5, 2)}
    data = {n: np.random.default_rng(0).random(s).astype(np.float32) for n, s in arrays.items()}
    b = load_data(saved(tmp_path, rate=np.array(8), **data), specs, batch_size=4)
    first, last = b
    assert np.array_equal(last["state"], data["state"][:, 4:]) and np.array_equal(last["x"], data["x"][4:])
    assert first["rate"] == 8 and last["rate"].shape == () and np.array_equal(last["table"], data["table"])


def test_nodes_and_edges_stay_one_batch(tmp_path: Path) -> None:
    specs = [spec("x", ("nodes", 3)), spec("edges", (2, "e"), np.int64)]
    path = saved(tmp_path, x=np.zeros((50, 3), np.float32), edges=np.zeros((2, 80), np.int64))
    (only,) = load_data(path, specs, batch_size=8)
    assert only["x"].shape == (50, 3) and only["edges"].shape == (2, 80)


def test_folder_of_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a_b:0.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "s.npy", np.array(3.0, np.float32))
    np.save(tmp_path / "labels.npy", np.arange(4))
    b = load_data(tmp_path, [spec("a/b:0", ("N", 2)), spec("s", ())])
    assert b.samples == 4 and b.labels is not None
    assert {n: x.shape for n, x in b.feeds[0].items()} == {"a/b:0": (4, 2), "s": ()}


def test_one_input_takes_an_array_of_any_name(tmp_path: Path) -> None:
    x = np.ones((4, 2), np.float32)
    np.save(tmp_path / "pictures.npy", x)
    for path in (saved(tmp_path, images=x), tmp_path / "pictures.npy"):
        assert np.array_equal(load_data(path, [spec("x", ("N", 2))]).feeds[0]["x"], x)


def test_bfloat16_survives_a_file(tmp_path: Path) -> None:
    x = np.arange(4).reshape(2, 2).astype(ml_dtypes.bfloat16)
    b = load_data(saved(tmp_path, x=x), [spec("x", ("N", 2), ml_dtypes.bfloat16)])
    assert b.feeds[0]["x"].dtype == ml_dtypes.bfloat16 and np.array_equal(b.feeds[0]["x"], x)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((4, 2))}, r"'x' expects float32 \[N, 2\], got float64 \[4, 2\]; convert.*astype\('float32'\)"),
        ({"x": np.zeros((4, 3), "f")}, r"expects float32 \[N, 2\], got float32 \[4, 3\]"),
        ({"x": np.zeros(2, "f")}, r"got float32 \[2\]"),
        ({"x": np.zeros((0, 2), "f")}, r"got float32 \[0, 2\]"),
        ({"x": np.zeros((4, 2), "f"), "labels": np.arange(3)}, r"labels are int64 \[3\]; give 4 integers"),
        ({"x": np.zeros((4, 2), "f"), "labels": np.zeros(4)}, "labels are float64"),
        ({"x": np.zeros((4, 2), "f"), "z": np.zeros(1)}, r"missing \[\], not understood \['z'\]"),
        ({"x": np.array([{}, 1], object)}, "cannot be read as plain numpy arrays"),
        ({}, r"missing \['x'\]"),
    ],
)
def test_wrong_data_of_one_input(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(OnnxPruneError, match=why):
        load_data(saved(tmp_path, **arrays), [spec("x", ("N", 2))])


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ((4, "t"), (4, "t"), None),
        (("N", 5), ("N", 6), r"'N' is 6 on axis 0 of input 'b', but 5 before"),
        ((1, 5), (1, 6), "the same number of samples"),
        ((2, 6), (3, 6), "the same number of samples.*batches of"),
    ],
)
def test_inputs_of_unequal_length(tmp_path: Path, a: Any, b: Any, why: str | None) -> None:
    """Each case: the declared axis 0 of two inputs, and what the file holds there (a `t`: what is declared)."""
    held = {name: np.zeros((d if n == "t" else n, 2), "f") for name, (d, n) in (("a", a), ("b", b))}
    specs = [spec("a", (a[0], 2)), spec("b", (b[0], 2))]
    path = saved(tmp_path, **held)
    if why is None:
        assert load_data(path, specs).samples == 4
        return
    with pytest.raises(OnnxPruneError, match=why):
        load_data(path, specs)


@pytest.mark.parametrize("content", [b"", b"not an array", b"PK\x03\x04 cut short"])
def test_files_that_hold_no_arrays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(OnnxPruneError, match="cannot be read"):
        load_data(path, [spec("x", ("N", 2))])
    with pytest.raises(OnnxPruneError, match="there is no such file"):
        load_data(tmp_path / "absent.npz", [spec("x", ("N", 2))])


# Two models


def test_a_model_against_itself_in_every_form(tmp_path: Path) -> None:
    m = linear(np.eye(4))
    onnx.save(m, tmp_path / "m.onnx")
    forms = (m, m.SerializeToString(), tmp_path / "m.onnx", str(tmp_path / "m.onnx"))
    results = [validate(form, form, threads=1).to_json() for form in forms]
    assert all(r == results[0] for r in results)
    r = results[0]
    assert r["overall"]["max_abs"] == 0.0 and r["top1_agreement"] == 1.0 and r["accuracy"] is None
    assert (r["data"], r["samples"], r["dynamic_sizes"]) == ("random seed 0", 2, {"N": 2})
    assert r["inputs"] == {"x": {"dtype": "float32", "shape": [2, 4]}}
    json.dumps(r, allow_nan=False)


def test_a_scaled_model_has_the_scale_as_its_error() -> None:
    w = np.random.default_rng(0).standard_normal((4, 3))
    r = validate(linear(w), linear(1.5 * w), seed=7, sizes={"N": 5})
    assert r.outputs["y"]["relative_l2"] == pytest.approx(0.5, rel=1e-5)
    assert r.overall == r.outputs["y"]
    assert (r.class_output, r.top1_agreement, r.samples) == ("y", 1.0, 5)


def test_accuracy_from_labels(tmp_path: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    path = saved(tmp_path, x=x, labels=np.arange(4))
    m, flipped = linear(np.eye(4)), linear(np.eye(4)[[1, 0, 2, 3]])
    r = validate(m, flipped, data=load_data(path, input_specs(m), batch_size=3))
    assert r.accuracy == {"before": 1.0, "after": 0.5} and r.top1_agreement == 0.5
    assert (r.data, r.samples) == (str(path), 4)
    with pytest.raises(OnnxPruneError, match="no output looks like class scores"):
        one = linear(np.ones((4, 1)))
        validate(one, one, data=load_data(path, input_specs(one)))


def test_a_static_batch_reports_what_it_dropped(tmp_path: Path) -> None:
    m = linear(np.eye(4), batch=3)
    data = load_data(saved(tmp_path, x=np.ones((7, 4), np.float32)), input_specs(m))
    r = validate(m, m, data=data)
    assert (r.samples, r.dropped, r.inputs["x"]["shape"]) == (6, 1, [3, 4])


def test_integer_outputs_are_a_fraction_and_stay_out_of_the_sums() -> None:
    def cast(bias: list[int]) -> onnx.ModelProto:
        nodes = [helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Identity", ["z"], ["f"])]
        inputs = [tensor("x", ["N", 4], TensorProto.INT64), tensor("z", ["N"])]
        outputs = [tensor("y", ["N", 4], TensorProto.INT64), tensor("f", ["N"])]
        return model(nodes, inputs, outputs, {"b": np.array(bias)})

    r = validate(cast([0, 0, 0, 0]), cast([0, 9, 0, 0]))
    assert r.outputs["y"] == {"mismatch": 0.25}
    assert r.overall["max_abs"] == 0.0 and r.overall["relative_l2"] == 0.0


def test_nonfinite_outputs_are_counted() -> None:
    def log(scale: float) -> onnx.ModelProto:
        nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Mul", ["a", "s"], ["b"])]
        nodes.append(helper.make_node("Sqrt", ["b"], ["y"]))
        return model(nodes, [tensor("x", [6])], [tensor("y", [6])], {"s": np.array(scale, np.float32)})

    r = validate(log(1), log(-1))
    assert r.nonfinite == {"reference": 0, "candidate": 6} and r.overall["relative_l2"] is None


def test_a_changed_output_shape_is_named_and_the_rest_compared() -> None:
    def two(width: int) -> onnx.ModelProto:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
        return model(
            nodes, [tensor("x", ["N", 4])], [tensor("y", ["N", None]), tensor("z", ["N", 4])],
            {"w": np.ones((4, width), np.float32)},
        )  # fmt: skip

    r = validate(two(3), two(2))
    assert r.outputs["y"] == {"error": "shape [2, 3] of the original became [2, 2]"}
    assert r.outputs["z"]["max_abs"] == 0.0 and r.class_output == "z"


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
    assert validate(m, m).overall["max_abs"] == 0.0


def test_token_ids_under_another_name_are_found() -> None:
    """The model takes the first of the ids above 1; ids of 0 and 1 leave none to take."""
    nodes = [
        helper.make_node("Greater", ["x", "one"], ["big"]),
        helper.make_node("Compress", ["x", "big"], ["few"], axis=0),
        helper.make_node("Gather", ["few", "zero"], ["y"]),
    ]
    weights = {"one": np.array(1), "zero": np.array(0)}
    m = model(nodes, [tensor("x", [64], TensorProto.INT64)], [tensor("y", [], TensorProto.INT64)], weights)
    assert validate(m, m).outputs["y"] == {"mismatch": 0.0}


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
    assert validate(tmp_path / "m.onnx", tmp_path / "m.onnx").overall["max_abs"] == 0.0
    with pytest.raises(OnnxPruneError, match=r"external files.*give the path"):
        validate((tmp_path / "m.onnx").read_bytes(), m)


def test_data_and_sizes_exclude_each_other(tmp_path: Path) -> None:
    m = linear(np.eye(2))
    data = load_data(saved(tmp_path, x=np.ones((2, 2), np.float32)), input_specs(m))
    with pytest.raises(OnnxPruneError, match="leave one of the two out"):
        validate(m, m, data=data, sizes={"N": 2})


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT16])
def test_types_that_numpy_lacks(kind: int) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [tensor("x", ["N", 3], kind)], [tensor("y", ["N", 3], kind)])
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.arange(6).reshape(2, 3).astype(helper.tensor_dtype_to_np_dtype(kind))
    y = run(open_session(m, "original"), {"x": x})["y"]
    assert y.dtype == x.dtype and np.array_equal(y, x)
    assert validate(m, m).outputs["y"]["relative_l2"] == 0.0


def test_sequence_outputs_are_said_not_to_be_compared() -> None:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    out = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N", 3])
    m = model([node], [tensor("x", ["N", 3])], [out])
    assert "not a tensor" in validate(m, m).outputs["y"]["error"]


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
    assert r.overall["max_abs"] in (0.0, None)
    assert all(not o.get("mismatch") and "error" not in o for o in r.outputs.values())
