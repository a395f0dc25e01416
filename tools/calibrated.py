#!/usr/bin/env python3
"""Does any model crash with `--macs 0.5 --calib` and default options? Prints a Markdown table: ok, limit or error.

    python tools/calibrated.py MODEL.onnx .. [FOLDER ..] [--minutes 5] [--samples 4] [--nodes 300] [--shapes FILE.json]

Each model is pruned in a process of its own, on random inputs that it runs on; --shapes names a JSON file that says how large the
inputs are: {model: {"inputs": {name: {"shape": [..]}}}}. `limit`: it was stopped after --minutes. --nodes leaves larger graphs out.
Exit status 1 where there is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from onnxprune import Options
from onnxprune.calibration.data import draw_data
from onnxprune.calibration.inputs import label, list_dynamic_axes, list_input_specs
from onnxprune.calibration.sessions import find_runnable_inputs, open_session
from onnxprune.errors import OnnxPruneError
from onnxprune.pipeline import Work, run
from onnxprune.settings import RunSettings

REFUSED = "refused"


def found(paths: Sequence[Path], nodes: int) -> Iterator[Path]:
    """The models, those in folders too, but for graphs of more nodes."""
    for path in paths:
        for file in sorted(path.rglob("*.onnx")) if path.is_dir() else [path]:
            if len(onnx.load(file, load_external_data=False).graph.node) <= nodes:
                yield file


def prune(path: Path, inputs: dict[str, Any], macs: float, samples: int) -> str:
    """Prune one model; what came of it in words."""
    proto = onnx.load(path)
    specs = list_input_specs(proto)
    axes = [(s, a) for s, a in list_dynamic_axes(specs) if s.name in inputs]
    sizes = {label(s, a): inputs[s.name]["shape"][a] for s, a in axes}
    guess = find_runnable_inputs(open_session(proto, "original"), specs, 0, sizes, samples)
    with tempfile.TemporaryDirectory() as folder:
        how = RunSettings(calib=draw_data(guess, specs, 0, samples))
        report = run(path, Path(folder, "out.onnx"), Work(Options(macs=macs), run=how)).report
    before, after = report.macs.before, report.macs.after
    return f"{after / before:.3f} of the MACs stay" if before else "there are no MACs"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="MODEL|FOLDER")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=10**9)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--shapes", type=Path)
    parser.add_argument("--inputs", type=json.loads, help=argparse.SUPPRESS)  # of one model, pruned in this process
    args = parser.parse_args(argv)
    if args.inputs is not None:
        try:
            print(prune(args.paths[0], args.inputs, args.macs, args.samples))
        except OnnxPruneError as why:
            print(f"{REFUSED}: {why}")
        return 0
    shapes = json.loads(args.shapes.read_text()) if args.shapes else {}
    print("| model | | seconds | |\n|---|---|--:|---|")
    counts: Counter[str] = Counter()
    for path in found(args.paths, args.nodes):
        start = time.perf_counter()
        verdict, said = judged(path, shapes.get(path.stem, {}).get("inputs", {}), args)
        counts[verdict] += 1
        print(f"| {path.stem} | {verdict} | {time.perf_counter() - start:.0f} | {said} |", flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    return 1 if counts["error"] else 0


def judged(path: Path, inputs: dict[str, Any], args: argparse.Namespace) -> tuple[str, str]:
    """ok, refused (onnxprune says what cannot be done), limit or error, and what the process said last."""
    again = [sys.executable, __file__, str(path), "--inputs", json.dumps(inputs)]
    again += ["--macs", str(args.macs), "--samples", str(args.samples)]
    try:
        done = subprocess.run(again, capture_output=True, text=True, timeout=60 * args.minutes, check=False)
    except subprocess.TimeoutExpired:
        return "limit", ""
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    said = lines[-1] if lines else f"exit status {done.returncode}"
    return "error" if done.returncode else REFUSED if said.startswith(REFUSED) else "ok", said


if __name__ == "__main__":
    sys.exit(main())
