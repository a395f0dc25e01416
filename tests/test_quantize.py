"""Prune, then int8: what is written, what the report says of all three models, and what is refused in one line."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from test_cli import call
from test_schema import assert_schema
from tiny import model, saved, tensor

import onnxprune
from onnxprune import OnnxPruneError
from onnxprune.calibration import list_input_specs, load_data
from onnxprune.graph.io import load
from onnxprune.graph.save import build_full_proto, save
from onnxprune.quantize import quantize
from onnxprune.report import from_json, to_json
from onnxprune.report.html.payload import make_models
from onnxprune.report.rows import Single
from onnxprune.report.stages import compare_stages, explain_slow
from onnxprune.report.types import PruneReport

MODELS = Path(__file__).parents[1] / "models"
CNN, CALIB, TEST = (MODELS / name for name in ("digits_cnn.onnx", "digits_calib.npz", "digits_test.npz"))
INT8 = {"calib": CALIB, "samples": 64, "then_quantize": "int8"}


def network(opset: int = 17, batch: object = "N") -> onnx.ModelProto:
    """Two inputs, a convolution with a batch norm, a sum, and a product of matrices."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(16, 16, 1, 1)).astype(np.float32),
        "m": rng.normal(size=(16, 5)).astype(np.float32),
        **{k: rng.uniform(0.5, 1.5, 16).astype(np.float32) for k in ("gamma", "beta", "mean", "var")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["d"], "second"),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "z"], ["a"]),
        helper.make_node("MatMul", ["a", "m"], ["y"], "last"),
    ]
    inputs = [tensor("x", [batch, 3, 8, 8]), tensor("z", [batch, 16])]
    made = model(nodes, inputs, [tensor("y", [batch, 5])], weights)
    made.opset_import[0].version = opset
    made.producer_name, made.doc_string = "somebody", "a network"
    helper.set_model_props(made, {"author": "nobody"})
    return made


def feeds(rows: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=(rows, 3, 8, 8)).astype(np.float32),
        "z": rng.normal(size=(rows, 16)).astype(np.float32),
    }


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_all_three_models_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    report = tmp_path / "r.json"
    args = ("--macs", 0.5, "--calib", CALIB, "--samples", 64, "--then-quantize", "int8", "--data", TEST)
    result = call("prune", CNN, "-o", out, *args, "--report", report)
    assert result.exit_code == 0
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert all(line.startswith("warning: int8 is slower here") for line in warnings)
    assert "target cpu-int8" in result.stdout and "5 layers in int8, activations uint8" in result.stdout
    table = result.stdout.split("pruned + int8\n")[1].splitlines()
    assert [line.split("  ")[0] for line in table[:5]] == ["file", "accuracy", "same class", "relative L2", "speed-up"]
    data = json.loads(report.read_text())
    assert_schema("prune", data)
    found = from_json(PruneReport, data)
    of = found.quantization
    assert of and of.pruned_error and of.pruned_error.accuracy and of.pruned_latency and found.error
    assert (of.layers, of.float_layers, of.element_type) == (5, 0, "int8")
    assert (of.symmetric, of.weight_bits) == (False, 7)
    assert found.error.accuracy and found.error.accuracy.after and found.error.accuracy.after > 0.9
    assert out.stat().st_size == found.bytes.after and found.bytes.after < 0.4 * of.pruned_bytes < 0.4 * 545_400
    assert found.macs.before and found.macs.after and 0.4 < found.macs.after / found.macs.before <= 0.5
    assert all(g.kept % 8 == 0 for g in found.groups)
    rows = compare_stages(found)
    assert [(r.original, r.pruned, r.quantized) for r in rows if r.name == "file"] == [
        (found.bytes.before, of.pruned_bytes, found.bytes.after)
    ]
    (page,) = make_models([Single("m", "m", found)])
    assert [row[:2] for row in page["settings"][0]["stages"]] == [[r.name, r.unit] for r in rows]


def test_the_file_is_int8_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(network(), source)
    calib = saved(tmp_path, **feeds())
    files = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for out in files:
        onnxprune.prune(source, out, ratio=0.5, calib=calib, then_quantize="int8", check=False)
    assert files[0].read_bytes() == files[1].read_bytes()
    made = onnx.load(files[0])
    onnx.checker.check_model(made, full_check=True)
    assert "BatchNormalization" not in operators(made) and operators(made).count("DequantizeLinear") > 6
    assert (made.producer_name, made.doc_string, made.metadata_props[0].key) == ("somebody", "a network", "author")
    assert len(made.metadata_props) == 1 and [o.domain for o in made.opset_import] == [""]
    assert made.graph.input == network().graph.input and made.graph.output == network().graph.output
    weights = {t.data_type for t in made.graph.initializer if len(t.dims) > 1}
    assert weights == {TensorProto.INT8}
    session = ort.InferenceSession(files[0], providers=["CPUExecutionProvider"])
    assert [session.run(None, feeds(n))[0].shape for n in (1, 7)] == [(1, 5), (7, 5)]


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 18])
@pytest.mark.parametrize("batch", ["N", 4])
def test_opsets_and_batches(opset: int, batch: object, tmp_path: Path) -> None:
    calib = saved(tmp_path, **feeds(16))
    made = onnxprune.prune(network(opset, batch), ratio=0.25, calib=calib, then_quantize="int8", data=calib)
    found = made.report.quantization
    assert found and (found.layers, found.float_layers) == (3, 0)
    assert made.report.error and made.report.error.samples == 16
    assert made.report.error.relative_l2 is not None and made.report.error.relative_l2 < 0.3
    assert max(opset, 13) == made.proto.opset_import[0].version


