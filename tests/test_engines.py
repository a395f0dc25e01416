"""The forecast for sparse engines: multiplications are counted one by one, sizes number by number, by code of their own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from test_cli import call, fails
from test_schema import CALIB, CNN, TEST, assert_schema, printed
from tiny import model, tensor

import onnxprune
from onnxprune.calibration import Batches, list_input_specs, load_data
from onnxprune.calibration.array_store import Memory
from onnxprune.report.types import Counts
from onnxprune.sparsity.engines import count_compressed, count_products, measure_engines

Array = np.ndarray[Any, Any]
N = helper.make_node
RNG = np.random.default_rng(0)


def zeros(*shape: int, share: float = 0.5) -> Array:
    """Random numbers, a share of which is zero."""
    made: Array = (RNG.standard_normal(shape) * (RNG.random(shape) >= share)).astype(np.float32)
    return made


def batches(proto: onnx.ModelProto, **arrays: Array) -> Batches:
    return load_data(arrays, list_input_specs(proto))


def counted(proto: onnx.ModelProto, memory: int = 1 << 30, **arrays: Array) -> tuple[dict[str, int], dict[str, float]]:
    found = count_products(onnxprune.analyze(proto), batches(proto, **arrays), Memory(memory))
    return found.all, found.both


def convolve_by_hand(x: Array, w: Array, groups: int, stride: int, pad: int) -> tuple[int, int]:
    """All multiplications of a convolution, and those of two numbers other than zero."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    outputs, inputs, high, wide = w.shape
    every = both = 0
    rows, columns = ((n - k) // stride + 1 for n, k in ((x.shape[2], high), (x.shape[3], wide)))
    for n, o, i, r, c in itertools.product(range(len(x)), range(outputs), range(inputs), range(rows), range(columns)):
        channel = o // (outputs // groups) * inputs + i
        part = x[n, channel, r * stride : r * stride + high, c * stride : c * stride + wide]
        every += part.size
        both += int(np.count_nonzero(part * w[o, i]))
    return every, both


@pytest.mark.parametrize(("groups", "stride", "pad"), [(1, 1, 1), (2, 2, 0), (4, 1, 1)])
@pytest.mark.parametrize("op", ["Conv", "FusedConv"])
def test_the_multiplications_of_a_convolution_are_counted(op: str, groups: int, stride: int, pad: int) -> None:
    x, w = zeros(3, 4, 6, 7), zeros(8, 4 // groups, 3, 3, share=0.7)
    more = {"activation": "Relu", "domain": "com.microsoft"} if op == "FusedConv" else {}
    node = N(op, ["x", "w", "b"], ["y"], group=groups, strides=[stride] * 2, pads=[pad] * 4, **more)
    weights = {"w": w, "b": np.full(8, -5, np.float32)}
    proto = model([node], [tensor("x", ["N", 4, 6, 7])], [tensor("y", ["N", 8, None, None])], weights)
    if more:
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    every, both = convolve_by_hand(x, w, groups, stride, pad)
    assert counted(proto, x=x) == ({"y": every}, {"y": both})


def test_the_multiplications_of_matrices_are_counted() -> None:
    """Weights on either side, transposed, scaled, and two activations."""
    x, w, v = zeros(5, 3, 8), zeros(8, 6), zeros(4, 6, share=0.2)
    nodes = [
        N("MatMul", ["x", "w"], ["a"]),
        N("Relu", ["a"], ["b"]),
        N("Reshape", ["b", "flat"], ["c"]),
        N("Gemm", ["c", "v"], ["d"], alpha=0.5, transB=1),
        N("Einsum", ["b", "b"], ["e"], equation="nij,nkj->nik"),
    ]
    outputs = [tensor("d", [None, 4]), tensor("e", ["N", 3, 3])]
    proto = model(nodes, [tensor("x", ["N", 3, 8])], outputs, {"w": w, "v": v, "flat": np.array([-1, 6])})
    b = np.maximum(x @ w, 0)
    ones = [(z != 0).astype(np.float64) for z in (x, w, b, v)]
    expected = {
        "a": (5 * 3 * 8 * 6, np.sum(ones[0] @ ones[1])),
        "d": (15 * 6 * 4, np.sum(ones[2].reshape(15, 6) @ ones[3].T)),
        "e": (5 * 3 * 3 * 6, np.sum(ones[2] @ ones[2].transpose(0, 2, 1))),
    }
    every, both = counted(proto, x=x)
    assert every == {name: n for name, (n, _) in expected.items()}
    assert both == {name: n for name, (_, n) in expected.items()}
    assert counted(proto, memory=1, x=x) == (every, both), "in a pass for each product they are others"


def test_the_report_adds_up_what_was_counted(tmp_path: Path) -> None:
    x, w, v = zeros(7, 6), zeros(6, 8), zeros(8, 3)
    nodes = [N("MatMul", ["x", "w"], ["a"]), N("Relu", ["a"], ["b"]), N("MatMul", ["b", "v"], ["y"])]
    dense = model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 3])], {"w": w + 9, "v": v + 9})
    sparse = model(nodes, [tensor("x", ["N", 6])], [tensor("y", ["N", 3])], {"w": w, "v": v})
    found = measure_engines(
        onnxprune.analyze(dense), onnxprune.analyze(sparse), batches(dense, x=x), Counts(1000, 1000)
    )
    shares = []
    for first, second in ((w + 9, v + 9), (w, v)):
        hidden = np.maximum(x @ first, 0)
        both = [np.sum((a != 0).astype(float) @ (b != 0).astype(float)) for a, b in ((x, first), (hidden, second))]
        shares.append(sum(both) / (7 * (48 + 24)))
    assert (found.both_nonzero.before, found.both_nonzero.after) == tuple(map(pytest.approx, shares))
    assert (found.counted.before, found.samples, found.left_out) == (1.0, 7, {})
    assert [(layer.operator, layer.macs) for layer in found.layers] == [("MatMul", 48), ("MatMul", 24)]
    assert found.bytes.after == 1000 - 4 * (48 + 24) + count_compressed(w) + count_compressed(v)


