"""The same network in half precision, and with its products as Gemms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import laws
import numpy as np
import onnx
import pytest
from laws import run_ort
from onnx import TensorProto, helper, numpy_helper
from sparse_checker import operands, violations
from tiny import linear, model, saved, tensor

import onnxprune
from onnxprune import convert
from onnxprune.convert import cast, write_gemms
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.save import build_full_proto
from onnxprune.sparsity import Sparsity, sparsify

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


def draw(*shape: int) -> np.ndarray:
    return np.abs(np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_half_precision_computes_nearly_the_same(path: Path) -> None:
    source = onnxprune.load(path)
    made = build_full_proto(cast(sparsify(onnxprune.analyze(path), Sparsity(layers="eligible")).model, "fp16"))
    onnx.checker.check_model(made, full_check=True)
    assert {t.data_type for t in made.graph.initializer if len(t.dims) > 1 and t.data_type != TensorProto.INT64} == {
        TensorProto.FLOAT16
    }
    assert [v.type for v in made.graph.input] == [v.type for v in source.proto.graph.input]
    want = build_full_proto(sparsify(onnxprune.analyze(path), Sparsity(layers="eligible")).model)
    feeds = {
        source.proto.graph.input[0].name: np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    }
    (a,), (b,) = run_ort(want, [feeds])[0], run_ort(made, [feeds])[0]
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()
    for name, w in operands(made).items():
        assert np.array_equal(w == 0, operands(want)[name] == 0), name


def _function_called_twice(constant: onnx.NodeProto) -> onnx.ModelProto:
    body = [constant, helper.make_node("MatMul", ["a", "w"], ["b"], name="inside")]
    f = helper.make_function("mine", "Layer", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    calls = [helper.make_node("Layer", [i], [o], domain="mine", name=f"to_{o}") for i, o in (("x", "h"), ("h", "y"))]
    made = model(calls, [tensor("x", ["N", 8])], [tensor("y", ["N", 8])])
    made.functions.append(f)
    made.opset_import.append(helper.make_opsetid("mine", 1))
    return made


def test_the_tensor_of_a_function_is_fitted_and_halved_where_it_is_called(tmp_path: Path) -> None:
    w = numpy_helper.from_array(draw(8, 8) - 0.5)
    source = _function_called_twice(helper.make_node("Constant", [], ["w"], value=w))
    path = tmp_path / "m.onnx"
    onnx.save(source, path)
    calib = saved(tmp_path, x=draw(64, 8))
    made = onnxprune.sparsify(path, tmp_path / "o.onnx", layers="all", calib=calib, cast="fp16")
    out = onnx.load(made.files[0])
    assert all(violations(w, 2, 4) == 0 for w in operands(out).values())
    assert {x.method for x in made.report.sparsity.layers} == {"sparsegpt"}
    assert made.report.error.relative_l2 < 0.5
    plain = build_full_proto(cast(onnxprune.load(path), "fp16"))
    (a,), (b,) = (run_ort(m, [{"x": draw(3, 8)}])[0] for m in (source, plain))
    assert np.allclose(a, b, rtol=1e-2, atol=1e-2)


def test_what_the_converter_to_half_precision_does_not_take_is_one_line() -> None:
    def branch() -> onnx.GraphProto:
        w = numpy_helper.from_array(draw(8, 8), "same")
        return helper.make_graph([helper.make_node("MatMul", ["x", "same"], ["b"])], "g", [], [tensor("b", None)], [w])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch(), else_branch=branch())
    source = model([node], [tensor("x", ["N", 8]), tensor("c", [], TensorProto.BOOL)], [tensor("y", ["N", 8])])
    with pytest.raises(OnnxPruneError, match="does not take the model"):
        cast(onnxprune.load(source), "fp16")


@pytest.mark.parametrize(("target", "left"), [("cpu", [0, 0]), ("cpu-avx512", [0, 0]), ("none", [1e-39, -1e-45])])
def test_subnormal_weights_become_zeros_where_they_are_slow(target: str, left: list[float]) -> None:
    """But not the least number that a Max lets through, nor the least normal one."""
    w2 = draw(8, 6) + 1
    w2[0, :3] = np.array([1e-39, -1e-45, np.finfo(np.float32).tiny], np.float32)
    nodes = [("MatMul", "x w1 a"), ("Max", "a least b"), ("MatMul", "b w2 y")]
    proto = model(
        [helper.make_node(op, names.split()[:2], names.split()[2:]) for op, names in nodes],
        [tensor("x", ["N", 6])], [tensor("y", ["N", 6])], {"w1": draw(6, 8), "least": np.array(1e-45, np.float32), "w2": w2},
    )  # fmt: skip
    plan = laws.plan_of(onnxprune.analyze(proto), {"w1": range(7)})
    made = onnxprune.prune(proto, plan=plan, target=target, check=False).model
    got = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert got["w2"][0, :2].tolist() == np.array(left, np.float32).tolist() and got["least"] > 0
    assert np.array_equal(got["w2"].ravel()[2:], w2[:7].ravel()[2:])


def test_a_weight_in_a_file_is_read_some_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = draw(50, 7)
    w[3, 2] = 1e-40
    onnx.save(linear(w), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.setattr(convert, "PART", 30)
    flushed = convert.flush_subnormals(onnxprune.load(tmp_path / "m.onnx")).weights["w"]
    assert isinstance(flushed, convert.FlushedWeight)
    sizes = [part.shape for part in flushed.parts()]
    assert sizes == [(4, 7)] * 12 + [(2, 7)]
    w[3, 2] = 0
    assert np.array_equal(flushed.array(), w)


def test_no_number_becomes_zero_in_half_precision() -> None:
    w = np.array([[1e-9, -1e-9, 0.0, 1e6], [-1e6, 1.0, np.inf, np.nan]], np.float32)
    (t,) = build_full_proto(cast(onnxprune.load(linear(w)), "fp16")).graph.initializer
    got = numpy_helper.to_array(t).astype(np.float32)
    assert np.array_equal(got == 0, w == 0) and np.array_equal(np.isfinite(got), np.isfinite(w))
    assert np.array_equal(np.sign(got), np.sign(w), equal_nan=True)


def test_half_precision_names_no_two_sizes_alike() -> None:
    """Inference calls the widths of a sequence's tensors alike; ONNX Runtime then puts one where the other was."""
    op = helper.make_node
    nodes = [
        op("SplitToSequence", ["x", "sizes"], ["parts"], axis=1),
        op("SequenceAt", ["parts", "zero"], ["a"]),
        op("Relu", ["a"], ["b"]),
        op("MatMul", ["b", "w"], ["c"]),
        op("Size", ["c"], ["n"]),
        op("Min", ["n", "one"], ["at"]),
        op("SequenceAt", ["parts", "at"], ["d"]),
        op("Relu", ["d"], ["e"]),
        op("MatMul", ["e", "v"], ["f"]),
        op("Add", ["c", "f"], ["y"]),
    ]
    weights = {"sizes": np.array([2, 3]), "zero": np.array(0), "one": np.array(1), "w": draw(2, 4), "v": draw(3, 4)}
    source = model(nodes, [tensor("x", ["N", 5])], [tensor("y", ["N", 4])], weights)
    made = build_full_proto(cast(onnxprune.load(source), "fp16"))
    (a,), (b,) = (run_ort(m, [{"x": draw(3, 5)}])[0] for m in (source, made))
    assert np.allclose(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shape", [["N", 6], ["N", 5, 6], [2, 5, 6], ["N", "T", 6]], ids=str)
@pytest.mark.parametrize("bias", [(8,), (1,), None], ids=str)
def test_a_product_becomes_a_gemm_and_computes_the_same(shape: list[Any], bias: tuple[int, ...] | None) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((6, 8)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], name="product")]
    if bias:
        weights["b"] = rng.standard_normal(bias).astype(np.float32)
        nodes.append(helper.make_node("Add", ["b", "m"], ["a"]))
    nodes.append(helper.make_node("Relu", ["a" if bias else "m"], ["y"]))
    proto = model(nodes, [tensor("x", shape)], [tensor("y", [*shape[:-1], 8])], weights)
    made = build_full_proto(write_gemms(onnxprune.load(proto)))
    onnx.checker.check_model(made, full_check=True)
    dynamic = sum(isinstance(n, str) for n in shape)
    assert [n.op_type for n in made.graph.node if n.op_type in ("Gemm", "MatMul")] == [
        "MatMul" if dynamic > 1 else "Gemm"
    ]
    assert any(n.op_type == "Add" for n in made.graph.node) == (bias == (1,) or (bool(bias) and dynamic > 1))
    x = {"x": rng.standard_normal([3 if isinstance(n, str) else n for n in shape]).astype(np.float32)}
    (a,), (b,) = run_ort(proto, [x])[0], run_ort(made, [x])[0]
    assert np.allclose(a, b, atol=1e-5)
