"""Numbers that are stored as others: (q - zero) * scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnxprune.calibration.array_store import Array
from onnxprune.graph.integers import IntegerEncoding
from onnxprune.graph.weights import is_float
from onnxprune.ops.records import Encoding


@dataclass(frozen=True)
class StoredCode:
    """Scale and zero point, which broadcast against the tensor, and the type that it is stored in."""

    scale: Array
    zero: Array
    dtype: np.dtype[Any]

    @staticmethod
    def of(
        encoding: Encoding, constants: Mapping[int, Array], shape: Sequence[int], dtype: np.dtype[Any]
    ) -> StoredCode:
        """From the constants of a node, by slot, for a tensor of that shape."""
        meaning = IntegerEncoding("", "", encoding.axis % max(len(shape), 1), block=encoding.block)
        scale = meaning.fit(constants.get(encoding.scale, np.ones(())), tuple(shape))
        zero = meaning.fit(constants.get(encoding.zero, np.zeros(())), tuple(shape))
        return StoredCode(np.where(scale == 0, 1.0, scale), zero, dtype)

    def decode(self, stored: Array) -> Array:
        """The numbers, float32."""
        return ((stored.astype(np.float64) - self.zero) * self.scale).astype(np.float32)

    def encode(self, numbers: Array) -> Array:
        """Encode numbers as the nearest ones that can be stored."""
        info = (ml_dtypes.finfo if is_float(self.dtype) else ml_dtypes.iinfo)(self.dtype)
        wide = numbers.astype(np.float64) / self.scale + self.zero
        wide = wide if is_float(self.dtype) else np.rint(wide)
        return np.clip(wide, float(info.min), float(info.max)).astype(self.dtype)
