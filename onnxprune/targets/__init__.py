"""Where the model is to run: one file a target says which channel counts are fast there.

Nothing depends on the machine that prunes.
"""

from __future__ import annotations

from onnxprune.targets.base import Layer, Target
from onnxprune.targets.cpu import CPU, CPU_AVX512, CPU_INT8
from onnxprune.targets.openvino import OPENVINO
from onnxprune.targets.tensorrt import TENSORRT, TENSORRT_INT8

NONE = Target("none", lambda layer: 1, "every count is as good as another")
TARGETS = {t.name: t for t in (CPU, CPU_AVX512, CPU_INT8, TENSORRT, TENSORRT_INT8, OPENVINO, NONE)}


def choose_target(name: str | None, sparse: bool = False, int8: bool = False) -> Target:
    """The target with the rules of `name`; unless one is named TensorRT for a model that will be sparse in N:M, else the CPU.

    `int8`: the model will be quantized.
    """
    chosen = TARGETS[name or (TENSORRT if sparse else CPU).name]
    return TARGETS[chosen.int8] if int8 and chosen.int8 else chosen


__all__ = ["TARGETS", "Layer", "Target", "choose_target"]
