"""Which experts a mixture can do without: by measured errors, by criteria of weights and activations, and at random.

    python tools/experts.py DATA.npz

DATA.npz holds `images` [N, ..] and `labels` [N] of ten classes. Small mixtures (3 layers of 8 experts, each token uses 2) are
trained on them, one for each seed, with the loss that balances experts (Fedus et al. 2021, Switch Transformers, arXiv 2101.03961,
equation 4). Then whole experts are removed in the order of each ranking; the accuracy on a fifth of the images, which neither
training nor repair saw, is printed without and with repair. Needs torch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import onnxprune
from onnxprune import Options, Plan, RunSettings
from onnxprune.allocate.selection import select_candidates
from onnxprune.experts import Expert, find_experts
from onnxprune.graph.save import build_full_proto
from onnxprune.pipeline import make_calibration_batches, make_evaluator
from onnxprune.plans import compute_fingerprint

EXPERTS, USED, WIDTH, INNER, LAYERS = 8, 2, 48, 64, 3
PASSES, BALANCE, CALIBRATION = 12, 0.01, 1000
GONE = (6, 9, 12)
DRAWS = 5


def train(x: Any, y: Any, seed: int) -> dict[str, np.ndarray]:
    """The weights of a mixture that was trained on images x [N, pixels] with classes y [N]."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(seed)
    shapes = {"stem.weight": (x.shape[1], WIDTH), "head.weight": (WIDTH, 10)}
    for n in range(LAYERS):
        name = f"layers.{n}.moe"
        shapes[f"{name}.router.weight"] = (WIDTH, EXPERTS)
        shapes |= {f"{name}.w1": (EXPERTS, INNER, WIDTH), f"{name}.w2": (EXPERTS, WIDTH, INNER)}
        shapes |= {f"{name}.b1": (EXPERTS, INNER), f"{name}.b2": (EXPERTS, WIDTH)}
    scale = {name: 0 if ".b" in name else (s[0] if len(s) == 2 else s[-1]) ** -0.5 for name, s in shapes.items()}
    p = {name: torch.nn.Parameter(torch.randn(*s) * scale[name]) for name, s in shapes.items()}

    def run(h: Any, balance: list[Any]) -> Any:
        h = F.relu(h @ p["stem.weight"])
        for n in range(LAYERS):
            name = f"layers.{n}.moe"
            shares = torch.softmax(h @ p[f"{name}.router.weight"], -1)
            best, chosen = shares.topk(USED, -1)
            gate = torch.zeros_like(shares).scatter(1, chosen, best)
            balance.append(EXPERTS * (shares.mean(0) * (gate > 0).float().mean(0)).sum())
            inner = F.relu(torch.einsum("nh,eih->nei", h, p[f"{name}.w1"]) + p[f"{name}.b1"])
            made = torch.einsum("nei,ehi->neh", inner, p[f"{name}.w2"]) + p[f"{name}.b2"]
            h = h + torch.einsum("ne,neh->nh", gate, made)
        return h @ p["head.weight"]

    optimizer = torch.optim.Adam(p.values(), 1e-3)
    images, classes = torch.tensor(x), torch.tensor(y)
    for _ in range(PASSES):
        for part in torch.randperm(len(x)).split(64):
            balance: list[Any] = []
            loss = F.cross_entropy(run(images[part], balance), classes[part]) + BALANCE * sum(balance)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: w.detach().numpy() for name, w in p.items()}


