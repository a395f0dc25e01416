#!/usr/bin/env python3
"""How does planning grow with a model? CPU seconds of plans by the number of nodes, against the analysis. A Markdown table.

    OMP_NUM_THREADS=1 python tools/plan_cost.py [--nodes 2000 40000] [--limit 2]

The model is a chain of convolutions, 16 channels wide, with ReLUs between them. Exits with 1 where a plan takes more than --limit
times as long as the analysis; plans within `bytes` are not judged, since the pruned model is made for them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper

import onnxprune

WIDTH, LIMIT = 16, 2.0
PLANS: Sequence[Mapping[str, Any]] = (
    {"macs": 0.5}, {"macs": 0.5, "target": "none"}, {"macs": 0.5, "allocation": "global"}, {"params": 0.5}, {"bytes": 0.5},
    {"ratio": 0.5},
)  # fmt: skip


def make_chain(nodes: int) -> ModelProto:
    """Half of the nodes are convolutions, half are ReLUs."""
    rng = np.random.default_rng(0)
    made, weights = [], []
    for i in range(nodes // 2):
        weights.append(numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH, 1, 1), np.float32), f"w{i}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(WIDTH, np.float32), f"b{i}"))
        made.append(helper.make_node("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}"))
        made.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], f"relu{i}"))
    ends = [helper.make_tensor_value_info(f"x{i}", 1, [1, WIDTH, 8, 8]) for i in (0, nodes // 2)]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    start = time.process_time()
    returned = call()
    return time.process_time() - start, returned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2000, 40000])
    parser.add_argument("--limit", type=float, default=LIMIT, help="times the analysis that a plan may take")
    asked = parser.parse_args()
    slow = False
    print("| nodes | | seconds | times the analysis |\n|--:|---|--:|--:|")
    for nodes in asked.nodes:
        model = onnxprune.load(make_chain(nodes))
        base, analysis = time_call(partial(onnxprune.analyze, model))
        print(f"| {nodes} | analyze | {base:.2f} | 1.00 |")
        for options in PLANS:
            seconds, _ = time_call(partial(onnxprune.plan, analysis, **options))
            slow |= seconds > asked.limit * base and "bytes" not in options
            said = ", ".join(f"{k} {v}" for k, v in options.items())
            print(f"| {nodes} | plan, {said} | {seconds:.2f} | {seconds / base:.2f} |", flush=True)
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
