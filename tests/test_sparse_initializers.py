"""Weights that a file stores sparse are pruned, counted, and stored sparse again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import check, run_ort
from numpy.typing import NDArray
from onnx import SparseTensorProto, helper, numpy_helper
from tiny import model, tensor

import onnxprune
from onnxprune.errors import OnnxPruneError

Array = NDArray[Any]
RNG = np.random.default_rng(0)


def mostly_zero(*shape: int) -> Array:
    w = RNG.standard_normal(shape).astype(np.float32)
    w[RNG.random(shape) > 0.25] = 0  # of 32 numbers, so that no column is a multiple of another
    return w


def stored(name: str, w: Array, coordinates: bool) -> SparseTensorProto:
    at = np.argwhere(w) if coordinates else np.flatnonzero(w)
    values = numpy_helper.from_array(w[w != 0], name)
    return SparseTensorProto(values=values, indices=numpy_helper.from_array(at.astype(np.int64)), dims=w.shape)


def network(coordinates: bool, constant: bool = False) -> tuple[onnx.ModelProto, Array, Array]:
    """y = relu(x w1) w2, w1 sparse."""
    w1, w2 = mostly_zero(32, 48), RNG.standard_normal((48, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w1"], sparse_value=stored("", w1, coordinates)))
    proto = model(nodes, [tensor("x", ["N", 32])], [tensor("y", ["N", 4])], {"w2": w2})
    if not constant:
        proto.graph.sparse_initializer.append(stored("w1", w1, coordinates))
    return proto, w1, w2


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("coordinates", [False, True])
def test_the_laws(coordinates: bool, constant: bool) -> None:
    proto, _, _ = network(coordinates, constant)
    feeds = [{"x": RNG.standard_normal((n, 32)).astype(np.float32)} for n in (1, 3)]
    checker = check(proto, feeds)
    assert [g.size for g in checker.groups] == [48]


@pytest.mark.parametrize("coordinates", [False, True])
def test_a_pruned_file_is_the_product_of_what_stays(coordinates: bool, tmp_path: Path) -> None:
    proto, w1, w2 = network(coordinates)
    analysis = onnxprune.analyze(onnxprune.load(proto))
    assert analysis.params() == w1.size + w2.size
    assert analysis.macs() == w1.size + w2.size
    onnx.save(proto, tmp_path / "in.onnx")
    made = onnxprune.prune(tmp_path / "in.onnx", tmp_path / "out.onnx", ratio=0.5)
    (choice,) = made.plan.groups.values()
    keep = list(choice.keep)
    assert not choice.free, "no neuron is a multiple of another"
    small = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    ((got,),) = run_ort(small, [{"x": x}])
    np.testing.assert_allclose(got, np.maximum(x @ w1[:, keep], 0) @ w2[keep], rtol=1e-4, atol=1e-5)
    (again,) = small.graph.sparse_initializer
    assert list(again.dims) == [32, 24]
    assert len(numpy_helper.to_array(again.values)) == np.count_nonzero(w1[:, keep])


def test_a_weight_that_is_no_longer_sparse_is_stored_whole(tmp_path: Path) -> None:
    proto, _, _ = network(False)
    loaded = onnxprune.load(proto)
    loaded.weights["w1"] = loaded.weights["w2"]
    onnxprune.save(loaded, tmp_path / "dense.onnx")
    saved = onnx.load(tmp_path / "dense.onnx", load_external_data=False)
    assert not saved.graph.sparse_initializer
    assert {t.name for t in saved.graph.initializer} == {"w1", "w2"}


def test_a_budget_of_bytes_is_refused() -> None:
    with pytest.raises(OnnxPruneError, match="'w1' is stored sparse"):
        onnxprune.plan(network(False)[0], bytes=0.5)
