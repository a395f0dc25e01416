"""OpenVINO on a CPU: oneDNN's blocked layouts, of 8 channels with AVX2 and of 16 with AVX-512; matrices as they come.

Not measured. Source: oneDNN's developer guide, "Understanding Memory Formats" (nChw8c, nChw16c: channels are padded to the block),
https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html
"""

from __future__ import annotations

from onnxprune.targets.base import CONVOLUTIONS, Target

OPENVINO = Target("openvino", lambda layer: 16 if layer.kind in CONVOLUTIONS else 1, "oneDNN's documents; not measured")
