"""ONNX Runtime's CPU provider.

Its float convolutions are fast in blocks of channels (NCHWc): of 8 with AVX2, of 16 with AVX-512. Where the channels of a
convolution are no multiple of the block, it and its neighbors take the plain path, with the tensor laid out anew in between;
depthwise ones too. Products of matrices care little. Multiples of 16 are fast on both, but coarse; so they are asked of axes of 32
channels and more, and of narrower ones multiples of 8. Multiples of 4 are not faster than the next block, but lose little, unlike
other counts. So where errors are measured, all axes may have them: coarse steps cost much accuracy there. ResNet-20 and -56,
calibrated, test images right and time after / time before (an AMD EPYC with AVX-512, one run each):

    MACs              calibrated on    any count     4            8
    ResNet-20, .5     2,000 images                   88.2  .70    87.0  .70
                      2,000 others                   87.4  .78    85.2  .74
    ResNet-56, .4     2,000 images     91.0  .68     91.4  .64    87.1  .64
    ResNet-56, .5     2,000 images                   92.2  .72    92.2  .70

Time after / time before at half of the multiply-accumulates without data (`prune --macs 0.5`, a Xeon with AVX-512, one thread, ONNX
Runtime 1.31, one run each, beside other work, before budgets were used up to the end): counts as they come, all multiples of 8,
all of 16, those of 16 from 64 channels on, and from 32 on, which `cpu` has; what it does now is in docs/results.md:

    model               none     8    16    64   cpu
    mobilenet_v2        1.48   .59   .55   .58   .55
    mobilenet_v1_050    1.48   .65   .60   .63   .61
    squeezenet           .83   .78   .55   .62   .60
    ultraface            .68   .66   .63   .68   .65
    style_mosaic         .72   .63   .72   .56   .55
    ResNet-20           1.06   .71   .76   .71   .71

int8 convolutions lie with channels last, and have kernels of their own (MlasConvSym): ordinary ones take inputs in multiples of
4 and outputs in multiples of 4 or 8, by instruction set; depthwise ones take multiples of 16, and all other counts go a path
that is up to 2.8 times slower than that of the next multiple of 16. That is where int8 models lost at multiples of 8.

GMAC/s of a 3x3, a depthwise 3x3 and a 1x1 convolution from as many channels to as many, on 14 x 14 (`tools/channel_times.py
--seconds 0.2 --rounds 2`, a Xeon with AVX-512 and VNNI, one thread, CPU time, least turns, ONNX Runtime 1.31):

    channels        3x3          depthwise         1x1
               float  int8     float  int8     float  int8
    8             19    16       6.2   2.9         4     4
    16            59    85      12.8   6.4        25    22
    20            37   106      10.9   3.9        22    29
    24            53   143      12.8   5.9        32    40
    28            72   180      14.8   4.6        43    52
    32            94   221      17.3  10.9        56    67
    40            75   248      16.5   7.4        54    86
    48           109   316      19.7  14.0        78   118
    56            87   311      18.7   8.4        69   134
    62                 336             6.0              80
    63                 334             5.6              80
    64           115   364      21.5  16.3        90   165

Float falls back behind each multiple of 16 there (and gains nothing up to the next one), int8 only where 4 does not divide, and
in depthwise convolutions where 16 does not.

The tables below are of an earlier `cpu`, with multiples of 8 in all float and ordinary int8 convolutions, whatever their width.

Quantized models, time after / time before at half of the multiply-accumulates without data (the same machine, `prune --macs 0.5`,
the clock of `validation/latency.py`), as they come, at multiples of 8, and with that `cpu`:

    model                      none     8   cpu
    mobilenet_v2_100_224        .77   .65   .64
    mobilenet_v1_025_128       1.29   .83   .78
    mlc_vww (v1_025, 96 x 96)  1.80  1.03   .91
    mlc_resnet_large            .61   .63   .62

Float models that became int8 (`--then-quantize int8`), time / time of the original in float, at half of the multiply-accumulates
without data: the original in int8, then pruned + int8 with counts as they come, at multiples of 8, of 16, and with that `cpu-int8`:

    model               whole   none     8    16   cpu-int8
    mobilenet_v2          .56    .90   .46   .39   .41
    mobilenet_v1_050      .63    .92   .62   .51   .51
    ultraface             .70    .88   .63   .54   .57
    squeezenet            .53    .49   .37   .36   .37
    ResNet-20             .53    .66   .48         .49
    ResNet-56             .47    .59   .42         .42
    mlc_resnet            .69    .93   .67         .67

Ordinary convolutions to fewer than 16 channels miss their kernel too, but whole sixteens are not asked of narrow ones: of the
residual networks, whose first layers have 16, little could be pruned then, and what was pruned instead cost 4 points of ResNet-20's
accuracy.

Without VNNI they add two products of uint8 and int8 in 16 bits, which overflow; products with weights of 7 bits do not
(`reduce_range` of the quantizer), and the kernels are the same. Test images right, or the original's class, on a processor that has
no more than AVX2:

    bits of the weights                             8      7
    ResNet-20, 1,000 images, 91.5 % in float      90.6   91.8   (91.6 with 8 bits and VNNI)
    MobileNetV2, 60 images, the original's class    85     90

What keeps the small quantized ones from more: of 294 microseconds of mlc_vww 88 are the first convolution, whose output is float,
and a depthwise one of 8 channels, and some 50 nodes take 2 each whatever they do.
"""

from __future__ import annotations

from dataclasses import replace

from onnxprune.targets.base import CONVOLUTIONS, INTEGERS, Layer, Target

MEASURED = "measured, see onnxprune/targets/cpu.py"


FINEST = 4  # steps of channels that cost little time
WIDE = 32  # channels, of which a step of 16 is no more than half
SAFE_BITS = 7  # of weights, whose products with uint8 can be added in pairs in 16 bits


def _any_cpu(layer: Layer) -> int:
    if layer.kind not in CONVOLUTIONS:
        return 1
    if layer.measured and layer.dtype not in INTEGERS:
        return FINEST
    return 16 if layer.channels >= WIDE or (layer.depthwise and layer.dtype in INTEGERS) else 8


CPU = Target("cpu", _any_cpu, MEASURED, int8="cpu-int8", weight_bits=SAFE_BITS, slow_subnormals=True)
CPU_AVX512 = replace(CPU, name="cpu-avx512", multiple=lambda layer: 16 if layer.kind in CONVOLUTIONS else 1, int8="")
CPU_INT8 = replace(CPU, name="cpu-int8", multiple=lambda layer: _any_cpu(replace(layer, dtype="int8")), int8="")
