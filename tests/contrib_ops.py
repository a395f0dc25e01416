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


class BiasAdd(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array, skip: Array, **_: Any) -> tuple[Array]:
        return (x + bias + skip,)


class BiasSplitGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array, **_: Any) -> tuple[Array]:
        value, gate = np.split(x + bias, 2, axis=-1)
        return ((value * gate / (1 + np.exp(-1.702 * gate))).astype(x.dtype),)


class SkipGroupNorm(GroupNorm):
    def _run(self, x: Array, gamma: Array, beta: Array, skip: Array, bias: Array, **more: Any) -> tuple[Array, Array]:  # type: ignore[override]
        total = x + (skip[:, None, None] if skip.ndim == 2 else skip) + bias
        return (*super()._run(total, gamma, beta, **more), total)


class MultiHeadAttention(OpRun):
    """The packed forms: q [N, T, h, 3, e], or q [N, T, (h e)] and k [N, T, h, 2, e]."""

    op_domain = "com.microsoft"

    def _run(
        self, q: Array, k: Array | None = None, v: Array | None = None, bias: Array | None = None, num_heads: int = 1,
        scale: float = 0.0, **_: Any,
    ) -> tuple[Array]:  # fmt: skip
        n, t = q.shape[:2]
        parts = [q.reshape(n, t, num_heads, -1), *np.moveaxis(k, 3, 0)] if k is not None else np.moveaxis(q, 3, 0)
        if bias is not None:
            parts = [p + b.reshape(num_heads, -1) for p, b in zip(parts, np.split(bias, 3), strict=True)]
        q, k, v = (np.asarray(p).transpose(0, 2, 1, 3) for p in parts)
        s = q @ k.swapaxes(2, 3) * (scale or q.shape[-1] ** -0.5)
        p = np.exp(s - s.max(-1, keepdims=True))
        y = (p / p.sum(-1, keepdims=True)) @ v
        return (y.transpose(0, 2, 1, 3).reshape(n, t, -1).astype(q.dtype),)


class Quant(OpRun):
    """QONNX's fake quantization, which has a runtime of its own."""

    op_domain = "qonnx.custom_op.general"

    def _run(
        self, x: Array, scale: Array, zero: Array, bits: Array, signed: int = 1, narrow: int = 0, **_: Any
    ) -> tuple[Array]:
        low, high = (-(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1 - narrow)
        return (((np.clip(np.rint(x / scale + zero), low, high) - zero) * scale).astype(x.dtype),)


class BrevitasQuant(Quant):
    op_domain = "onnx.brevitas"


BrevitasQuant.__name__ = "Quant"  # what onnx's evaluator looks operators up by

CONTRIB = [
    GroupNorm, SimplifiedLayerNormalization, NhwcConv, NhwcFusedConv, BiasAdd, BiasSplitGelu, SkipGroupNorm,
    MultiHeadAttention, Quant, BrevitasQuant,
]  # fmt: skip
