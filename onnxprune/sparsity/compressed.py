"""The compressed size of a sparse model: the file itself has the same size for every pattern."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxprune.graph.deflated import deflate_files, deflate_model
from onnxprune.graph.model import Model
from onnxprune.groups import Analysis
from onnxprune.report.types import CompressedSize
from onnxprune.sparsity.apply import Sparsified
from onnxprune.sparsity.patterns import NofM


def measure_compressed(
    original: Model, files: Sequence[Path], sparse: Sparsified, after: Analysis, size: int
) -> CompressedSize:
    """The bytes of the original and of the sparse model when they are compressed; `files` are the latter's, `size` theirs."""
    before = deflate_model(original)
    deflated = deflate_files(files) if files else deflate_model(after.model)
    packed = _count_in_pattern(sparse, sparse.pattern, after, size) if isinstance(sparse.pattern, NofM) else None
    return CompressedSize(before.nbytes, deflated.nbytes, packed, before.estimated or deflated.estimated)


def _count_in_pattern(sparse: Sparsified, pattern: NofM, after: Analysis, size: int) -> int:
    """The bytes with N values of every M in each sparse layer, and a place among M for each of those."""
    place_bits = (pattern.m - 1).bit_length()
    for layer in sparse.layers:
        weight = after.coupling.weights.get(layer.matrix.weight)
        if layer.chosen and weight is not None:
            kept = layer.matrix.params * pattern.n // pattern.m
            size -= weight.nbytes - weight.nbytes * pattern.n // pattern.m - -(-kept * place_bits // 8)
    return size
