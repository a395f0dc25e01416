"""Plans with fewer residual branches beside those with all of them."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.allocate.budget import Budget
from onnxprune.allocate.depth import SHARES, RankedBranches, find_branches, rank_branches
from onnxprune.allocate.plan_stage import PlanStage
from onnxprune.allocate.selection import Branch
from onnxprune.plans import Plan, compute_fingerprint


def list_shallower(first: PlanStage, budget: Budget) -> list[PlanStage]:
    """The same model without the branches that save some shares of what a budget takes, fewest first."""
    ranked, to_go = rank_removable(first, budget), 1 - budget.allowed / budget.whole
    sets = [ranked.take(to_go * share) for share in SHARES]
    return [first.without(units) for i, units in enumerate(sets) if units and units not in sets[:i]]


def rank_removable(first: PlanStage, budget: Budget) -> RankedBranches:
    """The residual branches that a budget may remove: none without data to rank them by."""
    o, evaluator = first.c.options, first.sharing.evaluator
    branches = find_branches(first.c.analysis, o) if o.has_depth and evaluator.batches else []
    if not branches:
        return RankedBranches((), {})
    measure = evaluator.quick_trials(len(branches))
    whole = Plan(compute_fingerprint(first.c.analysis.model))

    def without(unit: Branch) -> float:
        return measure(replace(whole, units=(unit.name,)))

    return rank_branches(first.c, budget, branches, without, evaluator.stage_progress("depth"))