def test_weights_in_a_data_file_stay_in_one(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(64, 64)).astype(np.float32), "v": rng.normal(size=(64, 8)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "a"), helper.make_node("MatMul", ["h", "v"], ["y"], "b")]
    save(load(model(nodes, [tensor("x", ["N", 64])], [tensor("y", ["N", 8])], weights)), source, external=True)
    calib = saved(tmp_path, x=rng.normal(size=(8, 64)).astype(np.float32))
    made = onnxprune.prune(source, out, ratio=0.5, calib=calib, then_quantize="int8", check=False)
    assert [f.suffix for f in made.files] == [".onnx", ".data"]
    assert made.report.quantization and made.report.quantization.layers == 2


def test_nothing_is_left_behind_or_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    batches = load_data(feeds(), list_input_specs(network()))
    before = set(Path(tempfile.gettempdir()).glob("*quant*")), list(logging.getLogger().handlers), tempfile.tempdir
    quantize(load(network()), batches)
    after = set(Path(tempfile.gettempdir()).glob("*quant*")), list(logging.getLogger().handlers), tempfile.tempdir
    assert before == after and logging.getLogger().manager.disable == 0
    assert capfd.readouterr() == ("", "")


def test_a_model_that_no_message_holds_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = load_data(feeds(), list_input_specs(network()))
    small = build_full_proto(quantize(load(network()), batches).model)
    monkeypatch.setattr("onnxprune.quantize.fits_message", lambda model: False)
    assert build_full_proto(quantize(load(network()), batches).model) == small


def test_activations_may_be_symmetric() -> None:
    batches = load_data(feeds(), list_input_specs(network()))
    made = build_full_proto(quantize(load(network()), batches, symmetric=True).model)
    zeros = [t for t in made.graph.initializer if t.name.endswith("zero_point")]
    assert zeros and {t.data_type for t in zeros} <= {TensorProto.INT8, TensorProto.INT32}
    assert not any(onnx.numpy_helper.to_array(t).any() for t in zeros)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 64)])
def test_weights_may_leave_room_for_sums_of_two_products(bits: int, most: int) -> None:
    batches = load_data(feeds(), list_input_specs(network()))
    made = build_full_proto(quantize(load(network()), batches, weight_bits=bits).model)
    weights = [t for t in made.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert weights and all(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max() == most for t in weights)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calib": None}, "takes the ranges of activations from data; give a hundred inputs with --calib"),
        ({"cast": "fp16"}, "then-quantize int8 and cast fp16: give one"),
        ({"sparsity": onnxprune.Sparsity()}, "then-quantize and then-sparsify: give one; 'onnxprune sparsify' makes"),
        ({"then_quantize": "int4"}, "unknown then_quantize 'int4'; choose one of int8"),
    ],
)
def test_what_does_not_go_together_is_said_at_once(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OnnxPruneError, match=words):
        onnxprune.prune(CNN, ratio=0.5, **{**INT8, **changes})


def test_a_quantized_model_and_one_without_products_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    onnxprune.prune(CNN, out, ratio=0.5, check=False, **INT8)
    with pytest.raises(
        OnnxPruneError, match=r"the model is quantized already \(DequantizeLinear '.*'\); drop --then-quantize"
    ):
        onnxprune.prune(out, ratio=0.5, **INT8)
    relu = model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 4])], [tensor("y", ["N", 4])])
    with pytest.raises(OnnxPruneError, match="nothing of the model can be int8"):
        onnxprune.prune(relu, then_quantize="int8", calib={"x": np.ones((2, 4), np.float32)})


def test_what_the_quantizer_does_not_take_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", fail)
    with pytest.raises(
        OnnxPruneError, match=r"does not take the model \(ValueError: first line\); drop --then-quantize$"
    ):
        onnxprune.prune(CNN, ratio=0.5, **INT8)


def test_a_prediction_and_a_result_that_is_not_compared(tmp_path: Path) -> None:
    assert onnxprune.prune(CNN, ratio=0.5, dry_run=True, **INT8).report.quantization is None
    found = onnxprune.prune(CNN, ratio=0.5, check=False, **INT8).report.quantization
    assert found and found.pruned_error is None and found.pruned_latency is None and found.layers == 5
    assert to_json(found)["pruned_bytes"] == found.pruned_bytes


def test_a_slower_int8_model_is_told() -> None:
    found = onnxprune.prune(CNN, ratio=0.5, **INT8).report
    of = found.quantization
    assert of and of.pruned_latency and found.latency

    def said(before: float, after: float, verdict: str = "faster") -> str:
        pruned = replace(of.pruned_latency, ratio=before, verdict=verdict)
        latency = replace(found.latency, ratio=after, verdict="faster")
        return explain_slow(replace(found, latency=latency, quantization=replace(of, pruned_latency=pruned)))

    assert (
        said(2.0, 1.5)
        == "int8 is slower here than the pruned model in float (1.50x against 2.00x); drop --then-quantize"
    )
    assert not said(2.0, 1.97) and not said(2.0, 2.5) and not said(2.0, 1.5, "noisy")
    assert explain_slow(replace(found, quantization=None)) == ""


def test_recipes_have_it(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"models = ['{CNN}']\n[settings]\nratio = 0.5\nsamples = 32\ncalib = '{CALIB}'\nthen_quantize = 'int8'\n"
    )
    result = call("batch", recipe, "-o", tmp_path / "out", "--json")
    (job,) = json.loads(result.stdout)
    assert job["status"] in ("done", "degraded") and job["report"]["quantization"]["layers"] == 5
    recipe.write_text(recipe.read_text().replace(f"calib = '{CALIB}'\n", ""))
    refused = call("batch", recipe, "-o", tmp_path / "out")
    assert refused.exit_code == 2 and "give a hundred inputs with --calib" in refused.stderr
