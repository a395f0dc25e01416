"""The numbers that the integers of a quantized weight encode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class IntegerEncoding:
    """(q - zero) * scale, with one of each for the whole tensor, for a position of `axis`, or for a block along it."""

    scale: str  # the names of the constants; '' where there is none
    zero: str
    axis: int
    bits: int = 8  # fewer where several lie in a byte, the first one in the lowest bits
    default: int = 0  # the zero point where there is none
    block: int = 1  # positions of `axis` that share a parameter; the last block may be shorter

    def numbers(self, q: Array, scale: Array, zero: Array | None) -> Array:
        """The numbers, float32 [*q's axes], with an axis more for those that share a byte."""
        zero = self.points(zero, scale, q.shape[0])
        more = (..., None) if self.bits < 8 else ...
        wide = unpack(q, self.bits) if self.bits < 8 else q
        return (wide.astype(np.float32) - self.fit(zero, q.shape)[more]) * self.fit(scale, q.shape)[more]

    def points(self, zero: Array | None, scale: Array | None, rows: int) -> Array:
        """The zero points, one by one, of a tensor of so many rows; where there are none, what stands for zero."""
        if zero is None or not zero.size:
            return np.array(self.default)
        if zero.dtype == np.uint8 and self.bits < 8 and scale is not None:
            each = unpack(zero, self.bits).reshape(rows, -1)
            return each[:, : scale.size // rows].reshape(scale.shape)
        return zero

    def fit(self, p: Array, shape: tuple[int, ...]) -> Array:
        """The parameter for each position of a tensor of that shape."""
        p = p.astype(np.float32)
        if p.size == 1:
            return p.reshape((1,) * len(shape))
        if p.ndim < len(shape) and p.size == shape[self.axis]:
            return p.reshape([-1 if a == self.axis else 1 for a in range(len(shape))])
        if p.ndim < len(shape):
            p = p.reshape(*shape[: self.axis + 1], *[1] * (len(shape) - self.axis - 1))
        if p.shape[self.axis] == 1 or self.block <= 1:
            return p
        return np.repeat(p, self.block, self.axis).take(np.arange(shape[self.axis]), self.axis)


def unpack(q: Array, bits: int) -> Array:
    """Numbers that share a byte, on an axis of their own: [.., 8 / bits] uint8."""
    return (q[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)


def pack(entries: Array, bits: int) -> Array:
    """The bytes of numbers that share them: [.., 8 / bits] uint8 -> [..]."""
    return np.asarray(np.bitwise_or.reduce(entries << np.arange(0, 8, bits, dtype=np.uint8), axis=-1))
