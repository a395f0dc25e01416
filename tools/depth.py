#!/usr/bin/env python3
"""Fewer blocks, narrower layers, or both: what is left of a model's accuracy at the same measured time, as a table in Markdown.

    python tools/depth.py MODEL CALIB.npz TEST.npz [--times 0.8 0.6 0.4] [--ways width depth both]

CALIB.npz holds calibration data, TEST.npz inputs that pruning does not see, with `labels` where there are some. Each cell is a
run of `prune --latency` with `--no-depth` (width), with `--max-ratio 0` (depth) or with neither (both): the share of the rows for
which the pruned model prefers the label, or the original's class where there are no labels; the time after / before by the
clock of `prune`; and how many branches were removed. Of a language model, the loss on the next tokens of TEST.npz, in nats;
texts are padded with token 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from onnxprune.calibration.sessions import open_session, run
from onnxprune.graph.vocabulary import find_ids

WAYS: dict[str, dict[str, Any]] = {"width": {"depth": False}, "depth": {"max_ratio": 0.0}, "both": {}}
BATCH = 100


def classes(model: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The class that a model prefers, for each row of its first output."""
    session = open_session(model, "model")
    size = len(next(iter(feeds.values())))
    parts = [{n: x[i : i + BATCH] for n, x in feeds.items()} for i in range(0, size, BATCH)]
    return np.concatenate([next(iter(run(session, p).values())).argmax(-1) for p in parts])


def measure_loss(model: Any, ids: np.ndarray, name: str) -> float:
    """The mean loss on the next tokens of texts [N, T], in nats; 0 is padding."""
    session = open_session(model, "model")
    losses = []
    for text in ids:
        feeds = {name: text[None, : np.flatnonzero(text)[-1] + 1]}
        scores = next(iter(run(session, feeds).values()))[0, :-1].astype(np.float64)
        chances = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
        losses.append(-np.take_along_axis(chances, feeds[name][0, 1:, None], axis=1)[:, 0])
    return float(np.concatenate(losses).mean())


def measure_quality(model: Any, test: dict[str, np.ndarray], want: np.ndarray | None) -> float:
    """The share of wanted classes, or the loss of a language model."""
    if want is None:
        (name,) = test
        return measure_loss(model, test[name], name)
    return float((classes(model, test) == want).mean())


def measure(
    path: Path, calib: Path, test: dict[str, np.ndarray], want: np.ndarray | None, time: float, way: str
) -> str:
    try:
        result = onnxprune.prune(path, calib=calib, latency=time, **WAYS[way])
    except onnxprune.OnnxPruneError as e:
        return str(e).split("; ")[0][:80]
    share = measure_quality(result.model, test, want)
    took = result.report.latency
    branches = len(result.report.units or ())
    return f"{share:.3f} at {1 / took.ratio:.2f}, {branches}" if took and took.ratio else f"{share:.3f}, {branches}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--times", type=float, nargs="+", default=[0.8, 0.6, 0.4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    asked = parser.parse_args()
    test = dict(np.load(asked.test))
    labels = test.pop("labels", None)
    model = onnxprune.load(asked.model)
    want = labels
    if labels is None and not find_ids(model.proto):
        want = classes(model, test)
    print(f"{asked.model.stem}: {measure_quality(model, test, want):.3f} whole\n")
    print("| time asked | " + " | ".join(asked.ways) + " |\n|---:|" + "---|" * len(asked.ways), flush=True)
    for time in asked.times:
        cells = [measure(asked.model, asked.calib, test, want, time, way) for way in asked.ways]
        print(f"| {time:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
