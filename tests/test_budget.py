"""Budgets: what is asked for is what comes out, whatever else the options say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import CNN, call, fails

import onnxprune
from onnxprune import Analysis, OnnxPruneError, Options, Plan
from onnxprune.allocate import BUDGETS
from onnxprune.graph.io import saved_bytes

MODELS = Path(__file__).parents[1] / "models"


def left(analysis: Analysis, plan: Plan, kind: str) -> float:
    """The fraction that stays, counted on the pruned model."""
    smaller = onnxprune.apply(analysis, plan)
    if kind == "bytes":
        return saved_bytes(smaller) / analysis.model.size_bytes
    before, after = (getattr(a, kind)() for a in (analysis, onnxprune.analyze(smaller)))
    return float(after / before)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("kind", BUDGETS)
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
    with pytest.raises(OnnxPruneError, match=r"--params 1e-05: 0\.\d+ of the parameters stay even"):
        onnxprune.plan(onnxprune.analyze(CNN), params=1e-5)
    with pytest.raises(OnnxPruneError, match="loosen --max-ratio"):
        onnxprune.plan(onnxprune.analyze(CNN), macs=0.5, max_ratio=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": 0.5, "params": 0.5}, "macs and params: give one budget"),
        ({"macs": 0.0}, "fraction of them to keep"),
        ({"bytes": 1.5}, "fraction of them to keep"),
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
    fails(call("prune", CNN, "-o", out, "--macs", 0.5, "--ratio", 0.2), "a budget says how much goes", "--ratio")
    fails(call("prune", CNN, "-o", out, "--macs", 0.5, "--allocation", "global", "--scope", "local"), "--scope")
    fails(call("prune", CNN, "-o", out, "--bytes", 0.5, "--plan", "p.json"), "--plan already says", "--bytes")


def test_plans_grow_with_their_budgets() -> None:
    analysis = onnxprune.analyze(MODELS / "digits_resnet.onnx")
    for allocation in ("uniform", "global"):
        plans = [onnxprune.plan(analysis, macs=f, allocation=allocation) for f in (0.3, 0.5, 0.7, 0.9)]
        totals = [sum(len(c.keep) for c in p.groups.values()) for p in plans]
        assert np.all(np.diff(totals) > 0), totals
