#!/usr/bin/env python3
"""What each ingredient of calibrated pruning gives: selection, allocation, repair, steps, number of samples.

    python tools/ingredients.py models/digits_cnn.onnx models/digits_resnet.onnx models/digits_vit.onnx \
        --calib models/digits_calib.npz --data models/digits_test.npz --macs 0.5

Prints one Markdown row for each way to prune and one column of each budget and model: accuracy on --data where it has
labels, else top-1 agreement with the original, and the relative L2 error of the outputs there. Labels of --calib are not used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.calibration import Preprocess, read_preprocess
from onnxprune.report.types import ErrorReport

PLAIN: dict[str, Any] = {"criterion": "l2", "allocation": "uniform", "repair": "none", "target": "none"}
REPAIRED = PLAIN | {"repair": "lstsq"}
SELECTED = REPAIRED | {"criterion": "obs"}
SHARED = SELECTED | {"allocation": "search"}
ROWS: dict[str, dict[str, Any]] = {
    "L2 norms, one ratio, no repair": PLAIN,
    "+ means into biases": PLAIN | {"repair": "bias"},
    "+ least squares": REPAIRED,
    "+ second-order selection": SELECTED,
    "+ ratios by search": SHARED,
    "+ counts that are fast (the default)": {},
    "the default in three steps": {"steps": 3},
    "the default without repair": {"repair": "none"},
}
SAMPLES = (250, 1000)


def main() -> int:
    args = _arguments().parse_args()
    how = read_preprocess(args.preprocess) if args.preprocess else None
    columns = [(model, macs) for model in args.models for macs in args.macs]
    heads = [f"{m.stem} at {f:.0%}" for m, f in columns]
    print("| way | " + " | ".join(heads) + " |")
    print("|---|" + "---:|" * len(heads), flush=True)
    rows = ROWS | {f"the default with {n} samples": {"samples": n} for n in SAMPLES if n < args.samples}
    for name, options in rows.items():
        cells = [_cell(args, how, model, macs, options) for model, macs in columns]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def _arguments() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--calib", required=True, type=Path)
    p.add_argument("--data", required=True, type=Path)
    p.add_argument("--preprocess", action="append", default=[])
    p.add_argument("--samples", type=int, default=2000)
    p.add_argument("--macs", type=float, nargs="+", default=[0.5])
    return p


def _cell(args: argparse.Namespace, how: Preprocess | None, model: Path, macs: float, options: dict[str, Any]) -> str:
    print(f"{model.stem} at {macs:.0%} with {options}", file=sys.stderr)
    given = {"samples": args.samples, "calib": args.calib, "data": args.data, "preprocess": how} | options
    with tempfile.TemporaryDirectory() as folder:
        report = onnxprune.prune(model, Path(folder, "smaller.onnx"), macs=macs, **given).report
    return _said(report.error)


def _said(error: ErrorReport) -> str:
    share = error.accuracy.after if error.accuracy else error.top1_agreement
    return f"{error.relative_l2:.3f}" if share is None else f"{share:.1%} ({error.relative_l2:.3f})"


if __name__ == "__main__":
    sys.exit(main())
