#!/usr/bin/env python3
"""Prune exported architectures to half of every group, and print what is left beside what is wanted.

    python tools/export_models.py resnet50 bert_base -o zoo && python tools/table.py zoo/*.onnx

For each file: parameters before and after, the most that may be left (by the name of the file, where one is set),
seconds, and whether the pruned file passes onnx.checker's full check and runs in ONNX Runtime at two batch sizes.
Exit status 1 when a file misses one of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import onnxprune
from onnxprune.calibration import draw_inputs, list_input_specs

TARGETS = {  # millions of parameters left at ratio 0.5, l2, local
    "resnet50": 7.1,
    "resnet18": 3.1,
    "vgg16_bn": 36.0,
    "mobilenet_v2": 1.25,
    "densenet121": 2.3,
    "efficientnet_b0": 1.75,
    "resnext50_32x4d": 6.9,
    "convnext_tiny": 7.5,
    "vit_b_16": 22.5,
    "bert_base": 33.6,
    "shufflenet_v2_x1_0": 1.2,
}


@dataclass
class Row:
    name: str
    before: int = 0
    after: int = 0
    groups: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def target(self) -> float | None:
        return TARGETS.get(self.name.split(".")[0])

    @property
    def ok(self) -> bool:
        return not self.why and (self.target is None or self.after <= self.target * 1e6)

    def __str__(self) -> str:
        want = "" if self.target is None else f"{self.target:g}"
        verdict = "yes" if self.ok else self.why or "too many left"
        return (
            f"| {self.name} | {self.groups} | {self.before / 1e6:.3f} | {self.after / 1e6:.3f} | {want} "
            f"| {self.seconds:.2f} | {verdict} |"
        )


def float_params(path: Path) -> int:
    """Elements of the float initializers, counted on the file itself; scalars and running statistics are no parameters."""
    floats = {1, 10, 11, 16}
    graph = onnx.load(path, load_external_data=False).graph
    running = {n for node in graph.node if node.op_type == "BatchNormalization" for n in node.input[3:]}
    tensors = [t for t in graph.initializer if t.name not in running]
    return sum(int(np.prod(t.dims)) for t in tensors if t.dims and t.data_type in floats)


def check(path: Path) -> str:
    """What is wrong with a pruned file: "" when the checker and ONNX Runtime at two batch sizes are content."""
    onnx.checker.check_model(str(path), full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    specs = list_input_specs(onnx.load(path, load_external_data=False))
    for batch in (1, 3):
        inputs, _ = draw_inputs(specs, seed=batch, batch=batch, sequence=10 + batch)
        for y in session.run(None, inputs):
            if y.dtype.kind == "f" and not np.isfinite(y).all():
                return f"non-finite outputs at batch {batch}"
            if len(y) != batch:
                return f"batch {batch} gives {len(y)} rows"
    return ""


def prune(path: Path, out: Path, ratio: float) -> Row:
    """Prune one file and check the result. Errors go into the row: one file must not stop the others."""
    row = Row(path.name.removesuffix(".onnx"))
    try:
        start = time.perf_counter()
        done = onnxprune.prune(path, out, ratio=ratio, criterion="l2", repair="none", check=False)
        row.seconds = time.perf_counter() - start
        row.before, row.after, row.groups = float_params(path), float_params(out), len(done.plan.groups)
        row.why = check(out)
    except Exception as e:
        row.why = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    return row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--ratio", type=float, default=0.5)
    args = parser.parse_args(argv)
    print("| model | groups | params, M | left, M | at most | seconds | ok |\n|---|--:|--:|--:|--:|--:|---|")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in args.files:
            out = Path(folder, "pruned.onnx")
            row = prune(path, out, args.ratio)
            out.unlink(missing_ok=True)
            failed |= not row.ok
            print(row, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
