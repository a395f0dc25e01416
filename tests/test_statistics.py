"""Statistics gathered inside ONNX Runtime, against numpy on the whole feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import model, tensor

import onnxprune
from onnxprune.calibration import load_data
from onnxprune.calibration.array_store import Memory
from onnxprune.calibration.folds import nuclear_fall
from onnxprune.calibration.inputs import list_input_specs
from onnxprune.calibration.probes import Net
from onnxprune.calibration.sessions import open_session, run
from onnxprune.calibration.statistics import STATISTICS, gather
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.edit import Editor
from onnxprune.graph.weights import ArrayWeight

Array = np.ndarray[Any, np.dtype[Any]]
SHAPES: dict[str, tuple[Any, ...]] = {
    "blocked": ("N", 5, 6, 7),
    "sequence": ("N", 4, 5),
    "flat": ("N", 5),
    "volume": ("N", 3, 2, 3, 4),
}


def network(shape: tuple[Any, ...], opset: int, elem: int, relu: bool) -> onnx.ModelProto:
    """t = Relu(x) or 2 x, y = -t"""
    first = helper.make_node("Relu", ["x"], ["t"]) if relu else helper.make_node("Add", ["x", "x"], ["t"])
    m = model([first, helper.make_node("Neg", ["t"], ["y"])], [tensor("x", shape, elem)], [tensor("y", shape, elem)])
    m.opset_import[0].version = opset
    return m


def expected(t: Array, axis: int) -> dict[str, Array]:
    """From the whole map, in float64."""
    x = np.moveaxis(t.astype(np.float64), axis, -1)
    flat = x.reshape(-1, x.shape[-1])
    rows = x.mean(axis=tuple(range(1, x.ndim - 1))) if axis and x.ndim > 2 else flat
    return {
        "mean": flat.mean(0),
        "mean_abs": np.abs(flat).mean(0),
        "mean_sq": (flat**2).mean(0),
        "zeros": (flat == 0).mean(0),
        "max": flat.max(0),
        "min": flat.min(0),
        "pooled": rows if axis else flat.mean(0)[None],
        "gram": flat.T @ flat / len(flat),
    } | (whole_maps(np.moveaxis(x, -1, 1)) if t.ndim == 4 and axis == 1 else {})


def whole_maps(x: Array) -> dict[str, Array]:
    """[N, n, H, W], one map after another."""
    gone = [np.concatenate([a[:c], a[c + 1 :]]) for a in x.reshape(*x.shape[:2], -1) for c in range(x.shape[1])]
    norms = np.reshape([np.linalg.norm(a, "nuc") for a in gone], x.shape[:2])
    whole = [np.linalg.norm(a, "nuc") for a in x.reshape(*x.shape[:2], -1)]
    ranks = [[np.linalg.matrix_rank(m) for m in a] for a in x]
    return {"rank": np.mean(ranks, axis=0), "independence": (np.array(whole)[:, None] - norms).mean(0)}


@pytest.mark.parametrize("elem", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_statistics_are_those_of_the_whole_map(shape: tuple[Any, ...], relu: bool, opset: int, elem: int) -> None:
    m = network(shape, opset, elem, relu)
    x = np.random.default_rng(0).standard_normal((11, *shape[1:])).astype(helper.tensor_dtype_to_np_dtype(elem))
    x[:, :1] = np.maximum(x[:, :1], 0)
    batches = load_data({"x": x}, list_input_specs(m), batch_size=4)
    t = np.maximum(x, 0) if relu else x + x
    axes = range(1, len(shape))
    wants = [("t", axis, name) for axis in axes for name in expected(t, axis)]
    told: list[tuple[int, int]] = []
    got = gather(onnxprune.analyze(m), batches, wants, progress=lambda done, of: told.append((done, of)))
    for axis in axes:
        for name, value in expected(t, axis).items():
            np.testing.assert_allclose(got["t", axis, name], value, rtol=5e-6, atol=2e-6, err_msg=f"{name} of {axis}")
    assert (got.samples, got.source, told[-1][0]) == (11, batches.source, told[-1][1])


@pytest.mark.parametrize(
    ("attrs", "places"),
    [
        ({"pads": [1, 1, 1, 1]}, [(i, j) for i in range(-1, 5, 2) for j in range(-1, 6, 2)]),
        ({"strides": [4, 3]}, [(i, j) for i in (0,) for j in (0, 3)]),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, [(i, j) for i in range(-2, 4, 2) for j in range(-2, 5, 2)]),
    ],
    ids=["pads", "strides", "dilations"],
)
def test_patches_are_what_a_convolution_reads(attrs: dict[str, Any], places: list[tuple[int, int]]) -> None:
    """Input [N, 2, 6, 7]: a grid of every second place, so that there are at most 5 along an axis."""
    w = np.random.default_rng(1).standard_normal((4, 2, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attrs)
    m = model([node], [tensor("x", ("N", 2, 6, 7))], [tensor("y", ("N", 4, "h", "w"))], {"w": w})
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 7)).astype(np.float32)
    got = gather(
        onnxprune.analyze(m),
        load_data({"x": x}, list_input_specs(m), batch_size=2),
        [("y", 1, "patch_gram"), ("y", 1, "patch_mean")],
    )
    step, wide = attrs.get("dilations", [1, 1])[0], np.pad(x, [(0, 0), (0, 0), (4, 4), (4, 4)])
    rows = [wide[:, :, i + 4 : i + 5 + 2 * step : step, j + 4 : j + 5 + 2 * step : step] for i, j in places]
    flat = np.stack(rows).reshape(-1, 18).astype(np.float64)  # places and samples, (channels, kernel)
    np.testing.assert_allclose(got["y", 1, "patch_gram"], flat.T @ flat / len(flat), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["y", 1, "patch_mean"], flat.mean(0), rtol=1e-4, atol=1e-5)


def test_the_first_axis_can_be_the_channels() -> None:
    m = network((6, "N"), 17, TensorProto.FLOAT, False)
    x = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    a = onnxprune.analyze(m)
    got = gather(a, load_data({"x": x}, list_input_specs(m)), [("t", 0, name) for name in ("mean", "max")])
    np.testing.assert_allclose(got["t", 0, "mean"], (x + x).mean(1), rtol=1e-5)
    np.testing.assert_allclose(got["t", 0, "max"], (x + x).max(1), rtol=1e-6)


def test_passes_hold_what_fits_and_change_nothing() -> None:
    m = network(SHAPES["blocked"], 17, TensorProto.FLOAT, False)
    x = np.random.default_rng(0).standard_normal((4, 5, 6, 7)).astype(np.float32)
    a, batches = onnxprune.analyze(m), load_data({"x": x}, list_input_specs(m))
    wants = [(name, 1, "mean") for name in ("x", "t", "y")]
    whole = gather(a, batches, wants)
    told: list[tuple[int, int]] = []
    room = Memory(2 * 2 * (x.nbytes + 8 * 5))  # for two of them
    cut = gather(a, batches, wants, progress=lambda done, of: told.append((done, of)), memory=room)
    assert told == [(4, 8), (8, 8)] and whole.samples == cut.samples == 4
    assert all(np.array_equal(whole[w], cut[w]) for w in wants)


def test_nothing_is_added_to_the_model_itself() -> None:
    m = network(SHAPES["flat"], 17, TensorProto.FLOAT, True)
    before = m.SerializeToString()
    a = onnxprune.analyze(m)
    gather(a, load_data({"x": np.ones((2, 5), np.float32)}, list_input_specs(m)), [("t", 1, "mean")])
    assert m.SerializeToString() == before and [o.name for o in a.model.proto.graph.output] == ["y"]


def test_large_models_run_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    m = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor("x", ["N", 300])], [tensor("y", ["N", 4])], {"w": w}
    )
    x = np.random.default_rng(1).standard_normal((3, 300)).astype(np.float32)
    a, batches = onnxprune.analyze(m), load_data({"x": x}, list_input_specs(m))
    monkeypatch.setattr("onnxprune.graph.lent.LENT_BYTES", 0)
    got = gather(a, batches, [("y", 1, "pooled")])
    np.testing.assert_array_equal(got["y", 1, "pooled"], run(open_session(m, "original"), {"x": x})["y"])


def test_what_cannot_be_gathered_is_named() -> None:
    nodes = [helper.make_node("ArgMax", ["x"], ["i"], axis=0), helper.make_node("Neg", ["x"], ["y"])]
    m = model(nodes, [tensor("x", ["N", 4])], [tensor("i", [1, 4], TensorProto.INT64), tensor("y", ["N", 4])])
    batches = load_data({"x": np.ones((2, 4), np.float32)}, list_input_specs(m))
    with pytest.raises(OnnxPruneError, match="activation 'i' is no tensor of floats"):
        gather(onnxprune.analyze(m), batches, [("i", 1, "mean")])


def test_all_statistics_are_tested() -> None:
    assert set(expected(np.ones((2, 3, 4, 4), np.float32), 1)) | {"patch_gram", "patch_mean"} == set(STATISTICS)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (1, 9), (9, 1), (8, 8)])
def test_the_nuclear_norm_falls_as_it_does_without_the_row(shape: tuple[int, int]) -> None:
    a = np.random.default_rng(0).standard_normal(shape)
    a[-1] = a[0] * 2.0 if len(a) > 2 else 0.0  # spanned by another; or nothing at all
    whole = np.linalg.norm(a, "nuc")
    expected = [whole - (np.linalg.norm(np.delete(a, c, 0), "nuc") if len(a) > 1 else 0.0) for c in range(len(a))]
    np.testing.assert_allclose(nuclear_fall(a), expected, atol=1e-6 * whole)


def test_few_samples_are_enough_for_whole_maps() -> None:
    m = network(SHAPES["blocked"], 17, TensorProto.FLOAT, True)
    x = np.random.default_rng(0).standard_normal((200, 5, 6, 7)).astype(np.float32)
    batches = load_data({"x": x}, list_input_specs(m))
    got = gather(onnxprune.analyze(m), batches, [("t", 1, "rank"), ("t", 1, "mean")])
    some = np.maximum(x[np.arange(64) * 200 // 64], 0)
    np.testing.assert_allclose(got["t", 1, "rank"], whole_maps(some)["rank"])
    assert got.samples == 200


def test_a_stale_type_of_an_output_changes_nothing(tmp_path: Path) -> None:
    """Converters to half precision with float32 inputs and outputs leave the old type of an output in value_info."""
    rng = np.random.default_rng(0)
    half = {n: rng.standard_normal(s).astype(np.float16) for n, s in (("w1", (8, 16)), ("w2", (16, 4)))}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    clean = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 4])], half)
    stale = onnx.ModelProto.FromString(clean.SerializeToString())
    stale.graph.value_info.append(tensor("y", ["N", 4], TensorProto.FLOAT16))
    data = {"x": rng.standard_normal((16, 8)).astype(np.float32)}
    for name, proto in (("clean", clean), ("stale", stale)):
        made = onnxprune.prune(proto, tmp_path / f"{name}.onnx", macs=0.5, calib=data, data=data)
        assert made.report.reconstruction.layers
    a, b = (onnx.load(tmp_path / f"{name}.onnx").graph for name in ("clean", "stale"))
    assert a.initializer == b.initializer
    assert a.initializer[0].dims == [8, 8]


def test_a_value_of_a_padding_is_no_constant(tmp_path: Path) -> None:
    """`value` is what a Pad before opset 11 fills in, and what a ConstantOfShape repeats."""
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=-1.0),
        helper.make_node("Conv", ["p", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": np.ones((8, 3, 3, 3)), "w2": np.ones((2, 8, 1, 1))}
    inits = [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", [tensor("x", ["N", 3, 4, 4])], [tensor("y", ["N", 2, 4, 4])], inits)
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((4, 3, 4, 4)).astype(np.float32))
    onnxprune.prune(m, tmp_path / "o.onnx", onnxprune.Options(macs=0.6), calib=tmp_path / "x.npz")
    assert onnx.load(tmp_path / "o.onnx").graph.initializer[0].dims[0] < 8


def test_bounds_that_a_plan_put_beside_the_message_are_read() -> None:
    """A scalar that was replaced is no longer in the message, but among the weights: the bounds of a Clip, say."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Clip", ["h", "low", "high"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    values = {"w1": np.ones((6, 8)), "w2": np.ones((8, 3)), "low": np.zeros(()), "high": np.ones(())}
    inits = [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()]
    graph = helper.make_graph(nodes, "g", [tensor("x", ["N", 6])], [tensor("y", ["N", 3])], inits)
    m = onnxprune.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    editor = Editor(m)
    editor.replace_constant("low", ArrayWeight(np.zeros((), np.float32)))
    assert Net(editor.finish()).never_negative == {"r"}
