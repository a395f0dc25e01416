"""Whole experts: one expert of a mixture goes as if its router's score were minus infinity, in plans, budgets and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from laws import check, run_ort
from onnx import helper, numpy_helper
from test_cli import call, fails

import onnxprune
from onnxprune import Choice, Plan, PlanError
from onnxprune.experts import EXPERT, find_experts
from onnxprune.graph.save import build_full_proto
from onnxprune.plans import compute_fingerprint, find_removed_experts

Array = np.ndarray[Any, Any]
E, H, INNER, LAYERS = 6, 16, 24, 2
N = helper.make_node
FEEDS = [{"x": np.random.default_rng(n).standard_normal((n, 10)).astype(np.float32)} for n in (40, 7)]


def mixture(used: int = 2, seed: int = 0, bias: dict[str, Array] | None = None, normalize: int = 0) -> onnx.ModelProto:
    """A stem, two mixtures beside shortcuts, and a head; a `bias` is added to the scores of a router by the name of its node."""
    rng, weights, nodes = np.random.default_rng(seed), dict[str, Array](), list[onnx.NodeProto]()

    def weight(name: str, *shape: int) -> str:
        weights[name] = (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        return name

    nodes.append(N("MatMul", ["x", weight("stem.weight", 10, H)], ["h0"]))
    for n in range(LAYERS):
        name, scores = f"layers.{n}.moe", f"r{n}"
        nodes.append(N("MatMul", [f"h{n}", weight(f"{name}.router.weight", H, E)], [scores], f"{name}.router"))
        if bias and name in bias:
            weights[f"{name}.router.bias"] = bias[name].astype(np.float32)
            nodes.append(N("Add", [scores, f"{name}.router.bias"], [f"s{n}"]))
            scores = f"s{n}"
        parts = {"w1": (E, INNER, H), "b1": (E, INNER), "w2": (E, H, INNER), "b2": (E, H)}
        read = [weight(f"{name}.experts.{part}", *shape) for part, shape in parts.items()]
        nodes.append(N("MoE", [f"h{n}", scores, *read], [f"m{n}"], name, domain="com.microsoft", k=used,
                       activation_type="relu", normalize_routing_weights=normalize))  # fmt: skip
        nodes.append(N("Add", [f"h{n}", f"m{n}"], [f"h{n + 1}"]))
    nodes.append(N("MatMul", [f"h{LAYERS}", weight("head.weight", H, 5)], ["y"]))
    values = [helper.make_tensor_value_info(n, 1, ["N", size]) for n, size in (("x", 10), ("y", 5))]
    stored = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "mixture", values[:1], values[1:], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def apply(proto: onnx.ModelProto, *units: str, **groups: Choice) -> onnx.ModelProto:
    a = onnxprune.analyze(proto)
    return build_full_proto(onnxprune.apply(a, Plan(compute_fingerprint(a.model), groups, units=units)))


@pytest.mark.parametrize("used", [1, 2, 3])
@pytest.mark.parametrize("normalize", [0, 1])
def test_without_an_expert_its_score_is_minus_infinity(used: int, normalize: int) -> None:
    """The reference has no onnxprune in it: a bias of minus infinity on the router's scores."""
    small = apply(
        mixture(used, normalize=normalize), "layers.0.moe.expert_1", "layers.0.moe.expert_4", "layers.1.moe.expert_0"
    )
    bias = {
        f"layers.{n}.moe": np.where(np.isin(np.arange(E), gone), -np.inf, 0) for n, gone in ((0, (1, 4)), (1, (0,)))
    }
    for want, got in zip(
        run_ort(mixture(used, bias=bias, normalize=normalize), FEEDS), run_ort(small, FEEDS), strict=True
    ):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)
    shapes = {t.name: list(t.dims) for t in small.graph.initializer}
    assert shapes["layers.0.moe.router.weight"] == [H, E - 2] and shapes["layers.1.moe.router.weight"] == [H, E - 1]
    assert shapes["layers.0.moe.experts.w1"] == [E - 2, INNER, H] and shapes["layers.0.moe.experts.b2"] == [E - 2, H]
    assert [a.i for n in small.graph.node if n.op_type == "MoE" for a in n.attribute if a.name == "k"] == [used] * 2


def test_the_laws_hold_for_experts() -> None:
    assert check(mixture(), FEEDS, laws=("units",)).analysis.groups
    check(mixture(bias={"layers.1.moe": np.arange(E) / 9}), FEEDS, laws=("units",))


def test_experts_are_listed_unless_all_are_used() -> None:
    found = find_experts(onnxprune.analyze(mixture()))
    assert [e.name for e in found] == [f"layers.{n}.moe.expert_{i}" for n in range(LAYERS) for i in range(E)]
    assert find_experts(onnxprune.analyze(mixture(used=E))) == []


