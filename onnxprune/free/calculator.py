"""The outputs of a pointwise operator for constants, computed in ONNX Runtime with a model of one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from onnxprune.calibration.sessions import open_session, run
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.model import Model
from onnxprune.graph.weights import Array


class Calculator:
    """Runs single nodes; nodes that differ in names alone share a session."""

    def __init__(self, model: Model) -> None:
        self._proto = model.proto
        self._sessions: dict[tuple[Any, ...], Any] = {}

    def evaluate(self, node: NodeProto, inputs: Mapping[int, Array]) -> Array | None:
        """The first output for those inputs by slot; None where ONNX Runtime does not run it."""
        alone = NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute, output=["y"])
        alone.input.extend(f"x{i}" if i in inputs else "" for i in range(len(node.input)))
        types = tuple((i, x.dtype.name, x.ndim) for i, x in inputs.items())
        key = (alone.SerializeToString(deterministic=True), types)
        try:
            if key not in self._sessions:
                self._sessions[key] = open_session(self._model(alone, inputs), "calculation", 1)
            return np.asarray(run(self._sessions[key], {f"x{i}": x for i, x in inputs.items()})["y"])
        except OnnxPruneError:
            return None

    def _model(self, node: NodeProto, inputs: Mapping[int, Array]) -> Model:
        proto = onnx.ModelProto(ir_version=max(self._proto.ir_version, 4), opset_import=self._proto.opset_import)
        proto.functions.extend(self._proto.functions)
        proto.graph.name = "node"
        proto.graph.node.append(node)
        for i, x in inputs.items():
            kind = helper.np_dtype_to_tensor_dtype(x.dtype)
            proto.graph.input.append(helper.make_tensor_value_info(f"x{i}", kind, [None] * x.ndim))
        proto.graph.output.append(onnx.ValueInfoProto(name="y"))
        return Model(proto, {}, None, 0)
