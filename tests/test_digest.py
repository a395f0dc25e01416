"""The digest that names data files: what its docstring says, in Python's own integers, and no two contents alike."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from onnxprune.graph.digest import COLUMNS, LEAF_BYTES, ROWS, Digest

LENGTHS = [0, 5, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 9, 2 * LEAF_BYTES + 4096]


def digest(data: bytes, step: int = 1 << 30) -> str:
    made = Digest()
    for at in range(0, len(data), step):
        made.update(memoryview(data)[at : at + step])
    return made.hexdigest()


def odd_numbers() -> list[list[int]]:
    """Two for each row, of 64 bits, from SHA-256 of 0, 1, 2, .."""
    made = b"".join(hashlib.sha256(i.to_bytes(8, "little")).digest() for i in range(2 * ROWS * 8 // 32))
    words = [int.from_bytes(made[at : at + 8], "little") | 1 for at in range(0, len(made), 8)]
    return [words[:ROWS], words[ROWS:]]


def slow_digest(data: bytes) -> str:
    sums = hashlib.sha256()
    whole = len(data) - len(data) % LEAF_BYTES
    for leaf in range(0, whole, LEAF_BYTES):
        for shift, factors in zip((0, 32), odd_numbers(), strict=True):
            for column in range(COLUMNS):
                places = (leaf + 8 * (row * COLUMNS + column) for row in range(ROWS))
                words = [int.from_bytes(data[at : at + 8], "little") >> shift for at in places]
                total = sum(a * w for a, w in zip(factors, words, strict=True)) % 2**64
                sums.update(total.to_bytes(8, "little"))
    sums.update(data[whole:])
    sums.update(len(data).to_bytes(8, "little"))
    return sums.hexdigest()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_digest_is_what_it_says(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert digest(data) == slow_digest(data)


@pytest.mark.parametrize("step", [1, 1000, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 3 * LEAF_BYTES])
def test_how_bytes_come_does_not_matter(step: int) -> None:
    data = np.random.default_rng(0).bytes(LEAF_BYTES * 3 + 77) if step > 1 else b"some few bytes"
    assert digest(data, step) == digest(data)


def test_every_change_of_weights_changes_the_digest() -> None:
    """Single bits, signs turned in one column or in all, rows that change places, zeros at the end."""
    w = np.random.default_rng(1).standard_normal(LEAF_BYTES // 4).astype(np.float32)
    rows = w.reshape(ROWS, -1)
    found = {digest(w.tobytes())}
    contents = [
        w[:-1],
        np.append(w, np.float32(0)),
        np.zeros_like(w),
        np.zeros_like(w[:-1]),
        rows[::-1],
        rows[:, ::-1],
        -w,
    ]
    for bit in range(64):
        changed = w.copy()
        changed.view(np.uint64)[bit * 999] ^= np.uint64(1 << bit)
        contents.append(changed)
    for column in range(64):
        for some in ((3, 4), (0, 1, 2, 3), range(ROWS)):
            changed = rows.copy()
            changed[list(some), column] *= -1
            contents.append(changed)
    for content in contents:
        found.add(digest(np.ascontiguousarray(content).tobytes()))
    assert len(found) == len(contents) + 1
