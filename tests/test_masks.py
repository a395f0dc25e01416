"""Masks by magnitude are what sorting each group gives, to the bit, and are made a block of a file at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune.graph.files import SourceFile
from onnxprune.graph.forms import Form, start
from onnxprune.graph.weights import FileWeight, dtype_of
from onnxprune.sparsity import halves, masked_weights
from onnxprune.sparsity.masked_weights import MaskedWeight, Numbers
from onnxprune.sparsity.patterns import NofM

Array = NDArray[Any]
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8]
# the shape in the file, its axis of inputs, that of outputs: rows long enough to be used where they lie, and short ones
LAYOUTS = {
    "matmul": ((22, 300), 0, 1),
    "matmul narrow": ((23, 5), 0, 1),
    "gemm": ((31, 41), 1, 0),
    "conv 1x1": ((9, 26, 1, 1), 1, 0),
    "conv 3x3": ((6, 19, 3, 3), 1, 0),
    "full": ((8, 512), 0, 1),
}


def many_ties(shape: tuple[int, ...], dtype: Any) -> Array:
    """Small integers of both signs, zeros of both signs, and what is no number."""
    rng = np.random.default_rng(3)
    x = rng.integers(-3, 4, shape).astype(dtype)
    if np.dtype(dtype).kind != "i":
        x[rng.random(shape) < 0.3] = -0.0
        for odd in (np.nan, -np.nan, np.inf, -np.inf):
            x[rng.random(shape) < 0.05] = odd
        x[rng.random(shape) < 0.2] *= np.asarray(0.3, dtype)
    return np.asarray(x)


def sorted_mask(x: Array, axis: int, n: int, m: int) -> Array:
    """Group after group: the n largest by magnitude stay, NaN being the largest, and the first of equal ones."""
    out = np.moveaxis(x.copy(), axis, -1)
    for row in np.ndindex(out.shape[:-1]):
        for at in range(0, out.shape[-1], m):
            group = out[row][at : at + m]
            if x.dtype.kind == "i":
                worth = [abs(int(v)) for v in group]
            else:
                unsigned = UNSIGNED[x.dtype.itemsize]
                worth = [int(v) & (1 << 8 * x.dtype.itemsize - 1) - 1 for v in group.view(unsigned)]
            for i in sorted(range(len(worth)), key=lambda i: -worth[i])[n:]:
                group[i] = 0
    return np.moveaxis(out, -1, axis)


def in_file(x: Array, path: Path) -> FileWeight:
    path.write_bytes(x.tobytes())
    return FileWeight(SourceFile(path), 0, x.nbytes, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5)])
def test_masks_are_those_of_sorting(
    dtype: Any, layout: str, n: int, m: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, inputs, outputs = LAYOUTS[layout]
    x = many_ties(shape, dtype)
    form = Form.of(start(shape), [inputs], [outputs], shape)
    monkeypatch.setattr(masked_weights, "BLOCK_BYTES", 4096)
    weight = MaskedWeight(in_file(x, tmp_path / "w"), form, NofM(n, m))
    assert b"".join(part.tobytes() for part in weight.parts()) == sorted_mask(x, inputs, n, m).tobytes()
    before, after = (int(np.count_nonzero(v.astype(np.float64))) for v in (x, sorted_mask(x, inputs, n, m)))
    assert (weight.tally.weights, weight.tally.nonzero_before, weight.tally.nonzero) == (x.size, before, after)


@pytest.mark.parametrize("layout", [(0, 1), (1, 0)], ids=["along columns", "along rows"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=lambda t: np.dtype(t).name)
def test_rare_ties_are_broken_as_those_of_sorting(dtype: Any, layout: tuple[int, int], tmp_path: Path) -> None:
    inputs, outputs = layout
    x = np.random.default_rng(4).standard_normal((64, 320)).astype(dtype)
    for at, odd in ((7, np.nan), (8, -np.inf), (9, -0.0), (10, ml_dtypes.finfo(dtype).smallest_subnormal)):
        x[5::17, at::31] = odd
    x[8:12, 8:12] = 0.5  # ties of floats of 32 bits are too rare otherwise
    found = MaskedWeight(in_file(x, tmp_path / "w"), Form.of(start(x.shape), [inputs], [outputs], x.shape), NofM(2, 4))
    sizes = np.sort(np.moveaxis(Numbers().sizes(x), inputs, -1).reshape(-1, 4), axis=1)
    ties = int(np.count_nonzero(sizes[:, 1] == sizes[:, 2]))
    assert 0 < ties < len(sizes) * halves.RARE
    assert found.array().tobytes() == sorted_mask(x, inputs, 2, 4).tobytes()


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_threads_change_nothing(dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = many_ties((256, 64), dtype)
    monkeypatch.setattr(masked_weights, "BLOCK_BYTES", 2048)
    weight = MaskedWeight(in_file(x, tmp_path / "w"), Form.of(start(x.shape), [0], [1], x.shape), NofM(2, 4))
    seen = []
    for threads in ("1", "3"):
        monkeypatch.setenv("ONNXPRUNE_THREADS", threads)
        seen.append((b"".join(map(bytes, weight.pieces())), repr(weight.tally)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: np.dtype(t).name)
def test_tallies_are_of_all_blocks(dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (np.random.default_rng(0).standard_normal((66, 700)) * 30).astype(dtype)
    form = Form.of(start(x.shape), [0], [1], x.shape)
    monkeypatch.setattr(masked_weights, "BLOCK_BYTES", 1 << 14)
    weight = MaskedWeight(in_file(x, tmp_path / "w"), form, NofM(2, 4))
    left = weight.array()
    for found, of in ((weight.tally.magnitude, x), (weight.tally.kept_magnitude, left)):
        assert found == pytest.approx(np.abs(of.astype(np.float64)).sum(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("finite", [True, False])
def test_magnitudes_of_halves_are_exact(dtype: Any, finite: bool) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    x = x[np.isfinite(x.astype(np.float32))] if finite else x
    found = Numbers().magnitudes(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.abs(x.astype(np.float32)))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8])
def test_no_more_than_a_block_is_read_at_once(kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = many_ties((256, 64), dtype_of(kind))
    weight = in_file(x, tmp_path / "w")
    masked = MaskedWeight(weight, Form.of(start(x.shape), [0], [1], x.shape), NofM(2, 4))
    whole = masked.array()
    lengths: list[int] = []
    read = SourceFile.read
    monkeypatch.setattr(SourceFile, "read", lambda f, at, n: (lengths.append(n), read(f, at, n))[1])
    monkeypatch.setattr(masked_weights, "BLOCK_BYTES", 2048)
    assert masked.array().tobytes() == whole.tobytes()
    assert sum(lengths) == x.nbytes and max(lengths) == 2048
