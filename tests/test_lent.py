"""Sessions of models whose weights stay where they are give what those of one message give, bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.sessions import open_session, run
from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import lent
from onnxprune.graph.io import load
from onnxprune.graph.model import Model
from onnxprune.graph.weights import SlicedWeight

MODELS = Path(__file__).parents[1] / "models"
TYPES = [
    np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8, np.int64, np.bool_,
    ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn,
]  # fmt: skip
KINDS = {type_: np.dtype(type_).name for type_ in TYPES}


def proto_with(kinds: list[type]) -> onnx.ModelProto:
    """A model that hands out its weights [48, 60], of these types, as floats; and x times the first of them."""
    nodes, weights, outputs = [], [], ["y"]
    for i, kind in enumerate(kinds):
        array: np.ndarray = np.random.default_rng(i).integers(0, 7, (48, 60)).astype(np.float32).astype(kind)
        weights.append(numpy_helper.from_array(array, f"w{i}"))
        nodes.append(helper.make_node("Cast", [f"w{i}"], [f"c{i}"], to=TensorProto.FLOAT))
        outputs.append(f"c{i}")
    nodes.append(helper.make_node("MatMul", ["x", "c0"], ["y"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 48])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def outputs(model: Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run(open_session(model, "test", 1), feeds)


def check_both_ways(model: Model, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    want = outputs(model, feeds)
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    got = outputs(model, feeds)
    assert want.keys() == got.keys() and all(want[n].tobytes() == got[n].tobytes() for n in want)


@pytest.mark.parametrize("source", ["message", "file", "data file"])
def test_every_type_is_read_where_it_lies(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, path = proto_with(TYPES), tmp_path / "m.onnx"
    x = {"x": np.random.default_rng(0).standard_normal((3, 48)).astype(np.float32)}
    onnx.save(proto, path, save_as_external_data=source == "data file", location="m.data", size_threshold=0)
    model = load(proto if source == "message" else path)
    check_both_ways(model, x, monkeypatch)


@pytest.mark.parametrize("kind", TYPES, ids=KINDS.get)
def test_cut_weights_are_written_to_a_file(tmp_path: Path, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto_with([kind, np.float32]), path)
    model = load(path)
    cut = SlicedWeight(model.weights["w0"], [(1, np.arange(0, 60, 2))])
    model = replace(model, weights=model.weights | {"w0": cut})
    check_both_ways(model, {"x": np.ones((2, 48), np.float32)}, monkeypatch)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_resnet", "digits_vit"])
def test_real_models_give_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.load(MODELS / "digits_calib.npz")
    check_both_ways(load(MODELS / f"{name}.onnx"), {n: pixels[n][:16] for n in pixels}, monkeypatch)


def test_nothing_large_is_in_the_message_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scratch = tmp_path / "m.onnx", tmp_path / "scratch"
    scratch.mkdir()
    onnx.save(proto_with([np.float32, np.float64]), path)
    model = load(path)
    model = replace(model, weights=model.weights | {"w1": SlicedWeight(model.weights["w1"], [(0, np.arange(9))])})
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with lent.lend_bytes(model) as (message, entries):
        there = [n for _, _, names in os.walk(scratch) for n in names]
        (root,) = entries.values()
        places = [
            next(e.value for e in t.external_data if e.key == "location")
            for t in onnx.load_from_string(message).graph.initializer
        ]
        assert len(message) < 1024 and there == ["weights.data"]
        assert [Path(root, p).name for p in places] == ["m.onnx", "weights.data"]
    assert not any(scratch.iterdir())


def test_a_changed_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto_with([np.float32]), path)
    model = load(path)
    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    path.write_bytes(b"other")
    with pytest.raises(ModelError, match="was changed"):
        open_session(model, "test")


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lent, "LENT_BYTES", 0)
    monkeypatch.setattr(lent, "iterate_pieces", refuse)
    with pytest.raises(OutputError, match="No space left on device; make room there"):
        open_session(load(proto_with([np.float32])), "test")
