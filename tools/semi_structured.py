#!/usr/bin/env python3
"""Run the 2:4 matrices of a model through PyTorch's semi-structured sparse kernels on a GPU: are they right, are they faster?

    python tools/semi_structured.py SPARSE.onnx [--rows 4096] [--rounds 100] [--include GLOB ..] [--cutlass]

Takes every weight that has the pattern as the matrix [O, K] that products read; of a convolution it is [O, P * I], as an implicit
GEMM has it: for each kernel position all inputs in a row. In float16, y = x @ w.T with random x [rows, K] by
torch.sparse.to_sparse_semi_structured (cuSPARSELt, or CUTLASS where that is missing or --cutlass is given) and by the dense kernel,
each against float32. Prints a Markdown table: relative L2 errors, and medians of the times between CUDA events. Exit status 1
where the sparse numbers are off, 2 where there is no torch, no CUDA GPU, or one without sparse tensor cores (before Ampere).

What runs on the GPU has not been run where this was written; the matrices and their compression by PyTorch are tested on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.inner import mark_inner_tensors
from onnxprune.graph.weights import dtype_of, is_float
from onnxprune.groups import Analysis, analyze
from onnxprune.sparsity.matrices import ConstantMatrix, find_matrices
from onnxprune.sparsity.patterns import NofM

ROWS, COLUMNS = 32, 64  # what CUTLASS's float16 kernels take multiples of; cuSPARSELt's take 16
WRONG = 2e-3  # relative L2 error: sums of float16 products are good to about 3e-4
PATTERN = NofM(2, 4)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Operand:
    """A weight as a matrix [O, K], or why it is none."""

    name: str
    matrix: Array | None
    why: str = ""

    def padded(self) -> Array:
        """In float16, with rows and columns of zeros up to multiples of what the kernels take."""
        assert self.matrix is not None
        o, k = self.matrix.shape
        return np.pad(self.matrix.astype(np.float16), [(0, -o % ROWS), (0, -k % COLUMNS)])


def operands(path: Path) -> Iterator[Operand]:
    """The weights of a model's products, one at a time."""
    a = analyze(mark_inner_tensors(onnxprune.load(path)))
    for m in find_matrices(a):
        why = _unfit(a, m)
        w = None if why or m.form is None else m.form.view(a.coupling.weights[m.weight].array())
        if w is not None and PATTERN.broken(w != 0):
            why = "not 2:4"
        yield Operand(m.name, None if why or w is None else as_matrix(w), why)


def as_matrix(w: Array) -> Array:
    """[O, P * I] of w [1, O, I, P]: groups of four inputs stay together."""
    _, outputs, inputs, positions = w.shape
    return np.ascontiguousarray(w[0].transpose(0, 2, 1).reshape(outputs, positions * inputs))


def _unfit(a: Analysis, m: ConstantMatrix) -> str:
    if m.form is None:
        return m.left
    if not is_float(dtype_of(a.coupling.weights[m.weight].data_type)):
        return f"{m.dtype} weights"
    if m.groups > 1 or m.shape[0] > 1:
        return f"a convolution of {m.groups} groups" if m.groups > 1 else f"a stack of {m.shape[0]} matrices"
    return f"{m.shape[2]} inputs, no multiple of 4" if m.shape[2] % 4 else ""


@dataclass(frozen=True)
class Measured:
    """Relative L2 errors and median times of one product."""

    dense_error: float
    sparse_error: float
    dense_ms: float
    sparse_ms: float


def measure(operand: Operand, rows: int, rounds: int, torch: Any) -> Measured:
    """y [rows, O] = x @ w.T on the GPU: the sparse kernel on the padded matrix, the dense one on the matrix as it is."""
    w = torch.from_numpy(operand.padded()).cuda()
    outputs, inputs = operand.matrix.shape if operand.matrix is not None else w.shape
    x = torch.randn(rows, w.shape[1], generator=torch.Generator("cuda").manual_seed(0), device="cuda").half()
    plain_x, plain_w = x[:, :inputs].contiguous(), w[:outputs, :inputs].contiguous()
    packed = torch.sparse.to_sparse_semi_structured(w)
    linear = torch.nn.functional.linear
    truth = plain_x.float() @ plain_w.float().T

    def error(y: Any) -> float:
        return float((y.float() - truth).norm() / truth.norm().clamp_min(1e-30))

    dense, sparse = (lambda: linear(plain_x, plain_w)), (lambda: linear(x, packed))
    errors = error(dense()), error(sparse()[:, :outputs])
    return Measured(*errors, median_ms(dense, rounds, torch), median_ms(sparse, rounds, torch))


def median_ms(call: Callable[[], Any], rounds: int, torch: Any) -> float:
    for _ in range(10):
        call()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def missing() -> str:
    """Why nothing can be run here, in a line; '' where it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed; run this where PyTorch with CUDA is"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA GPU; run this on a machine with one of Ampere or later"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} has no sparse tensor cores; run this on a GPU of Ampere or later"
    return ""


def compare(args: argparse.Namespace) -> bool:
    """Print the table; are the numbers right?"""
    import torch
    from torch.sparse import SparseSemiStructuredTensor

    torch.backends.cuda.matmul.allow_tf32 = False  # the reference is float32
    SparseSemiStructuredTensor._FORCE_CUTLASS = args.cutlass or not torch.backends.cusparselt.is_available()
    kernels = "CUTLASS" if SparseSemiStructuredTensor._FORCE_CUTLASS else "cuSPARSELt"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {kernels}, {args.rows} rows of x, float16\n")
    print("| layer | O x K | dense error | sparse error | dense, ms | sparse, ms | times as fast |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    left, right, speedups = [], True, []
    for operand in operands(args.model):
        if args.include and not any(fnmatchcase(operand.name, glob) for glob in args.include):
            continue
        if operand.matrix is None:
            left.append(f"{operand.name}: {operand.why}")
            continue
        m = measure(operand, args.rows, args.rounds, torch)
        right &= m.sparse_error < WRONG
        speedups.append(m.dense_ms / m.sparse_ms)
        size = " x ".join(map(str, operand.matrix.shape))
        numbers = f"{m.dense_error:.1e} | {m.sparse_error:.1e} | {m.dense_ms:.4f} | {m.sparse_ms:.4f}"
        print(f"| {operand.name} | {size} | {numbers} | {speedups[-1]:.2f} |")
    print(f"\n{len(speedups)} matrices" + (f", {statistics.median(speedups):.2f} times as fast" if speedups else ""))
    print("\n".join(f"left out: {line}" for line in left))
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="SPARSE")
    parser.add_argument(
        "--rows", type=int, default=4096, help="rows of x: tokens, or positions of all pictures of a batch"
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--include", action="append", metavar="GLOB", help="only layers with such a name; repeatable")
    parser.add_argument("--cutlass", action="store_true", help="not cuSPARSELt")
    args = parser.parse_args()
    why = missing()
    if why:
        print(why, file=sys.stderr)
        return 2
    try:
        import torch

        with torch.inference_mode():
            return 0 if compare(args) else 1
    except OnnxPruneError as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