def export(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same network with the operator MoE of ONNX Runtime."""
    node = helper.make_node
    nodes = [node("MatMul", ["x", "stem.weight"], ["s"]), node("Relu", ["s"], ["h0"])]
    for n in range(LAYERS):
        name = f"layers.{n}.moe"
        nodes.append(node("MatMul", [f"h{n}", f"{name}.router.weight"], [f"r{n}"], f"{name}.router"))
        read = [f"h{n}", f"r{n}", *(f"{name}.{part}" for part in ("w1", "b1", "w2", "b2"))]
        nodes.append(node("MoE", read, [f"m{n}"], name, domain="com.microsoft", k=USED, activation_type="relu"))
        nodes.append(node("Add", [f"h{n}", f"m{n}"], [f"h{n + 1}"]))
    nodes.append(node("MatMul", [f"h{LAYERS}", "head.weight"], ["y"]))
    values = [
        helper.make_tensor_value_info(n, 1, ["N", size]) for n, size in (("x", len(weights["stem.weight"])), ("y", 10))
    ]
    stored = [numpy_helper.from_array(w, n) for n, w in weights.items()]
    graph = helper.make_graph(nodes, "mixture", values[:1], values[1:], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def rank(a: onnxprune.Analysis, calib: Any) -> dict[str, list[Expert]]:
    """The experts in the order in which each ranking removes them."""
    options, run = Options(params=0.7).resolved(True), RunSettings(calib)
    evaluator = make_evaluator(a, options, make_calibration_batches(run, a.model), run, None)
    experts, whole = find_experts(a), Plan(compute_fingerprint(a.model))
    measure = evaluator.quick_trials(len(experts))
    errors = {e.name: measure(replace(whole, units=(e.name,))) for e in experts}
    found = {"measured": sorted(experts, key=lambda e: errors[e.name])}
    for criterion in ("obs", "l2"):
        asked = replace(options, criterion=criterion)
        scores = select_candidates(a, asked, evaluator.watch(a, asked)).scores
        found[criterion] = sorted(experts, key=lambda e, scores=scores: scores[e.group][e.index])  # type: ignore[misc]
    return found


def choose(order: Iterable[Expert], count: int) -> tuple[str, ...]:
    """The first experts that can go together: a token needs some of each layer."""
    names, gone = list[str](), Counter[str]()
    for e in order:
        if len(names) < count and gone[e.group] < e.size - e.used:
            names.append(e.name)
            gone[e.group] += 1
    return tuple(names)


def compare(x: np.ndarray, y: np.ndarray, seed: int) -> dict[tuple[str, int], tuple[float, float]]:
    """The accuracy without and with repair, by ranking and number of removed experts; ("whole", 0) is the original's."""
    order = np.random.default_rng(0).permutation(len(x))
    held_out, learned = order[: len(x) // 5], order[len(x) // 5 :]
    model = export(train(x[learned], y[learned], seed))
    calib = {"x": x[learned][:CALIBRATION]}
    a = onnxprune.analyze(model)

    def accuracy(proto: onnx.ModelProto) -> float:
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return float((session.run(None, {"x": x[held_out]})[0].argmax(1) == y[held_out]).mean())

    def without(names: Sequence[str]) -> np.ndarray:
        plan = Plan(compute_fingerprint(a.model), units=tuple(names))
        return np.array([accuracy(build_full_proto(onnxprune.apply(a, plan, calib=c))) for c in (None, calib)])

    found: dict[tuple[str, int], Any] = {("whole", 0): (accuracy(model),) * 2}
    rankings, experts, rng = rank(a, calib), find_experts(a), np.random.default_rng(seed)
    for count in GONE:
        for name, ranking in rankings.items():
            found[name, count] = without(choose(ranking, count))
        draws = [choose([experts[i] for i in rng.permutation(len(experts))], count) for _ in range(DRAWS)]
        found["random", count] = np.mean([without(names) for names in draws], axis=0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    data = np.load(asked.data)
    x = data["images"].reshape(len(data["images"]), -1).astype(np.float32)
    runs = [compare(x / x.max(), data["labels"], seed) for seed in range(asked.seeds)]
    print("| ranking | removed of 24 | without repair | repaired |\n|---|---:|---:|---:|")
    for name, count in runs[0]:
        plain, repaired = 100 * np.mean([run[name, count] for run in runs], axis=0)
        print(f"| {name} | {count} | {plain:.1f} % | {repaired:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
