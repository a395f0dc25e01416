"""Models of a node or two and files of data, for tests that need something to feed and to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration import InputSpec


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


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"
