"""Sample sizes of dynamic axes: every layer survives them, and no count is made where none does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from laws import run_ort
from onnx.helper import make_node
from test_cli import call
from tiny import model, saved, tensor

import onnxprune
from onnxprune.axes import first
from onnxprune.calibration import load_data
from onnxprune.calibration.inputs import list_input_specs
from onnxprune.errors import OnnxPruneError

KERNELS = (
    (10, 5),
    (3, 2),
    (3, 2),
    (3, 2),
    (3, 2),
    (2, 2),
    (2, 2),
)  # of wav2vec 2.0, with their strides: 400 samples at least


def rng(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.2


def speech(heads: int = 2, width: int = 8, table: int | None = None) -> onnx.ModelProto:
    """A stack of convolutions over sound, one layer of attention, and a product; with a `table` of positions, text beside it."""
    nodes, weights, x = [], dict[str, np.ndarray](), "wav"
    for i, (kernel, stride) in enumerate(KERNELS):
        weights[f"c{i}"] = rng(width, 1 if i == 0 else width, kernel)
        nodes += [
            make_node("Conv", [x, f"c{i}"], [f"h{i}"], strides=[stride], name=f"conv{i}"),
            make_node("Relu", [f"h{i}"], [f"r{i}"]),
        ]
        x = f"r{i}"
    nodes.append(make_node("Transpose", [x], ["f"], perm=[0, 2, 1]))
    split = np.array([0, 0, heads, width // heads], np.int64)
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        weights |= {name: rng(width, width)}
        nodes += [
            make_node("MatMul", ["f", name], [f"{name}1"]),
            make_node("Reshape", [f"{name}1", "split"], [f"{name}2"]),
            make_node("Transpose", [f"{name}2"], [f"{name}3"], perm=perm),
        ]
    nodes += [
        make_node("MatMul", ["q3", "k3"], ["s"]),
        make_node("Softmax", ["s"], ["p"], axis=-1),
        make_node("MatMul", ["p", "v3"], ["a"]),
        make_node("Transpose", ["a"], ["a1"], perm=[0, 2, 1, 3]),
        make_node("Reshape", ["a1", "join"], ["a2"]),
        make_node("MatMul", ["a2", "o"], ["y"]),
    ]
    weights |= {"o": rng(width, 5), "split": split, "join": np.array([0, 0, width], np.int64)}
    inputs, outputs = [tensor("wav", ["batch", 1, "samples"])], [tensor("y", ["batch", "frames", 5])]
    if table:
        weights |= {
            "embed": rng(30, 4),
            "table": rng(1, table, 4),
            "zero": np.array([0]),
            "one": np.array([1]),
            "t": rng(4, 3),
        }
        nodes += [
            make_node("Gather", ["embed", "ids"], ["e"]),
            make_node("Shape", ["ids"], ["length"], start=1, end=2),
            make_node("Slice", ["table", "zero", "length", "one"], ["rows"]),
            make_node("Add", ["e", "rows"], ["t0"]),
            make_node("MatMul", ["t0", "t"], ["z"]),
        ]
        inputs.append(tensor("ids", ["batch", "tokens"], onnx.TensorProto.INT64))
        outputs.append(tensor("z", ["batch", "tokens", 3]))
    return model(nodes, inputs, outputs, weights)


def naive_macs(samples: int, width: int = 8) -> int:
    """Of `speech`, from its formula."""
    total, length, inputs = 0, samples, 1
    for kernel, stride in KERNELS:
        length = (length - kernel) // stride + 1
        total += length * width * inputs * kernel
        inputs = width
    return total + 3 * length * width * width + 2 * length * length * width + length * width * 5


def test_sizes_grow_until_every_layer_survives_them() -> None:
    analysis = onnxprune.analyze(speech())
    samples = analysis.coupling.trace.sizes["samples"][0]
    assert samples >= 400
    assert analysis.macs() == naive_macs(samples)
    (values,) = run_ort(speech(), [{"wav": np.zeros((1, 1, samples), np.float32)}])
    assert analysis.coupling.trace.shape("y") is not None
    assert [first(n) for n in analysis.coupling.trace.shape("y") or ()] == list(values[0].shape)


def test_sizes_that_fit_stay_what_they_are() -> None:
    proto = model(
        [make_node("Conv", ["x", "w"], ["y"])],
        [tensor("x", ["N", 1, "t"])],
        [tensor("y", ["N", 4, "u"])],
        {"w": rng(4, 1, 64)},
    )
    assert onnxprune.analyze(proto).coupling.trace.sizes["t"] == (80, 128)
    assert onnxprune.analyze(proto).macs() == 17 * 4 * 64


def test_a_kernel_longer_than_the_sample_is_seen_behind_a_long_stride() -> None:
    """(80 - 100) / 32 is 0 in integers, so shape inference says that one position comes out."""
    proto = model(
        [make_node("Conv", ["x", "w"], ["y"], strides=[32])],
        [tensor("x", ["N", 1, "t"])],
        [tensor("y", ["N", 4, "u"])],
        {"w": rng(4, 1, 100)},
    )
    analysis = onnxprune.analyze(proto)
    samples = analysis.coupling.trace.sizes["t"][0]
    assert samples >= 100
    assert analysis.macs() == ((samples - 100) // 32 + 1) * 4 * 100


def test_only_the_axes_that_have_to_grow_do() -> None:
    analysis = onnxprune.analyze(speech(table=200))
    sizes = analysis.coupling.trace.sizes
    assert sizes["samples"][0] >= 400
    assert sizes["tokens"][1] <= 200
    assert not analysis.coupling.trace.clashes


def test_the_sizes_of_data_are_taken(tmp_path: Path) -> None:
    onnx.save(speech(), tmp_path / "m.onnx")
    calib = saved(tmp_path, wav=rng(4, 1, 3000))
    made = onnxprune.prune(
        tmp_path / "m.onnx", tmp_path / "o.onnx", macs=0.6, calib=calib, allocation="uniform", repair="none"
    )
    macs = made.report.macs
    assert macs.before == naive_macs(3000)
    assert 0 < macs.after <= 0.6 * macs.before
    batches = load_data(lambda: iter([{"wav": rng(2, 1, 900)}]), list_input_specs(speech()))
    assert batches.measure_sizes() == {"batch": 2, "samples": 900}


@pytest.mark.parametrize("options", [{"macs": 0.6}, {"ratio": 0.5}])
def test_speech_is_pruned(tmp_path: Path, options: dict[str, float]) -> None:
    onnx.save(speech(), tmp_path / "m.onnx")
    made = onnxprune.prune(tmp_path / "m.onnx", tmp_path / "o.onnx", **options)
    macs = made.report.macs
    assert 0 < macs.after <= 0.6 * macs.before
    run_ort(onnx.load(tmp_path / "o.onnx"), [{"wav": rng(1, 1, 1234)}, {"wav": rng(2, 1, 400)}])


def test_no_count_is_made_where_no_size_fits(tmp_path: Path) -> None:
    """A million taps: more than any size that is tried."""
    proto = model(
        [make_node("Conv", ["x", "w"], ["h"], dilations=[1 << 20]), make_node("GlobalAveragePool", ["h"], ["y"])],
        [tensor("x", ["N", 1, "t"])],
        [tensor("y", ["N", 4, 1])],
        {"w": rng(4, 1, 2)},
    )
    analysis = onnxprune.analyze(proto)
    assert analysis.macs() is None
    with pytest.raises(OnnxPruneError, match="an axis is empty at every size that was tried"):
        onnxprune.plan(analysis, macs=0.5)
    onnx.save(proto, tmp_path / "m.onnx")
    assert json.loads(call("inspect", tmp_path / "m.onnx", "--json").stdout)["macs"] is None
    assert "MACs        unknown, an axis is empty" in call("inspect", tmp_path / "m.onnx").stdout


def test_inspect_says_at_which_sizes_it_counts(tmp_path: Path) -> None:
    onnx.save(speech(), tmp_path / "m.onnx")
    report = json.loads(call("inspect", tmp_path / "m.onnx", "--json").stdout)
    samples = report["sizes"]["samples"]
    assert report["macs"] == naive_macs(samples)
    assert f"(one sample, samples = {samples})" in call("inspect", tmp_path / "m.onnx").stdout
