"""ONNX Runtime's CPU provider.

Its convolutions are fast in blocks of channels (NCHWc): of 8 with AVX2, of 16 with AVX-512. Where the channels of a convolution
are no multiple of the block, it and its neighbors take the plain path, with the tensor laid out anew in between; depthwise ones
too. Products of matrices care little.

Time after / time before, one thread, interleaved, at half of the multiply-accumulates without data (ONNX Runtime 1.31):

    model               as they come    multiples of 8
    mobilenet_v2        1.58            .55
    mobilenet_v1_050    1.20            .52
    ResNet-20            .94            .57
    squeezenet           .68            .53
    resnet50             .65            .50
    YOLO11n              .99            .68
    deit_tiny            .58            .55      (matrices)

Multiples of 16 and 32 gain nothing more there but for resnet50 (.47 at 32), so `cpu` asks for 8.
"""

from __future__ import annotations

from onnxprune.targets.base import CONVOLUTIONS, Target

EVIDENCE = "measured on whole models, see onnxprune/targets/cpu.py"


def _blocks_of(block: int) -> Target:
    return Target(
        "cpu" if block == 8 else "cpu-avx512",
        lambda kind, dtype: block if kind in CONVOLUTIONS else 1,
        EVIDENCE if block == 8 else "the block of ONNX Runtime's MLAS with AVX-512; not measured",
    )


CPU = _blocks_of(8)
CPU_AVX512 = _blocks_of(16)