def test_what_is_no_plain_product_is_left_out() -> None:
    rng = np.random.default_rng(0)
    weights = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in {"w": (1, 8, 3), "r": (1, 8, 2), "v": (2, 4)}.items()
    }
    nodes = [N("LSTM", ["x", "w", "r"], ["a", "", ""], "cell", hidden_size=2), N("MatMul", ["a", "v"], ["y"], "head")]
    proto = model(nodes, [tensor("x", ["T", 2, 3])], [tensor("y", ["T", 1, 2, 4])], weights)
    a = onnxprune.analyze(proto)
    found = measure_engines(a, a, batches(proto, x=zeros(5, 2, 3)), Counts(None, None))
    assert found.left_out == {"cell": "no plain product of floats"} and [x.name for x in found.layers] == ["head"]
    assert found.counted.after is not None and 0 < found.counted.after < 1 and found.bytes.after is None


def compress_by_hand(weights: Array) -> int:
    """Entry by entry, as EIE's example does it: a pair (value, zeros before it), at most 15 of them."""
    pairs, run = 0, 0
    for value in weights.ravel():
        if value == 0 and run < 15:
            run += 1
        else:
            pairs, run = pairs + 1, 0
    return pairs + 64


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_stored_numbers_are_counted_one_by_one(share: float) -> None:
    w = zeros(40, 50, share=share)
    w.ravel()[-1] = 1  # zeros at the end are not stored; by hand they might be
    assert count_compressed(w) == compress_by_hand(w)


def test_long_runs_of_zeros_take_a_zero_each() -> None:
    w = np.zeros(60, np.float32)
    w[[15, 32, 59]] = 1  # 15 zeros; 16: one more; 26: one more
    assert count_compressed(w) == 3 + 2 + 64


# where it is asked for


def test_the_forecast_is_printed_and_in_the_schema(tmp_path: Path) -> None:
    out, page = tmp_path / "o.onnx", tmp_path / "page.html"
    args = ("--calib", CALIB, "--samples", 16, "--sparse-engines", "--no-validate")
    data = printed("prune", CNN, "-o", out, "--ratio", 0.3, *args, "--json", "--html", page)
    assert_schema("prune", data)
    found = data["engines"]
    assert 0 < found["both_nonzero"]["after"] < 1 and found["bytes"]["after"] < data["bytes"]["after"] / 3
    assert "both operands non-zero" in page.read_text()
    assert "both non-zero" in call("prune", CNN, "-o", out, "--ratio", 0.3, *args).stdout
    compared = printed("validate", CNN, out, "--data", TEST, "--sparse-engines", "--json")
    assert_schema("validate", compared)
    assert (
        compared["engines"]["samples"] == 64
        and "sparse file" in call("validate", CNN, out, "--data", TEST, "--sparse-engines").stdout
    )
    assert json.loads(call("validate", CNN, out, "--data", TEST, "--json").stdout)["engines"] is None


def test_it_is_counted_on_data(tmp_path: Path) -> None:
    wrong = "sparse-engines counts multiplications on data"
    fails(call("prune", CNN, "-o", tmp_path / "o.onnx", "--ratio", 0.3, "--sparse-engines"), wrong)
    fails(call("validate", CNN, CNN, "--sparse-engines"), wrong)


def test_zeros_in_weights_count(tmp_path: Path) -> None:
    sparse = onnxprune.sparsify(CNN, pattern="unstructured", sparsity=0.8, layers="all", calib=CALIB, samples=16,
                                sparse_engines=True, check=False).report.engines  # fmt: skip
    assert sparse is not None and sparse.both_nonzero.before is not None and sparse.both_nonzero.after is not None
    assert sparse.both_nonzero.after < 0.4 * sparse.both_nonzero.before
    assert sparse.bytes.before is not None and sparse.bytes.after is not None
    assert sparse.bytes.after < 0.4 * sparse.bytes.before
