"""Targets: which counts are fast where, and budgets that are met with such counts alone."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from test_cli import call
from tiny import model, tensor

import onnxprune
from onnxprune import Analysis, OnnxPruneError, Options, Plan, Sparsity
from onnxprune.allocate import make_cost, select_candidates
from onnxprune.allocate.align import find_multiples
from onnxprune.allocate.budget import fit, make_budget
from onnxprune.allocate.ratios import count_by_ratio
from onnxprune.cli.render.pruned import warn_no_faster
from onnxprune.report.types import Latency
from onnxprune.settings.options import TARGETS as NAMES
from onnxprune.targets import TARGETS, Layer
from onnxprune.targets.base import CONVOLUTIONS, MATRICES

MODELS = Path(__file__).parents[1] / "models"
CNN, RESNET, VIT = (MODELS / f"digits_{name}.onnx" for name in ("cnn", "resnet", "vit"))


def counts(plan: Plan) -> dict[str, int]:
    return {name: len(choice.keep) for name, choice in plan.groups.items()}


def macs_after(a: Analysis, kept: dict[str, int]) -> float:
    cost = make_cost(a, "macs")
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


def chain(*widths: int) -> onnxprune.Analysis:
    """Three convolutions, groups `a`, `b` and `c`, and a last one."""
    rng, sizes = np.random.default_rng(0), (3, *widths, 10)
    weights = {
        name: rng.normal(size=(n, m, 3, 3)).astype(np.float32)
        for name, m, n in zip("abcd", sizes, sizes[1:], strict=False)
    }
    values = "xpqry"
    nodes = [helper.make_node("Conv", [values[i], w], [values[i + 1]], w) for i, w in enumerate(weights)]
    made = model(nodes, [tensor("x", ["N", 3, 12, 12])], [tensor("y", ["N", 10, 4, 4])], weights)
    return onnxprune.analyze(made)


def test_every_name_is_a_target_and_says_how_it_is_known() -> None:
    assert set(NAMES) == set(TARGETS) and all(name == t.name for name, t in TARGETS.items())
    for t in TARGETS.values():
        assert t.evidence
        assert all(t.multiple(Layer(kind, "float32")) >= 1 for kind in CONVOLUTIONS | MATRICES)
        assert not t.int8 or TARGETS[t.int8].int8 == ""
    assert TARGETS["tensorrt"].multiple(Layer("matrix product", "int8")) == 16
    assert TARGETS["cpu"].multiple(Layer("matrix product", "float32")) == 1
    assert TARGETS["cpu"].multiple(Layer("convolution", "float32", depthwise=True)) == 8
    assert TARGETS["cpu"].multiple(Layer("convolution", "int8", depthwise=True)) == 16
    assert TARGETS["cpu-int8"].multiple(Layer("convolution", "float32", depthwise=True)) == 16


@pytest.mark.parametrize(("target", "by"), [("cpu", 8), ("cpu-avx512", 16), ("tensorrt", 8), ("none", None)])
def test_a_convolution_wants_the_block(target: str, by: int | None) -> None:
    a = convolutions(24)
    (group,) = a.groups
    assert find_multiples(a, TARGETS[target]).get(group.name) == by


def depthwise(width: int, quantized: bool) -> onnxprune.Analysis:
    """A convolution to `width` channels, a depthwise one, and one from them; in int8 their weights are dequantized."""
    rng = np.random.default_rng(0)
    shapes = {"a": (width, 3, 1, 1), "b": (width, 1, 3, 3), "c": (4, width, 1, 1)}
    weights = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    nodes = []
    if quantized:
        weights = {k: (30 * w).astype(np.int8) for k, w in weights.items()} | {"s": np.float32(0.1), "z": np.int8(0)}
        nodes = [helper.make_node("DequantizeLinear", [k, "s", "z"], [f"{k}_float"], f"dq_{k}") for k in shapes]
    of = {k: f"{k}_float" if quantized else k for k in shapes}
    nodes += [
        helper.make_node("Conv", ["x", of["a"]], ["h"], "first"),
        helper.make_node("Conv", ["h", of["b"]], ["d"], "second", group=width),
        helper.make_node("Conv", ["d", of["c"]], ["y"], "third"),
    ]
    weights = {k: np.asarray(w) for k, w in weights.items()}
    made = model(nodes, [tensor("x", ["N", 3, 8, 8])], [tensor("y", ["N", 4, 6, 6])], weights)
    return onnxprune.analyze(made)


@pytest.mark.parametrize(
    ("width", "quantized", "target", "by"),
    [
        (24, False, "cpu", 8),
        (32, False, "cpu", 16),  # a step of 16 is no more than half
        (24, True, "cpu", 16),  # int8 depthwise kernels take whole sixteens
        (24, False, "cpu-int8", 16),  # it will be int8
        (8, True, "cpu", 8),  # there is no sixteen to keep, but the other convolutions' eight
        (32, True, "none", None),
    ],
)
def test_depthwise_convolutions_in_int8_want_more(width: int, quantized: bool, target: str, by: int | None) -> None:
    a = depthwise(width, quantized)
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
    with pytest.raises(OnnxPruneError, match="remain even if every group keeps the least"):
        onnxprune.plan(a, macs=least / 2, target="cpu")


def test_round_to_overrides_the_target() -> None:
    kept = counts(onnxprune.plan(onnxprune.analyze(CNN), ratio=0.5, target="cpu", round_to=5))
    assert all(n % 5 == 0 or n == 32 for n in kept.values())


def test_the_command_line_has_it(tmp_path: Path) -> None:
    result = call("prune", CNN, "-o", tmp_path / "o.onnx", "--macs", 0.5, "--target", "cpu", "--no-validate")
    assert result.exit_code == 0 and "target cpu" in result.stdout
    wrong = call("prune", CNN, "-o", tmp_path / "o.onnx", "--target", "gpu")
    assert wrong.exit_code == 2 and "unknown target 'gpu'; choose one of cpu, cpu-avx512" in wrong.stderr


@pytest.mark.parametrize(
    ("more", "used"),
    [("", "cpu"), ('target = "none"', "none"), ("round_to = 4", "none"), ('then_sparsify = "2:4"', "tensorrt")],
)
def test_recipes_have_it(tmp_path: Path, more: str, used: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"models = ['{CNN.as_posix()}']\n[settings]\nmacs = 0.5\n{more}\n")
    result = call("prune", CNN, "--recipe", recipe, "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["options"]["target"] == used


def test_where_pruning_does_not_pay_a_warning_says_what_to_type() -> None:
    said = onnxprune.prune(CNN, macs=0.5, target="none", check=False).report
    clock = Latency(2e-3, 3e-3, 10, 1, ratio=2 / 3, low=0.6, high=0.7, verdict="slower", threads=1)
    slower, faster = (warn_no_faster(replace(said, latency=replace(clock, verdict=v))) for v in ("slower", "faster"))
    assert slower.endswith("any channel count was allowed; --target cpu keeps fast ones") and not faster
    aligned = onnxprune.prune(CNN, macs=0.5, check=False).report
    assert "--latency F" in warn_no_faster(replace(aligned, latency=clock)) and not warn_no_faster(aligned)
    tight = onnxprune.prune(CNN, macs=0.01, dry_run=True).report
    assert "a count that is slow on cpu; keep more, or --exclude" in warn_no_faster(tight)


def test_a_calibrated_budget_keeps_fast_counts() -> None:
    a = onnxprune.analyze(CNN)
    plan = onnxprune.plan(a, macs=0.5, target="cpu", calib=MODELS / "digits_calib.npz", samples=32)
    kept = counts(plan)
    assert all(n % 4 == 0 for n in kept.values()) and 0.4 < macs_after(a, kept) <= 0.5


def test_the_cpu_is_the_default_and_never_refuses_what_can_be_done() -> None:
    a = onnxprune.analyze(CNN)
    plan = onnxprune.plan(a, macs=0.5)
    assert plan == onnxprune.plan(a, macs=0.5, target="cpu") != onnxprune.plan(a, macs=0.5, target="none")
    by = find_multiples(a, TARGETS["cpu"])
    assert by and all(len(plan.groups[g].keep) % n == 0 for g, n in by.items())
    assert onnxprune.plan(a, macs=0.5, round_to=4) == onnxprune.plan(a, macs=0.5, round_to=4, target="none")
    narrow = convolutions(8)
    assert len(onnxprune.plan(narrow, macs=0.5).groups["a"].keep) == 4, "it has one block, which is freed"


def test_a_wide_group_is_halved_before_it_is_freed() -> None:
    a = convolutions(32)
    assert len(onnxprune.plan(a, macs=0.5).groups["a"].keep) == 16
    choice = onnxprune.plan(a, macs=0.3).groups["a"]
    assert len(choice.keep) == 8 and choice.reason.startswith(
        "the budget leaves no room for target cpu (multiples of 16)"
    )


def test_a_budget_that_is_left_over_names_the_count_that_does_not_fit() -> None:
    a = convolutions(48)
    choice = onnxprune.plan(a, macs=0.6).groups["a"]
    assert len(choice.keep) == 16 and choice.reason == "its next count, 32, would leave 0.667 of the MACs"


def test_what_is_left_over_goes_to_a_group_and_the_others_pay() -> None:
    """16 of each keep .41 of the MACs; where the second group keeps 32, and the first 8, half of them stay."""
    a = chain(16, 32, 32)
    kept = counts(onnxprune.plan(a, macs=0.5))
    assert all(kept[g] % n == 0 for g, n in find_multiples(a, TARGETS["cpu"]).items())
    assert 0.47 <= macs_after(a, kept) <= 0.5


def test_several_groups_of_one_block_share_what_a_budget_takes() -> None:
    plan = onnxprune.plan(chain(8, 8, 8), macs=0.5)
    assert counts(plan) == {"a": 4, "b": 4, "c": 8}, "freeing the first alone would leave one channel of it"
    assert any("leaves no room for target cpu" in c.reason for c in plan.groups.values())


@pytest.mark.parametrize("width", [8, 24, 40])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_budget_is_met_from_below_or_says_why(width: int, share: float) -> None:
    a = chain(8, width, 32)
    plan = onnxprune.plan(a, macs=share)
    used = macs_after(a, counts(plan))
    assert used <= share
    assert used >= share - 0.03 or any("its next count" in c.reason for c in plan.groups.values())


def test_a_small_model_loses_what_a_ratio_asks_for() -> None:
    """Groups of less than two blocks have no fast count to choose among."""
    assert counts(onnxprune.plan(chain(6, 8, 12), ratio=0.5)) == {"a": 3, "b": 4, "c": 6}


def test_a_limit_may_go_below_a_block() -> None:
    a = chain(8, 8, 8)
    x = np.random.default_rng(1).normal(size=(8, 3, 12, 12)).astype(np.float32)
    assert min(counts(onnxprune.plan(a, max_error=0.9, calib=[x], repair="none")).values()) < 8


def test_sharing_a_budget_takes_hardly_more_calls_for_more_groups() -> None:
    """What is done group by group is done in arrays."""
    calls = []
    for groups in (64, 256):
        c = select_candidates(matrices(groups), Options(macs=0.5, target="cpu"))
        budget = make_budget(c, "macs", 0.5)
        calls.append(count_calls(lambda c=c, budget=budget: fit(c, count_by_ratio(c, "local"), budget)))  # type: ignore[misc]
    assert calls[1] < 2 * calls[0], "four times as many groups"


def matrices(groups: int) -> onnxprune.Analysis:
    """A chain of matrix products, 16 wide."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(size=(16, 16)).astype(np.float32) for i in range(groups + 1)}
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(groups + 1)]
    return onnxprune.analyze(model(nodes, [tensor("x0", ["N", 16])], [tensor(f"x{groups + 1}", ["N", 16])], weights))