def test_a_plan_that_leaves_too_few_experts_is_refused() -> None:
    names = [f"layers.0.moe.expert_{i}" for i in range(E)]
    apply(mixture(used=2), *names[:4])
    with pytest.raises(
        PlanError, match=r"leaves 1 of 6 experts in 'layers.0.moe.router', but each token uses 2; keep 2 or more"
    ):
        apply(mixture(used=2), *names[:5])
    kept = {"layers.0.moe.router": Choice(E, (0, 1, 2))}
    with pytest.raises(PlanError, match="leaves 1 of 6 experts"):
        apply(mixture(used=2), *names[:2], **kept)
    with pytest.raises(PlanError, match=r"a unit 'layers.0.moe.expert_6' that the model does not have"):
        apply(mixture(), "layers.0.moe.expert_6")


def test_named_experts_and_channels_of_a_plan_add_up() -> None:
    a = onnxprune.analyze(mixture())
    plan = Plan(
        compute_fingerprint(a.model), {"layers.0.moe.router": Choice(E, (5, 0, 1, 2))}, units=("layers.0.moe.expert_0",)
    )
    assert [e.name for e in find_removed_experts(plan, a)] == [f"layers.0.moe.expert_{i}" for i in (0, 3, 4)]
    once = build_full_proto(onnxprune.apply(a, plan))
    twice = apply(mixture(), **{"layers.0.moe.router": Choice(E, (5, 1, 2))})
    assert once.SerializeToString() == twice.SerializeToString()


def unused(folder: Path) -> tuple[Path, Path]:
    """A model in which no token chooses the expert 3 of the first layer, which has by far the largest weights; and inputs."""
    proto = mixture(bias={"layers.0.moe": np.where(np.arange(E) == 3, -1e4, 0)})
    for t in proto.graph.initializer:
        if t.name.startswith("layers.0.moe.experts"):
            w = numpy_helper.to_array(t).copy()
            w[3] *= 20
            t.CopyFrom(numpy_helper.from_array(w, t.name))
    onnx.save(proto, folder / "m.onnx")
    np.savez(folder / "calib.npz", x=np.random.default_rng(0).standard_normal((256, 10)).astype(np.float32))
    return folder / "m.onnx", folder / "calib.npz"


def test_within_a_budget_an_expert_that_nobody_chooses_goes(tmp_path: Path) -> None:
    model, calib = unused(tmp_path)
    a = onnxprune.analyze(model)
    share = (
        1
        - 1.02
        * (a.params() - onnxprune.analyze(apply(onnx.load(model), "layers.0.moe.expert_3")).params())
        / a.params()
    )
    options = ("--params", share + 0.02, "--calib", calib, "--json", "--no-validate")
    report = json.loads(call("prune", model, "-o", tmp_path / "o.onnx", *options).stdout)
    assert [(u["name"], u["kind"]) for u in report["units"]] == [("layers.0.moe.expert_3", EXPERT)]
    assert all(g["kept"] == g["size"] for g in report["groups"] if g["kind"] != "experts")
    want, got = (run_ort(onnx.load(path), FEEDS)[0][0] for path in (model, tmp_path / "o.onnx"))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_no_plan_leaves_fewer_experts_than_a_token_uses(tmp_path: Path) -> None:
    model, _ = unused(tmp_path)
    report = onnxprune.prune(model, ratio=0.9, target="none", check=False).report
    assert {g.kept for g in report.groups if g.kind == "experts"} == {2}


def test_experts_are_shown_and_named(tmp_path: Path) -> None:
    model, _ = unused(tmp_path)
    shown = call("inspect", model).stdout
    assert "12 experts" in shown and "layers.0.moe.expert_0" in shown
    units = json.loads(call("inspect", model, "--json").stdout)["units"]
    experts = [u for u in units if u["kind"] == EXPERT]
    assert experts[0] == {"name": "layers.0.moe.expert_0", "kind": EXPERT, "node": "layers.0.moe", "nodes": 0,
                          "params": H + 1 + 2 * INNER * H + INNER + H}  # fmt: skip
    assert call("prune", model, "--dry-run", "--ratio", 0.2, "--exclude", "*expert_0").exit_code == 0
    fails(call("prune", model, "--dry-run", "--ratio", 0.2, "--exclude", "*expert_9"), "matches no group")
    plan = tmp_path / "plan.json"
    a = onnxprune.analyze(model)
    Plan(compute_fingerprint(a.model), units=("layers.1.moe.expert_2",)).save(plan)
    shown = call("prune", model, "-o", tmp_path / "o.onnx", "--plan", plan, "--no-validate").stdout
    assert "1 expert removed: layers.1.moe.expert_2" in shown
