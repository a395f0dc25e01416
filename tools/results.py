#!/usr/bin/env python3
"""What does pruning buy? Time and size of models pruned with the default target and without one, as a table in Markdown.

    ONNXPRUNE_CLOCK_SECONDS=10 python tools/results.py models/*.onnx                    half of the MACs, without data
    python tools/results.py --latency 0.6 model.onnx                                    a budget of time instead

Times are those of the clock (`onnxprune/validation/latency.py`): time after / time before, so that less is better.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402
from onnxprune.report.types import PruneReport  # noqa: E402


def prune(path: Path, budget: dict[str, float], target: str) -> PruneReport | str:
    """The report, or why there is none."""
    try:
        return onnxprune.prune(path, target=target, repair="none", **budget).report
    except onnxprune.OnnxPruneError as e:
        return str(e).split("; ")[0][:90]


def left(report: PruneReport) -> float | None:
    macs = report.macs
    return macs.after / macs.before if macs.before and macs.after is not None else None


def time(report: PruneReport) -> float | None:
    found = report.latency
    return 1 / found.ratio if found and found.ratio and found.verdict != "noisy" else None


def show(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--latency", type=float)
    parser.add_argument("--targets", nargs="+", default=["cpu", "none"])
    asked = parser.parse_args()
    budget = {"macs": asked.macs} if asked.latency is None else {"latency": asked.latency}
    print("| model | " + " | ".join(f"MACs left, {t} | time, {t}" for t in asked.targets) + " | slow counts |")
    print("|---|" + "---:|" * (2 * len(asked.targets)) + "---|", flush=True)
    times: dict[str, list[float]] = {t: [] for t in asked.targets}
    for path in asked.models:
        cells, slow = list[str](), list[str]()
        for target in asked.targets:
            report = prune(path, budget, target)
            if isinstance(report, str):
                cells += [report, ""]
                continue
            found = time(report)
            cells += [show(left(report)), show(found)]
            slow += [g.name for g in report.groups if g.unaligned and g.kept < g.size]
            times[target] += [found] if found else []
        print(f"| {path.stem} | " + " | ".join(cells) + f" | {', '.join(slow[:2])} |", flush=True)
    print("\nmedian time: " + ", ".join(f"{t} {median(x):.2f} ({len(x)} models)" for t, x in times.items() if x))


if __name__ == "__main__":
    main()
