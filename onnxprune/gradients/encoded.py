"""Weights that a file stores as integers: trained as the numbers that they stand for, and rounded in each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from onnxprune.gradients.ops.quant import round_through
from onnxprune.gradients.types import RANGES
from onnxprune.graph.integers import IntegerEncoding
from onnxprune.graph.weights import Array, Weight

LARGEST = 2**31 - 128  # of 32 bits, that is a float32


@dataclass(frozen=True)
class Code:
    """Scale and zero point as they broadcast against a weight, and the range of its integers: it stands for (q - zero) scale."""

    scale: torch.Tensor
    zero: torch.Tensor
    low: int
    high: int

    @staticmethod
    def of(meaning: IntegerEncoding, name: str, weights: Mapping[str, Weight]) -> Code:
        weight = weights[name]
        shape = weight.shape
        meaning = replace(meaning, axis=meaning.axis % max(len(shape), 1))
        scale = weights[meaning.scale].array()
        zero = meaning.points(weights[meaning.zero].array() if meaning.zero else None, scale, len(shape))
        low, high = RANGES[weight.data_type]
        high = min(high, LARGEST)
        s, z = (torch.from_numpy(meaning.fit(p, shape).copy()) for p in (scale, zero))
        return Code(s, z, low, high)

    def decode(self, stored: Array) -> torch.Tensor:
        """The numbers."""
        return (torch.from_numpy(stored.astype("float64")) - self.zero.cpu()).mul(self.scale.cpu()).to(torch.float32)

    def decode_like(self, stored: Array, parameter: torch.Tensor) -> torch.Tensor:
        """The numbers as a parameter has them before it is trained."""
        return self.decode(stored).to(parameter)

    def encode(self, numbers: torch.Tensor) -> torch.Tensor:
        """The integers of the nearest numbers that there are, as floats; rounding is straight through."""
        return torch.clamp(round_through(numbers / self.scale + self.zero), self.low, self.high)

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Code:
        """On another device, or of another type of floats."""
        return replace(self, scale=change(self.scale), zero=change(self.zero))
