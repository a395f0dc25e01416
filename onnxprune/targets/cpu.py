"""ONNX Runtime's CPU provider.

Its convolutions are fast in blocks of channels (NCHWc): of 8 with AVX2, of 16 with AVX-512. Where the channels of a convolution
are no multiple of the block, it and its neighbors take the plain path, with the tensor laid out anew in between; depthwise ones
too. Products of matrices care little.

Time after / time before, one thread, interleaved, lower decile of the runs, beside other work, at half of the
multiply-accumulates without data (`prune --macs 0.5 --target none` and `cpu`):

    model               none    cpu
    mobilenet_v2        1.29    .51
    mobilenet_v1_050    1.07    .32
    ResNet-20            .90    .63
    squeezenet           .73    .57
    style_mosaic         .68    .58
"""

from __future__ import annotations

from onnxprune.targets.base import CONVOLUTIONS, Target

CPU = Target(
    "cpu",
    lambda kind, dtype: 8 if kind in CONVOLUTIONS else 1,
    "measured on whole models, see onnxprune/targets/cpu.py",
)
CPU_AVX512 = Target(
    "cpu-avx512",
    lambda kind, dtype: 16 if kind in CONVOLUTIONS else 1,
    "the block of ONNX Runtime's MLAS with AVX-512; not measured",
)
