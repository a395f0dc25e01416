#!/usr/bin/env python3
"""How well is the time of a plan predicted? Predicted and measured times of plans of one model.

    python tools/latency.py model.onnx ..                 a fresh table of timings, in memory
    python tools/latency.py model.onnx --table FILE       a table that is kept

For each model: the rank correlation (Spearman) and the median relative error over plans of all sizes, and over plans with
multiply-accumulates within 3 % of each other; the plans are random, within the counts that the target allows, and are not
among those that the prediction was learned from. Times are of one thread, one sample, interleaved, in sessions of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from onnxprune.allocate.cost import make_cost  # noqa: E402
from onnxprune.allocate.selection import Candidates, Counts, select_candidates  # noqa: E402
from onnxprune.allocate.timing import TimingTable, learn_time_cost  # noqa: E402
from onnxprune.calibration import draw_batches  # noqa: E402
from onnxprune.calibration.kernels import average_quickest  # noqa: E402
from onnxprune.calibration.sessions import open_session, prepare_run  # noqa: E402
from onnxprune.graph.io import load  # noqa: E402
from onnxprune.graph.save import build_full_proto  # noqa: E402
from onnxprune.groups import analyze  # noqa: E402
from onnxprune.settings import Options  # noqa: E402
from onnxprune.surgery import apply_plan  # noqa: E402
from onnxprune.validation.latency import take_one_sample  # noqa: E402

TRIES, ROUNDS, SECONDS = 20000, 3, 0.2


def rank(x: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(x))


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rank(a), rank(b))[0, 1])


def of_all_sizes(c: Candidates, n: int, random: np.random.Generator) -> list[Counts]:
    """Plans from nearly all to a fifth of the channels, whose groups differ too."""
    found = []
    for _ in range(n):
        share = random.uniform(0.2, 1)
        kept = {g.name: max(1, round(g.size * min(1, share * random.uniform(0.6, 1.5)))) for g in c.groups}
        found.append(c.settled(c.counts(kept)))
    return found


def of_equal_macs(c: Candidates, n: int, random: np.random.Generator, at: float) -> list[Counts]:
    """Different plans that leave `at` of the multiply-accumulates, within 1.5 % of that."""
    macs, found = make_cost(c.analysis, "macs"), list[Counts]()
    assert macs is not None
    exact = macs.exact(c.keep)
    for _ in range(TRIES):
        scale = random.uniform(0.3, 1.2)
        kept = {g.name: max(1, round(g.size * min(1, random.uniform(0.3, 1.2) * scale))) for g in c.groups}
        counts = c.settled(c.counts(kept))
        new = not any(np.array_equal(counts, other) for other in found)
        if abs(exact(counts) / macs.whole / at - 1) < 0.015 and new:
            found.append(counts)
        if len(found) == n:
            break
    return found


def measure(c: Candidates, plans: list[Counts], feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Seconds of a run of each plan, in turns."""
    models = [build_full_proto(apply_plan(c.analysis, c.plan(p, lambda g: ""))).SerializeToString() for p in plans]
    taken: list[list[float]] = [[] for _ in plans]
    for _ in range(ROUNDS):
        for at in np.random.default_rng(0).permutation(len(plans)):
            go = prepare_run(open_session(models[at], "a plan", 1), feeds)
            go()
            go()
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                start = time.thread_time()
                go()
                taken[at].append(time.thread_time() - start)
    return np.array([average_quickest(t) for t in taken])


def report(name: str, predicted: np.ndarray, measured: np.ndarray) -> None:
    error = np.abs(predicted / measured - 1)
    print(f"  {name:<12} {len(predicted):2} plans  rank {correlate(predicted, measured):.3f}  median error {np.median(error):.1%}"
          f"  most {error.max():.1%}  spread of times {measured.std() / measured.mean():.1%}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--macs", type=float, default=0.45, help="of the plans with equal MACs")
    asked = parser.parse_args()
    for path in asked.models:
        model = load(path)
        c = select_candidates(analyze(model), Options(target=asked.target, criterion="l2"))
        batches = draw_batches(model, 0, 1)
        feeds = dict(take_one_sample(open_session(build_full_proto(model), "original"), batches))
        start = time.perf_counter()
        cost = learn_time_cost(c, feeds, TimingTable(asked.table), 1, 0, lambda done, of: None)
        taken = time.perf_counter() - start
        print(f"{path.name}: {len(c.groups)} groups, {1e3 * cost.whole:.2f} ms, learned in {taken:.0f} s, "
              f"cross-validated error {cost.error:.1%}", flush=True)  # fmt: skip
        random, exact = np.random.default_rng(1), cost.exact(c.keep)
        for name, plans in (
            ("all sizes", of_all_sizes(c, asked.plans, random)),
            ("equal MACs", of_equal_macs(c, asked.plans, random, asked.macs)),
        ):
            if len(plans) > 2:
                report(name, np.array([exact(p) for p in plans]), measure(c, plans, feeds))


if __name__ == "__main__":
    main()
