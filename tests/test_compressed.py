"""How small a sparse model becomes where something compresses it."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from test_cli import call
from tiny import model, tensor

import onnxprune
from onnxprune.graph.deflated import WHOLE_BYTES, deflate_files, deflate_model
from onnxprune.graph.io import load
from onnxprune.graph.save import save
from onnxprune.report.types import CompressedSize

CNN = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
OUT, IN = 256, 512


def product(width: int = OUT) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(IN, width)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    return model([node], [tensor("x", ["N", IN])], [tensor("y", ["N", width])], {"w": w})


def compressed(made: onnxprune.PruneResult) -> CompressedSize:
    assert made.report.sparsity and made.report.sparsity.compressed
    return made.report.sparsity.compressed


def deflated(path: Path) -> int:
    return len(zlib.compress(path.read_bytes(), 1))


def test_a_small_file_is_compressed_whole(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(product(), source)
    found = compressed(onnxprune.sparsify(source, out, check=False))
    assert (found.before, found.after, found.estimated) == (deflated(source), deflated(out), False)
    assert found.after < 0.75 * found.before and out.stat().st_size == source.stat().st_size
    weights = OUT * IN
    assert found.in_pattern == out.stat().st_size - 4 * weights // 2 + weights // 2 * 2 // 8


def test_in_memory_it_is_the_same(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    save(load(product()), source)
    assert compressed(onnxprune.sparsify(source, check=False)) == compressed(onnxprune.sparsify(product(), check=False))
    assert deflate_model(load(product())) == deflate_files([source])


def test_half_precision_and_data_files_count(tmp_path: Path) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    save(load(product()), source, external=True)
    made = onnxprune.sparsify(source, out, check=False, cast="fp16")
    found = compressed(made)
    assert len(made.files) == 2 and found.after == sum(map(deflated, made.files))
    assert found.before == sum(deflated(f) for f in tmp_path.glob("m.onnx*"))
    size = sum(f.stat().st_size for f in made.files)
    assert found.in_pattern == size - 2 * OUT * IN // 2 + OUT * IN // 2 * 2 // 8


def test_a_large_file_is_estimated_from_parts_of_it(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(product(8192), source)
    assert source.stat().st_size > 3 * WHOLE_BYTES
    found = deflate_files([source])
    assert found.estimated and abs(found.nbytes / deflated(source) - 1) < 0.01
    assert deflate_model(load(onnx.load(source))).nbytes == pytest.approx(found.nbytes, rel=1e-3)


def test_other_patterns_have_no_form_of_their_own(tmp_path: Path) -> None:
    made = onnxprune.sparsify(product(), pattern="unstructured", sparsity=0.9, check=False)
    found = compressed(made)
    assert found.in_pattern is None and found.after < 0.3 * found.before
    fewer = compressed(onnxprune.sparsify(product(), pattern="1:8", check=False))
    weights = OUT * IN
    assert fewer.in_pattern == made.report.bytes.after - 4 * weights * 7 // 8 + weights // 8 * 3 // 8


def test_the_terminal_says_it_in_one_line(tmp_path: Path) -> None:
    result = call("sparsify", CNN, "-o", tmp_path / "o.onnx", "--layers", "eligible", "--no-validate")
    (line,) = (x for x in result.stdout.splitlines() if x.startswith("compressed"))
    assert line.endswith("by gzip -1; 293.9 kB with the layers in 2:4 form")
    assert onnxprune.sparsify(CNN, dry_run=True).report.sparsity.compressed is None
