"""com.microsoft operators that ONNX Runtime has for GPUs only, for onnx's reference evaluator.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv

Array = NDArray[Any]


class GroupNorm(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, x: Array, gamma: Array, beta: Array, groups: int = 1, channels_last: int = 1, **_: Any
    ) -> tuple[Array]:
        x = x.transpose(0, 3, 1, 2) if channels_last else x
        y = x.reshape(x.shape[0], groups, -1)
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        y = y.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]
        return ((y.transpose(0, 2, 3, 1) if channels_last else y).astype(x.dtype),)


class SimplifiedLayerNormalization(OpRun):
    """RMSNorm under its name in com.microsoft, which some exporters write."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, scale: Array, **_: Any) -> tuple[Array]:
        return ((x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale).astype(x.dtype),)


class NhwcConv(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, w: Array, b: Array | None = None, z: Array | None = None, **attrs: Any) -> tuple[Array]:
        attrs.pop("activation", None)
        conv = {"auto_pad": None, "dilations": None, "group": 1, "kernel_shape": None, "pads": None, "strides": None}
        y = Conv.eval(x.transpose(0, 3, 1, 2), w, b, **{k: attrs.get(k, v) for k, v in conv.items()})
        y = y.transpose(0, 2, 3, 1)
        return (y if z is None else y + z,)


class NhwcFusedConv(NhwcConv):
    pass


CONTRIB = [GroupNorm, SimplifiedLayerNormalization, NhwcConv, NhwcFusedConv]
