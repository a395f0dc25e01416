#!/usr/bin/env python3
"""Measure what watching and repairing a network cost, in passes of plain inference over the same inputs. Prints a Markdown table.

    python tools/repair_cost.py MODEL.onnx --calib DATA [--samples 1000] [--preprocess unit --preprocess 'mean=[..]' ..]

All three run in this process, in turns, on the same threads, and the inputs are in memory beforehand: inference with
ONNX Runtime, batch by batch; first-order statistics (mean |a|) of all groups; repair by least squares of a plan that
removes --ratio of every group. Each includes opening its sessions. Medians; the ratios are of neighbors in time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STATISTICS_LIMIT, REPAIR_LIMIT = 1.25, 20.0


def jobs(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    import onnxprune
    from onnxprune.calibration import list_input_specs, load_data, read_preprocess
    from onnxprune.calibration.sessions import open_session, run
    from onnxprune.calibration.statistics import gather
    from onnxprune.graph.io import load
    from onnxprune.repair import repair
    from onnxprune.signals import list_statistics

    model = load(args.model)
    analysis = onnxprune.analyze(model)
    specs = list_input_specs(model.proto)
    preprocess = read_preprocess(args.preprocess) if args.preprocess else None
    feeds = list(load_data(args.calib, specs, preprocess=preprocess).limit(args.samples))
    held = load_data(feeds, specs)
    plan = onnxprune.plan(analysis, ratio=args.ratio, criterion="l2")
    wanted = list_statistics(analysis, analysis.groups, ("mean_abs",))
    print(f"`{args.model.name}`, {sum(len(next(iter(f.values()))) for f in feeds)} samples, {args.threads} threads\n")

    def plain() -> None:
        session = open_session(args.model, "original", args.threads)
        for f in feeds:
            run(session, f)

    return {
        "inference": plain,
        "statistics": lambda: gather(analysis, held, wanted, threads=args.threads),
        "repair": lambda: repair(analysis, plan, held, threads=args.threads),
    }


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True, help="inputs, as `onnxprune prune` takes them")
    parser.add_argument("--preprocess", action="append", default=[])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # read when numpy is imported, which is in `jobs`
    what = jobs(args)
    what["inference"]()
    times: dict[str, list[float]] = {name: [] for name in what}
    ratios: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(args.repeats):
        for name, call in what.items():
            before = seconds(what["inference"])
            times[name].append(seconds(call))
            ratios[name].append(times[name][-1] / ((before + seconds(what["inference"])) / 2))
    limits = {"statistics": STATISTICS_LIMIT, "repair": REPAIR_LIMIT}
    print("| | seconds | times inference | wanted |\n|---|--:|--:|--:|")
    found = {name: statistics.median(r) for name, r in ratios.items()}
    for name, ratio in found.items():
        wanted = f"<= {limits[name]:g}" if name in limits else ""
        print(f"| {name} | {statistics.median(times[name]):.2f} | {ratio:.2f} | {wanted} |")
    return 0 if all(found[name] <= limit for name, limit in limits.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
