"""The tool that flips bits: what it finds where, and a few flips."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from broken import small
from runs import MODELS

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from flip import GOOD, flip, guarded


def test_one_bit_changes() -> None:
    data = (MODELS / "digits_cnn.onnx").read_bytes()
    for seed in range(4):
        changed = [(a ^ b).bit_count() for a, b in zip(data, flip(data, seed), strict=True) if a != b]
        assert changed == [1] and flip(data, seed) == flip(data, seed)


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_is_harmless_or_said(tmp_path: Path, seed: int) -> None:
    path = small(tmp_path / "m.onnx")
    path.write_bytes(flip(path.read_bytes(), seed))
    verdict, why = guarded(path)
    assert verdict in GOOD, why
