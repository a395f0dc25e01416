"""Models that something is wrong with, one of each kind: what a batch must survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny import linear, model, tensor


def truncated(path: Path) -> Path:
    """A file that was cut short."""
    data = linear(np.ones((64, 64))).SerializeToString()
    path.write_bytes(data[: len(data) // 2])
    return path


def hanging(path: Path) -> Path:
    """y = x @ w, added up 2^62 times by a Loop."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["s", "v"], ["t"])],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("c", [], TensorProto.BOOL), tensor("s", ["N", 8])],
        [tensor("d", [], TensorProto.BOOL), tensor("t", ["N", 8])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["v"]),
        helper.make_node("Loop", ["trips", "", "v"], ["y"], body=body),
    ]
    weights = {"w": np.ones((8, 8), np.float32), "trips": np.array(2**62)}
    onnx.save(model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 8])], weights), path)
    return path


def too_large(path: Path) -> Path:
    """A file of a few bytes whose activations take 4 GB: y = max of x @ w, stretched to 10^9 columns."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["v"]),
        helper.make_node("Tile", ["v", "times"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=0),
    ]
    weights = {"w": np.ones((8, 8), np.float32), "times": np.array([1, 10**9 // 8])}
    onnx.save(model(nodes, [tensor("x", [1, 8])], [tensor("y", [])], weights), path)
    return path


def without_weights(path: Path) -> Path:
    onnx.save(model([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", ["N", 4])], [tensor("y", ["N", 4])]), path)
    return path


def without_data(path: Path) -> Path:
    """A model whose weights are in a file that is not there."""
    made = linear(np.ones((64, 64)))
    onnx.save(made, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)
    path.with_name(f"{path.stem}.bin").unlink()
    return path


def external(path: Path, seed: int = 0) -> Path:
    """A good model of two layers, its weights in a file beside it."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "fc1"),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "fc2"),
    ]
    weights = {n: rng.normal(size=s).astype(np.float32) for n, s in {"w1": (8, 16), "w2": (16, 4)}.items()}
    made = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 4])], weights)
    onnx.save(made, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0)
    return path


def small(path: Path, seed: int = 0) -> Path:
    """A good model of two layers, in one file."""
    rng = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], "fc1"),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "fc2"),
    ]
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    made = model(nodes, [tensor("x", ["N", 8])], [tensor("y", ["N", 4])])
    made.graph.initializer.extend(stored)
    onnx.save(made, path)
    return path


BROKEN = {
    "truncated": (truncated, "failed", "cut short or damaged"),
    "hanging": (hanging, "timeout", "stopped after"),
    "large": (too_large, "memory", "needs more than"),
    "weightless": (without_weights, "failed", "no weights"),
    "dataless": (without_data, "failed", "dataless.bin"),
}
