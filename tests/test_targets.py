"""Targets: which counts are fast where, and budgets that are met with such counts alone."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from test_cli import call
from tiny import model, tensor

import onnxprune
from onnxprune import Analysis, OnnxPruneError, Plan
from onnxprune.allocate import cost_of
from onnxprune.allocate.align import find_multiples
from onnxprune.settings.options import TARGETS as NAMES
from onnxprune.targets import TARGETS
from onnxprune.targets.base import CONVOLUTIONS, MATRICES

MODELS = Path(__file__).parents[1] / "models"
CNN, RESNET, VIT = (MODELS / f"digits_{name}.onnx" for name in ("cnn", "resnet", "vit"))


def counts(plan: Plan) -> dict[str, int]:
    return {name: len(choice.keep) for name, choice in plan.groups.items()}


def macs_after(a: Analysis, kept: dict[str, int]) -> float:
    cost = cost_of(a, "macs")
    assert cost is not None
    return cost.of({g.name: range(kept[g.name]) for g in a.groups}) / cost.whole


def convolutions(width: int, after: int = 16) -> onnxprune.Analysis:
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(width, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=(after, width, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "first"),
        helper.make_node("Conv", ["h", "b"], ["y"], "second"),
    ]
    made = model(nodes, [tensor("x", ["N", 3, 8, 8])], [tensor("y", ["N", after, 4, 4])], weights)
    return onnxprune.analyze(made)


def test_every_name_is_a_target_and_says_how_it_is_known() -> None:
    assert set(NAMES) == set(TARGETS) and all(name == t.name for name, t in TARGETS.items())
    for t in TARGETS.values():
        assert t.evidence
        assert all(t.multiple(kind, "float32") >= 1 for kind in CONVOLUTIONS | MATRICES)
    assert TARGETS["tensorrt"].multiple("matrix product", "int8") == 16
    assert TARGETS["cpu"].multiple("matrix product", "float32") == 1


@pytest.mark.parametrize(("target", "by"), [("cpu", 8), ("cpu-avx512", 16), ("tensorrt", 8), ("none", None)])
def test_a_convolution_wants_the_block(target: str, by: int | None) -> None:
    a = convolutions(24)
    (group,) = a.groups
    assert find_multiples(a, TARGETS[target]).get(group.name) == by


def test_a_group_below_the_block_is_free() -> None:
    a = convolutions(6)
    assert find_multiples(a, TARGETS["cpu"]) == {}
    assert counts(onnxprune.plan(a, ratio=0.5, target="cpu")) == {"a": 3}


def test_heads_make_blocks_together() -> None:
    """4 heads of 16: whole blocks whatever stays; of their features 2 in each head make 8."""
    found = find_multiples(onnxprune.analyze(VIT), TARGETS["tensorrt"])
    assert found["blocks.0.attn.qkv:head_features"] == 2 and "blocks.0.attn.qkv:heads" not in found
    assert found["blocks.0.mlp.fc1"] == 8


@pytest.mark.parametrize("path", [CNN, RESNET])
@pytest.mark.parametrize("share", [0.5, 0.25])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_only_fast_counts_are_kept_and_no_more_fits(path: Path, share: float, allocation: str) -> None:
    a = onnxprune.analyze(path)
    kept = counts(onnxprune.plan(a, macs=share, target="cpu", allocation=allocation))
    by = find_multiples(a, TARGETS["cpu"])
    assert all(kept[g.name] % by[g.name] == 0 or kept[g.name] == g.size for g in a.groups)
    used = macs_after(a, kept)
    assert used <= share
    most = counts(onnxprune.plan(a, macs=share, allocation=allocation))
    assert used >= 0.9 * macs_after(a, most)


def test_a_ratio_is_rounded_up_and_said() -> None:
    plan = onnxprune.plan(convolutions(24), ratio=0.5, target="cpu")
    assert counts(plan) == {"a": 16}
    assert plan.groups["a"].reason == "target cpu (multiples of 8) keeps 16 instead of 12"


def test_a_budget_in_reach_without_a_target_is_never_refused() -> None:
    a = onnxprune.analyze(RESNET)
    least = macs_after(a, {g.name: 1 for g in a.groups})
    share = 1.5 * least
    kept = counts(onnxprune.plan(a, macs=share))
    plan = onnxprune.plan(a, macs=share, target="cpu")
    assert macs_after(a, kept) <= share and macs_after(a, counts(plan)) <= share
    said = [name for name, c in plan.groups.items() if "leaves no room for target cpu" in c.reason]
    free = [g.name for g in a.groups if counts(plan)[g.name] % 8]
    assert said and set(free) <= {*said, *(g.name for g in a.groups if counts(plan)[g.name] == g.size)}
    with pytest.raises(OnnxPruneError, match="stay even where every group keeps as little as it may"):
        onnxprune.plan(a, macs=least / 2, target="cpu")


def test_round_to_overrides_the_target() -> None:
    kept = counts(onnxprune.plan(onnxprune.analyze(CNN), ratio=0.5, target="cpu", round_to=5))
    assert all(n % 5 == 0 or n == 32 for n in kept.values())


def test_the_command_line_has_it(tmp_path: Path) -> None:
    result = call("prune", CNN, "-o", tmp_path / "o.onnx", "--macs", 0.5, "--target", "cpu", "--no-validate")
    assert result.exit_code == 0 and "target cpu" in result.stdout
    wrong = call("prune", CNN, "-o", tmp_path / "o.onnx", "--target", "gpu")
    assert wrong.exit_code == 2 and "unknown target 'gpu'; choose one of cpu, cpu-avx512" in wrong.stderr


def test_a_calibrated_budget_keeps_fast_counts() -> None:
    a = onnxprune.analyze(CNN)
    plan = onnxprune.plan(a, macs=0.5, target="cpu", calib=MODELS / "digits_calib.npz", samples=32)
    kept = counts(plan)
    assert all(n % 8 == 0 for n in kept.values()) and 0.4 < macs_after(a, kept) <= 0.5
