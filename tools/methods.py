#!/usr/bin/env python3
"""All criteria, allocations and schedules, and training that prunes, at equal size and equal CPU time: Markdown tables.

    OMP_NUM_THREADS=1 python tools/methods.py MODEL=CALIB.npz=TEST.npz=macs:0.5 .. --results FILE.jsonl [--cpu-seconds 60]

For each method and seed a model is pruned to a share of its multiply-accumulates (or params:0.8), on --samples inputs of CALIB,
drawn by the seed, without labels. The first figure is its quality on TEST: accuracy with an array `labels` there, the loss on the
next tokens (lower is better) of a language model, else agreement with the original. The second one, which needs torch, is the
quality when distillation uses the rest of --cpu-seconds (0: none), so that a method that is cheap has more passes. Figures are
means over the seeds, with the largest distance from the mean, and CPU seconds of this process. FILE.jsonl keeps each run: the same
command goes on where it was stopped, and prints the tables at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from depth import classes, measure_quality

import onnxprune
from onnxprune.criteria import list_names
from onnxprune.graph.vocabulary import find_ids
from onnxprune.settings.options import ALLOCATIONS, SCHEDULES

Settings = Mapping[str, Any]
PLAIN: Settings = {"target": "none", "depth": False, "check": False}
STEPS, ROUNDS = 4, 3  # of a schedule, and of pruning and training in turns
RATE, PROBE = 0.01, 4  # of the training that measures how long a pass takes, and its passes
TRIALS_SHARE = 1.2  # of a pass: short trainings look for a rate before
TORCH = importlib.util.find_spec("torch") is not None
TRAINED = ("slimming", "group-lasso", "soft")


def list_methods() -> Iterator[tuple[str, str, Settings]]:
    """The table, the name, and the settings of each method."""
    for name in list_names():
        yield "criteria", name, {"criterion": "lp:3" if name.startswith("lp") else name, "allocation": "uniform"}
    for name in ALLOCATIONS:
        yield "allocations", name, {"allocation": name}
    for name in SCHEDULES:
        yield "schedules", f"{name}, {STEPS} steps", {"steps": STEPS, "schedule": name}
    yield "schedules", "one step (the default)", {}
    yield "schedules", "--effort low", {"effort": "low"}
    yield "schedules", "--effort high", {"effort": "high"}
    for name in SCHEDULES:
        yield (
            "training",
            f"--iterative {ROUNDS} --schedule {name}",
            {"iterative": ROUNDS, "schedule": name, "distill": True},
        )
    for name in TRAINED:
        yield "training", f"--train-method {name}", {"train_method": name, "distill": True}
    yield "training", "--distill", {"distill": True}


@dataclass
class Bench:
    """One model, its data, and what is known of the time that training takes."""

    model: Path
    calib: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    wanted: np.ndarray | None
    budget: Settings
    asked: argparse.Namespace

    @staticmethod
    def read(text: str, asked: argparse.Namespace) -> Bench:
        *paths, budget = text.split("=")
        model, calib, test = map(Path, paths)
        kind, share = budget.split(":")
        inputs = dict(np.load(test))
        wanted = inputs.pop("labels", None)
        loaded = onnxprune.load(model)
        if wanted is None and not find_ids(loaded.proto):
            wanted = classes(loaded, inputs)
        data = {name: x for name, x in np.load(calib).items() if name != "labels"}
        return Bench(model, data, inputs, wanted, {kind: float(share)}, asked)

    def measure(self, settings: Settings, seed: int) -> dict[str, Any]:
        """Quality and CPU seconds of a method alone, and of as many passes behind it as fit."""
        if settings.get("distill"):
            return {"trained": self._train(settings, seed, self._default_seconds)}
        plain = self._prune(settings, seed)
        if not TORCH or not self.asked.cpu_seconds:
            return {"plain": plain[:2]}
        return {"plain": plain[:2], "trained": self._train({**settings, "distill": True}, seed, plain[1])}

    def _train(self, settings: Settings, seed: int, spent: float) -> tuple[float, float, int]:
        left = self.asked.cpu_seconds - spent
        turns = settings.get("iterative", 1) + (1 if settings.get("train_method") else 0)
        passes = max(1, int(left / (TRIALS_SHARE * self._pass_seconds * turns)))
        quality, seconds, _ = self._prune({**settings, "passes": passes}, seed)
        return quality, seconds, passes

    def _prune(self, settings: Settings, seed: int) -> tuple[float, float, Any]:
        start = time.process_time()
        done = onnxprune.prune(self.model, calib=self._draw(seed), seed=seed, **self.budget, **PLAIN, **settings)
        seconds = time.process_time() - start
        return measure_quality(done.model, self.test, self.wanted), seconds, done

    def _draw(self, seed: int) -> dict[str, np.ndarray]:
        size = len(next(iter(self.calib.values())))
        rows = np.random.default_rng(seed).permutation(size)[: self.asked.samples]
        return {name: x[rows] for name, x in self.calib.items()}

    @cached_property
    def _default_seconds(self) -> float:
        """CPU seconds of the default without training."""
        return self._prune({}, 0)[1]

    @cached_property
    def _pass_seconds(self) -> float:
        """CPU seconds of a pass of training."""
        _, _, done = self._prune({"allocation": "uniform", "criterion": "l2", "repair": "none"}, 0)
        start = time.process_time()
        onnxprune.distill(self.model, done.model, calib=self._draw(0), passes=PROBE, learning_rate=RATE, check=False)
        return (time.process_time() - start) / PROBE


def show_cell(runs: list[list[float]]) -> str:
    """Means over seeds: quality, the largest distance from it, CPU seconds, and passes where there were some."""
    if not runs:
        return ""
    qualities, seconds = np.array([run[0] for run in runs]), np.mean([run[1] for run in runs])
    passes = f", {np.mean([run[2] for run in runs]):.0f} passes" if len(runs[0]) > 2 else ""
    return f"{qualities.mean():.3f} ± {np.abs(qualities - qualities.mean()).max():.3f} ({seconds:.0f} s{passes})"


def print_tables(runs: list[dict[str, Any]], benches: list[Bench]) -> None:
    for table in dict.fromkeys(name for name, _, _ in list_methods()):
        heads = [f"{b.model.stem}{more}" for b in benches for more in ("", ", equal time")]
        print(f"\n### {table.capitalize()}\n\n| method | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
        for method in [name for kind, name, _ in list_methods() if kind == table]:
            cells = []
            for bench in benches:
                own = [r for r in runs if (r["model"], r["table"], r["method"]) == (bench.model.stem, table, method)]
                failures = [r["error"] for r in own if "error" in r]
                cells += [
                    failures[0] if failures else show_cell([r[key] for r in own if key in r])
                    for key in ("plain", "trained")
                ]
            print(f"| {method} | " + " | ".join(cells) + " |")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL=CALIB=TEST=BUDGET")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--cpu-seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", help="criteria, allocations, schedules, training")
    return parser.parse_args()


def main() -> None:
    asked = read_arguments()
    benches = [Bench.read(text, asked) for text in asked.models]
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    runs = [json.loads(line) for line in lines]
    known = {(r["model"], r["table"], r["method"], r["seed"]) for r in runs}
    with asked.results.open("a") as sink:
        for seed in asked.seeds:
            for bench in benches:
                for table, method, settings in list_methods():
                    key = bench.model.stem, table, method, seed
                    if (
                        key in known
                        or (asked.tables and table not in asked.tables)
                        or (settings.get("distill") and not TORCH)
                    ):
                        continue
                    run = dict(zip(("model", "table", "method", "seed"), key, strict=True))
                    try:
                        run |= bench.measure(settings, seed)
                    except onnxprune.OnnxPruneError as e:
                        run["error"] = str(e).split("; ")[0][:80]
                    runs.append(run)
                    print(json.dumps(run), file=sink, flush=True)
    print_tables(runs, benches)


if __name__ == "__main__":
    main()
