#!/usr/bin/env python3
"""What does calibrated pruning with default options cost, in passes of plain inference over its samples? A Markdown table.

    OMP_NUM_THREADS=1 python tools/calibrated_cost.py MODEL.onnx=CALIB.npz .. [--macs 0.5] [--samples N] [--target none]

Costs are CPU seconds of this process, plan and repair, without the comparison at the end; inference is ONNX Runtime's over the same
batches, its session included. The error (relative L2) and the agreement are those on the samples that repair was fitted on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import onnxprune
from onnxprune.calibration import Batches, list_input_specs, load_data
from onnxprune.calibration.sessions import count, open_session, run
from onnxprune.graph.io import load
from onnxprune.validation import validate


def infer(path: Path, batches: Batches) -> tuple[float, int]:
    """CPU seconds of one pass, and how many samples it saw."""
    start, samples = time.process_time(), 0
    session = open_session(path, "original")
    for feeds in batches:
        run(session, feeds)
        samples += count(feeds)
    return time.process_time() - start, samples


def measure(path: Path, calib: Path, asked: argparse.Namespace) -> str:
    """The line of one model."""
    data = load_data(calib, list_input_specs(load(path).proto))
    data = data.limit(asked.samples) if asked.samples else data
    infer(path, data.limit(1))
    plain, samples = infer(path, data)
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder, "pruned.onnx"), time.process_time()
        made = onnxprune.prune(path, out, macs=asked.macs, calib=data, target=asked.target, check=False)
        cost = time.process_time() - start
        error = validate(path, out, data=data, timed=False).error
    cells = [
        path.stem, samples, len(made.plan.groups), f"{plain:.1f}", f"{cost:.0f}", f"{cost / plain:.0f}",
        f"{error.relative_l2:.3f}" if error and error.relative_l2 is not None else "",
        f"{error.top1_agreement:.3f}" if error and error.top1_agreement is not None else "",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=CALIB")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--target", default="cpu")
    asked = parser.parse_args(argv)
    print("| model | samples | groups | inference, s | pruning, s | times inference | relative L2 | agreement |")
    print("|---|" + "---:|" * 7, flush=True)
    for pair in asked.models:
        model, _, calib = pair.partition("=")
        if not calib:
            parser.error(f"{pair}: name the model's calibration data, as in model.onnx=images.npz")
        print(measure(Path(model), Path(calib), asked), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
