"""TensorRT: tensor cores read channels in groups of 8 (half precision) and 16 (int8), sparse kernels in groups of 4 inputs.

Not measured. Source: NVIDIA's Deep Learning Performance guide, "Tensor Core Requirements" (dimensions in multiples of 8 for FP16
and of 16 for INT8), https://docs.nvidia.com/deeplearning/performance/dl-performance-matrix-multiplication
"""

from __future__ import annotations

from onnxprune.targets.base import CONVOLUTIONS, INTEGERS, MATRICES, Layer, Target

EVIDENCE = "NVIDIA's documents; not measured"


def _tensor_cores(layer: Layer) -> int:
    if layer.kind not in CONVOLUTIONS | MATRICES:
        return 1
    return 16 if layer.dtype in INTEGERS else 8


def _int8_cores(layer: Layer) -> int:
    return 16 if layer.kind in CONVOLUTIONS | MATRICES else 1


SPARSE = frozenset({"2:4"})
TENSORRT = Target("tensorrt", _tensor_cores, EVIDENCE, int8="tensorrt-int8", sparse=SPARSE)
TENSORRT_INT8 = Target("tensorrt-int8", _int8_cores, EVIDENCE, symmetric=True, sparse=SPARSE)