def count_calls(run: Callable[[], object]) -> int:
    """How many functions of Python are called."""
    called = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal called
        called += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return called


def test_sparse_models_are_for_tensorrt_unless_another_target_is_named() -> None:
    for target, used in ((None, "tensorrt"), ("cpu", "cpu")):
        said = onnxprune.prune(CNN, macs=0.5, target=target, sparsity=Sparsity("2:4"), dry_run=True).report
        assert said.options and said.options["target"] == used
        assert said.sparsity and said.sparsity.options["target"] == used
        assert all(g.kept % (g.multiple or 4) == 0 == g.kept % 4 for g in said.groups)
    said = onnxprune.prune(CNN, macs=0.5, sparsity=Sparsity("unstructured"), dry_run=True).report
    assert said.options and said.options["target"] == "cpu", "TensorRT has no kernels for that"


@pytest.mark.parametrize("target", NAMES)
def test_sparsify_takes_every_target(target: str) -> None:
    said = onnxprune.sparsify(CNN, pattern="2:4", target=target, check=False).report.sparsity
    assert said and said.options["target"] == target
    assert all((layer.likely is not None) == bool(TARGETS[target].sparse) for layer in said.layers)


@pytest.mark.parametrize(("target", "slow"), [("cpu", True), ("openvino", True), ("tensorrt", False), ("none", False)])
def test_sparsify_says_where_zeros_are_not_skipped(target: str, slow: bool) -> None:
    result = call("sparsify", CNN, "--dry-run", "--target", target)
    assert result.exit_code == 0
    assert (f"target {target} has no kernels for 2:4: the zeros make nothing faster there" in result.stdout) == slow
