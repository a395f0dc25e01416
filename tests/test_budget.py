"""Budgets: what is asked for is what comes out, whatever else the options say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_cli import CNN, call, fails
from test_cost import two_layers

import onnxprune
from onnxprune import Analysis, Choice, OnnxPruneError, Options, Plan
from onnxprune.allocate import COSTS, SCHEDULES, OutputComparer, make_shape_key, select_candidates
from onnxprune.allocate.ratios import count_by_ratio
from onnxprune.allocate.schedule import compose_plans, plan_shares
from onnxprune.calibration import draw_batches, list_input_specs, load_data
from onnxprune.criteria import normalize
from onnxprune.graph.save import count_saved_bytes
from onnxprune.measure import OutputShift
from onnxprune.validation.latency import Stopwatch

MODELS = Path(__file__).parents[1] / "models"


def left(analysis: Analysis, plan: Plan, kind: str) -> float:
    """The fraction that stays, counted on the pruned model."""
    smaller = onnxprune.apply(analysis, plan)
    if kind == "bytes":
        return count_saved_bytes(smaller) / analysis.model.size_bytes
    before, after = (getattr(a, kind)() for a in (analysis, onnxprune.analyze(smaller)))
    return float(after / before)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("fraction", [0.8, 0.4])
def test_a_budget_is_kept_and_nearly_used(kind: str, allocation: str, fraction: float) -> None:
    for name in ("digits_resnet", "digits_vit"):
        analysis = onnxprune.analyze(MODELS / f"{name}.onnx")
        plan = onnxprune.plan(analysis, allocation=allocation, **{kind: fraction})
        share = left(analysis, plan, kind)
        assert fraction - 0.05 < share <= fraction, (name, share)


def test_options_are_respected() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    for allocation in ("uniform", "global"):
        options = Options(
            macs=0.6,
            allocation=allocation,
            round_to=4,
            max_ratio=0.6,
            exclude=["stem.0"],
            group_ratio={"blocks.4.widen.0": 0.25},
        )
        plan = onnxprune.plan(analysis, options)
        kept = {name: len(c.keep) for name, c in plan.groups.items()}
        assert all(n % 4 == 0 or n == plan.groups[name].size for name, n in kept.items())
        assert all(n >= 0.4 * plan.groups[name].size - 1e-9 for name, n in kept.items())
        assert left(analysis, plan, "macs") <= 0.6
        assert (kept["stem.0"], kept["blocks.4.widen.0"]) == (24, 120)


def test_all_of_a_budget_removes_nothing() -> None:
    analysis = onnxprune.analyze(CNN)
    plan = onnxprune.plan(analysis, macs=1.0)
    assert all(len(c.keep) == c.size for c in plan.groups.values())


def test_a_budget_out_of_reach_is_an_error() -> None:
    with pytest.raises(OnnxPruneError, match=r"--params 1e-05: 0\.\d+ of the parameters remain even"):
        onnxprune.plan(onnxprune.analyze(CNN), params=1e-5)
    with pytest.raises(OnnxPruneError, match=r"or loosen --max-ratio$"):
        onnxprune.plan(onnxprune.analyze(CNN), macs=0.5, max_ratio=0.1)
    with pytest.raises(OnnxPruneError, match=r"^--macs 1e-05: .*; ask for more$"):  # not what a step asks
        onnxprune.plan(onnxprune.analyze(CNN), macs=1e-5, steps=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": 0.5, "params": 0.5}, "macs and params: give one"),
        ({"macs": 0.5, "max_error": 0.5}, "macs and max-error: give one"),
        ({"ratio": 0.5, "macs": 0.5}, "ratio and macs: give one"),
        ({"ratio": 0.5, "threshold": 0.1}, "ratio and threshold: give one"),
        ({"max_error": -1.0}, "relative L2 error, 0 or more"),
        ({"min_agreement": 2.0}, "fraction of samples with the same class"),
        ({"steps": 0}, "takes 1 to 1,000"),
        ({"steps": 10**21}, "takes 1 to 1,000"),
        ({"seed": -1}, "seed is -1"),
        ({"max_error": float("nan")}, "0 or more"),
        ({"steps": 2, "schedule": "sudden"}, "unknown schedule 'sudden'; choose one of linear, cubic, agp"),
        ({"macs": 0.0}, "fraction to keep"),
        ({"bytes": 1.5}, "fraction to keep"),
        ({"allocation": "global"}, "shares out a budget"),
        ({"macs": 0.5, "allocation": "fair"}, "unknown allocation 'fair'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(OnnxPruneError, match=said):
        onnxprune.plan(onnxprune.analyze(CNN), Options(**options))  # type: ignore[arg-type]


def test_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = call("prune", CNN, "-o", out, "--macs", 0.5, "--allocation", "global", "--no-validate")
    assert result.exit_code == 0, result.output
    assert "at most 0.5 of the macs, global allocation" in result.stdout
    before, after = (onnxprune.analyze(p).macs() for p in (CNN, out))
    assert before and after and after <= 0.5 * before
    fails(
        call("prune", CNN, "-o", out, "--macs", 0.5, "--ratio", 0.2), "ratio and macs: give one, each decides how much"
    )
    fails(call("prune", CNN, "-o", out, "--macs", 0.5, "--allocation", "global", "--scope", "local"), "--scope")
    fails(call("prune", CNN, "-o", out, "--bytes", 0.5, "--plan", "p.json"), "--plan already has", "--bytes")


def test_plans_grow_with_their_budgets() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    for allocation in ("uniform", "global"):
        plans = [onnxprune.plan(analysis, macs=f, allocation=allocation) for f in (0.3, 0.5, 0.7, 0.9)]
        totals = [sum(len(c.keep) for c in p.groups.values()) for p in plans]
        assert np.all(np.diff(totals) > 0), totals


@pytest.mark.parametrize("scope", ["global", "isomorphic"])
def test_channels_that_are_ranked_together_go_one_by_one_down_to_the_cap(scope: str) -> None:
    options = Options(ratio=0.5, scope=scope, max_ratio=0.6, group_ratio={"last.0": 0.25})
    c = select_candidates(onnxprune.analyze(MODELS / "digits_resnet.onnx"), options)
    at_of, left = c.analysis.at_of, c.sizes.copy()
    scores = normalize(dict(c.scores), options.normalize)
    pools = {(g.name in c.own, make_shape_key(g) if scope == "isomorphic" else None) for g in c.groups}
    for own, shape in pools:
        pool = [g for g in c.groups if (g.name in c.own) is own and shape in (None, make_shape_key(g))]
        due = int(sum(g.size for g in pool) * (0.25 if own else 0.5))
        for _, name in sorted((s, g.name) for g in pool for s in scores[g.name]):
            if due and left[at_of[name]] > c.least[at_of[name]]:
                left[at_of[name]] -= 1
                due -= 1
    assert (left == c.least).any() and count_by_ratio(c, scope)(0.5).tolist() == left.tolist()


# limits


def moved(analysis: Analysis, plan: Plan, comparer: OutputComparer) -> OutputShift:
    return comparer.of(onnxprune.apply(analysis, plan))


def test_the_smallest_model_within_an_error_or_an_agreement() -> None:
    analysis = onnxprune.analyze(CNN)
    comparer = OutputComparer(
        analysis, load_data(MODELS / "digits_calib.npz", list_input_specs(analysis.model.proto)), samples=32
    )
    for allocation in ("uniform", "search"):
        sizes = []
        for limit in (0.1, 0.5):
            plan = onnxprune.plan(
                analysis, max_error=limit, allocation=allocation, calib=comparer.feeds, repair="none", target="none"
            )
            error = moved(analysis, plan, comparer).relative_l2
            assert error is not None and 0 < error <= limit
            sizes.append(sum(len(c.keep) for c in plan.groups.values()))
        assert sizes[1] < sizes[0] < sum(g.size for g in analysis.groups)
    plan = onnxprune.plan(analysis, min_agreement=0.9, calib=comparer.feeds, repair="none")
    share = moved(analysis, plan, comparer).agreement
    assert share is not None and share >= 0.9
    assert left(analysis, plan, "macs") < 0.9


def test_a_stopwatch_compares_a_model_with_itself() -> None:
    model = onnxprune.load(CNN)
    assert 0 < Stopwatch(model, draw_batches(model, 0)).ratio(model) < 100


def test_limits_need_data(tmp_path: Path) -> None:
    fails(call("prune", CNN, "-o", tmp_path / "o.onnx", "--max-error", 0.1), "give some with --calib")
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(OnnxPruneError, match="looks like class scores"):
        onnxprune.plan(conv_only(), min_agreement=0.9, allocation="uniform", calib=[{"x": x}])


def conv_only() -> onnx.ModelProto:
    """x [N, 4] -> 8 -> y [N, 3, 1]: no class scores."""
    proto = two_layers("")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3, 1]), "shape"))
    proto.graph.node[-1].output[0] = "flat"
    proto.graph.node.append(helper.make_node("Reshape", ["flat", "shape"], ["y"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1]))
    return proto


# steps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_reach_what_one_step_would(schedule: str) -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    for scope in ("local", "global"):
        options = Options(
            ratio=0.5, scope=scope, group_ratio={"last.0": 0.25}, exclude=["stem.0"], max_ratio=0.7, target="none"
        )
        once = onnxprune.plan(analysis, options)
        twice = onnxprune.plan(analysis, replace(options, steps=3, schedule=schedule))
        kept = [[len(p.groups[g.name].keep) for g in analysis.groups] for p in (once, twice)]
        assert kept[0] == kept[1] if scope == "local" else sum(kept[0]) == sum(kept[1])
        assert any(once.groups[n].keep != twice.groups[n].keep for n in once.groups), "nothing was scored again"
        assert len(twice.groups["stem.0"].keep) == 24 and len(twice.groups["last.0"].keep) == 96
        onnxprune.apply(analysis, twice)


@pytest.mark.parametrize("kind", COSTS)
def test_steps_end_within_the_budget(kind: str) -> None:
    analysis = onnxprune.analyze(MODELS / "digits_vit.onnx")
    plan = onnxprune.plan(analysis, steps=3, schedule="agp", allocation="global", **{kind: 0.5})
    assert 0.45 < left(analysis, plan, kind) <= 0.5


def test_a_group_that_is_down_to_one_channel_stays_there() -> None:
    analysis = onnxprune.analyze(CNN)
    plan = onnxprune.plan(analysis, ratio=0.999, steps=3, max_ratio=0.999, target="none")
    assert all(len(c.keep) == 1 for c in plan.groups.values())


def test_groups_that_a_step_joins_stay_as_it_left_them() -> None:
    """With one head left, its features take the name of both."""
    analysis = onnxprune.analyze(MODELS / "digits_vit.onnx")
    for macs, target in ((0.02, "cpu"), (0.05, "tensorrt")):  # the second one with a multiple for the features
        plan = onnxprune.plan(analysis, macs=macs, steps=6, schedule="geometric", allocation="uniform", target=target)
        assert set(plan.groups) == set(analysis.by_name) and left(analysis, plan, "macs") <= macs


def test_schedules() -> None:
    assert plan_shares(4, "linear", 0.5) == [0.25, 0.5, 0.75, 1.0]
    assert plan_shares(2, "cubic", 0.5) == [0.125, 1.0] and plan_shares(2, "agp", 0.5) == [0.875, 1.0]
    assert plan_shares(2, "geometric", 0.25) == pytest.approx([2 / 3, 1.0])


def test_plans_are_composed() -> None:
    first = Plan("m", {"g": Choice(6, (1, 3, 5), "a"), "h": Choice(2, (0, 1))})
    both = compose_plans(first, Plan("n", {"g": Choice(3, (2, 0), "b")}))
    assert both == Plan("m", {"g": Choice(6, (5, 1), "b"), "h": Choice(2, (0, 1))})


def test_a_search_may_reach_what_one_ratio_does_not() -> None:
    """Groups with ratios of their own are free for the search: its fallback plan for an interruption must not refuse the budget."""
    data = {"image": np.load(MODELS / "digits_calib.npz")["image"][:16]}
    asked = {"macs": 0.2, "group_ratio": {"conv2": 0.0, "conv3": 0.0}, "calib": data}
    with pytest.raises(OnnxPruneError, match="loosen --group-ratio"):
        onnxprune.plan(MODELS / "digits_cnn.onnx", allocation="uniform", **asked)  # type: ignore[arg-type]
    assert onnxprune.plan(MODELS / "digits_cnn.onnx", **asked).groups  # type: ignore[arg-type]
