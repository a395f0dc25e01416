"""How fast and how exact the torch interpreter is, as a Markdown table.

    python tools/gradients_speed.py models/digits_vit.onnx [...]     files
    python tools/gradients_speed.py --zoo FOLDER [--match vit]       the models of a zoo (see tests/test_zoo.py), on its inputs

Each row has the median time of a forward run in ONNX Runtime without and with optimizations, in torch without gradients (of a
module in which nothing is trained), and of a forward and backward run; the relative L2 distance of the outputs from ONNX Runtime's
without optimizations, beside the one between its two levels; and whether all gradients are finite. One thread everywhere, processor
time; the runs take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime as ort
import torch

from onnxprune.calibration import list_input_specs
from onnxprune.calibration.sessions import find_runnable_inputs
from onnxprune.errors import OnnxPruneError
from onnxprune.gradients import Module

Feeds = Mapping[str, Any]
SECONDS = 1.0  # for each of the four, at least
HEAD = "| model | plain ms | optimized ms | forward ms | forward + backward ms | of plain | error | optimized's | gradients |"


@dataclass
class Row:
    name: str
    plain: float  # ms, as the next three
    optimized: float
    forward: float
    both: float
    error: float
    levels: float
    gradients: str

    def __str__(self) -> str:
        times = " | ".join(f"{t:.2f}" for t in (self.plain, self.optimized, self.forward, self.both))
        ratio = self.forward / self.plain
        return f"| {self.name} | {times} | {ratio:.2f} | {self.error:.1e} | {self.levels:.1e} | {self.gradients} |"


def open_session(proto: onnx.ModelProto, level: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def distance(want: list[Any], got: list[Any]) -> float:
    worst = 0.0
    for a, b in zip(want, got, strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        norm = float(np.linalg.norm(x))
        worst = max(worst, float(np.linalg.norm(x - y)) / max(norm, 1e-12)) if np.isfinite(norm) else float("nan")
    return worst


def clock(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median time of each in ms; they take turns, so that what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or any(len(t) < 3 for t in times.values()):
        for name, run in runs.items():
            start = time.process_time()  # of the processor: other processes may take turns with it
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(t) for name, t in times.items()}


def measure(name: str, proto: onnx.ModelProto, feeds: Feeds | None, seconds: float) -> Row:
    plain, optimized = open_session(proto, "ORT_DISABLE_ALL"), open_session(proto, "ORT_ENABLE_ALL")
    if feeds is None:
        feeds = find_runnable_inputs(plain, list_input_specs(proto), seed=0).feeds
    module, frozen = Module(proto), Module(proto, trainable=())
    fed = dict(feeds)
    want = plain.run(None, fed)

    def forward() -> None:
        with torch.no_grad():
            frozen(fed)

    def both() -> None:
        ys = [y for y in module(fed).values() if y.requires_grad]
        if ys:
            sum(y.square().mean() for y in ys).backward()

    ms = clock(
        {
            "plain": lambda: plain.run(None, fed),
            "optimized": lambda: optimized.run(None, fed),
            "forward": forward,
            "both": both,
        },
        seconds,
    )
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    said = "none" if not grads else "finite" if all(bool(g.isfinite().all()) for g in grads) else "not finite"
    error = distance(want, list(frozen.predict(fed).values()))
    levels = distance(want, optimized.run(None, fed))
    return Row(name, ms["plain"], ms["optimized"], ms["forward"], ms["both"], error, levels, said)


def zoo_models(folder: str, match: str) -> Iterator[tuple[str, onnx.ModelProto, Feeds]]:
    os.environ["ONNXPRUNE_ZOO"] = folder
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import test_zoo

    for name in test_zoo.every_model():
        if match in name:
            proto = test_zoo.load(name)
            try:
                yield name, proto, test_zoo.feeds(name, proto)[0]
            except BaseException as e:  # pytest's Skipped: ONNX Runtime does not run the original
                if type(e).__name__ != "Skipped":
                    raise
                print(f"{name}: {str(e)[:120]}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--zoo")
    parser.add_argument("--match", default="")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(HEAD + "\n|---|--:|--:|--:|--:|--:|--:|--:|---|")
    rows = []
    files = ((str(path), onnx.load(path), None) for path in args.models)
    for name, proto, feeds in [*files] if args.models else zoo_models(args.zoo, args.match):
        try:
            rows.append(measure(name, proto, feeds, args.seconds))
        except OnnxPruneError as e:
            print(f"{name}: {e}", file=sys.stderr)
            continue
        print(rows[-1], flush=True)
    ratios = {"of plain": [r.forward / r.plain for r in rows], "of optimized": [r.forward / r.optimized for r in rows]}
    for what, values in ratios.items():
        print(
            f"\nforward {what}: median {statistics.median(values):.2f}, largest {max(values):.2f}, models {len(values)}"
        )


if __name__ == "__main__":
    main()
