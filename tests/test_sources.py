"""Models that other libraries hold in memory come in, and go out as their like."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from laws import run_ort
from onnx import helper, parser

import onnxprune
from onnxprune.errors import ModelError, OnnxPruneError

MODELS = Path(__file__).parents[1] / "models"
CNN, CALIB = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz"
FEEDS = [{"image": np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)}]


def outputs(proto: onnx.ModelProto) -> np.ndarray:
    ((found,),) = run_ort(proto, [{proto.graph.input[0].name: FEEDS[0]["image"]}])
    return np.asarray(found)


def test_bytes_become_bytes() -> None:
    made = onnxprune.prune(CNN.read_bytes(), ratio=0.5)
    assert isinstance(made.model, bytes)
    assert onnx.load_model_from_string(made.model) == onnxprune.prune(onnx.load(CNN), ratio=0.5).model
    with pytest.raises(ModelError, match=r"7 bytes are no ONNX model"):
        onnxprune.load(b"\xff\xff\xffnot!")


def test_a_graphsurgeon_graph_is_pruned_edited_and_pruned_again() -> None:
    small = onnxprune.prune(gs.import_onnx(onnx.load(CNN)), ratio=0.3, calib=CALIB, check=False)
    graph = small.model
    assert isinstance(graph, gs.Graph)
    scores = graph.outputs[0]
    doubled = gs.Variable("doubled", dtype=scores.dtype, shape=scores.shape)
    graph.nodes.append(gs.Node("Add", inputs=[scores, scores], outputs=[doubled]))
    graph.outputs = [doubled]
    np.testing.assert_allclose(outputs(onnxprune.prune(graph, ratio=0).proto), 2 * outputs(small.proto), rtol=1e-5)
    again = onnxprune.prune(graph, ratio=0.3, check=False)
    assert again.report.params.after < small.report.params.after
    assert onnxprune.validate(graph, again.model).overall.relative_l2 < 2


def test_what_graphsurgeon_has_no_place_for_comes_back() -> None:
    proto = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21], metadata_props: ["author": "me"]>
        g (float[N,4] x) => (float[N,2] y) <float s = {0.5}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }"""
    )
    proto.graph.initializer.append(helper.make_tensor("q", onnx.TensorProto.INT4, [4, 2], [1, -2, 3, 4, 5, -6, 7, -8]))
    note = proto.graph.quantization_annotation.add(tensor_name="w")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    made = onnxprune.prune(proto, ratio=0, check=False)
    back = onnxprune.prune(made.to_graphsurgeon(), ratio=0, check=False).proto
    assert list(back.metadata_props) == list(proto.metadata_props)
    assert list(back.graph.quantization_annotation) == list(proto.graph.quantization_annotation)
    weights = [{t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (proto, back)]
    assert weights[0]["q"].tolist() == weights[1]["q"].tolist() and weights[1]["q"].dtype == weights[0]["q"].dtype


def test_an_ir_model_becomes_one() -> None:
    ir = pytest.importorskip("onnx_ir")
    made = onnxprune.prune(ir.from_proto(onnx.load(CNN)), ratio=0.5)
    assert isinstance(made.model, ir.Model) and isinstance(made.to_ir(), ir.Model)
    assert np.array_equal(outputs(ir.to_proto(made.model)), outputs(made.proto))


def test_a_torch_module_is_exported() -> None:
    torch = pytest.importorskip("torch", reason="a torch module needs torch")

    network: Any = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(576, 10),
    )
    x = torch.from_numpy(FEEDS[0]["image"])
    made = onnxprune.prune(network, ratio=0, example_inputs=x[:1], check=False)
    assert isinstance(made.model, onnx.ModelProto) and network.training
    np.testing.assert_allclose(outputs(made.model), network.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert onnxprune.prune(network, ratio=0.5, example_inputs=(x,), check=False).report.params.after < 5000
    with pytest.raises(OnnxPruneError, match=r"give example_inputs=\(tensor, \.\.\)"):
        onnxprune.analyze(network)


def test_a_program_that_torch_exported_is_one() -> None:
    torch = pytest.importorskip("torch", reason="a program of torch needs torch")
    pytest.importorskip("onnxscript", reason="torch.export needs onnxscript")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    x = torch.from_numpy(FEEDS[0]["image"])
    made = onnxprune.prune(torch.onnx.export(network.eval(), (x,), dynamo=True), ratio=0.5, check=False)
    assert isinstance(made.model, onnx.ModelProto) and made.report.params.after < 1300


def test_what_is_no_model_is_said_so() -> None:
    with pytest.raises(TypeError, match=r"^dict is no model; give a path, a ModelProto"):
        onnxprune.load({})
