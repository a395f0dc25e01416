"""Options become a plan."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.allocate.budget import Budget, budget_of, fit
from onnxprune.allocate.options import ALLOCATIONS, Options
from onnxprune.allocate.ratios import counts_at
from onnxprune.allocate.selection import Candidates, Progress, candidates
from onnxprune.graph.io import saved_bytes
from onnxprune.groups import Analysis
from onnxprune.plans import Plan
from onnxprune.surgery import apply_plan

TRIES = 4  # a file may be some bytes larger than its weights say: names and shapes of copies


def make_plan(a: Analysis, options: Options, progress: Progress | None = None) -> Plan:
    """Score the chosen groups, share out what is to go among them, and say what stays of each."""
    options.check()
    c = candidates(a, options, progress)
    scope = ALLOCATIONS.get(options.allocation or "", options.scope)
    if options.budget is None:
        return _by_ratio(c, options.ratio, scope)
    budget = budget_of(a, *options.budget)
    plan = _within(c, budget, scope)
    for _ in range(TRIES if budget.kind == "bytes" else 0):
        over = saved_bytes(apply_plan(a, plan)) - budget.fraction * budget.whole
        if over <= 0:
            break
        budget = replace(budget, constant=budget.constant + int(over) + 1)
        plan = _within(c, budget, scope)
    return plan


def _by_ratio(c: Candidates, ratio: float, scope: str) -> Plan:
    local = "ratio {:g} of {} channels removes none"
    ranked = f"its channels rank above the others ({scope} scope)"
    return c.plan(counts_at(c, ratio, scope), lambda g: local.format(ratio, g.size) if scope == "local" else ranked)


def _within(c: Candidates, budget: Budget, scope: str) -> Plan:
    counts = fit(c, lambda ratio: counts_at(c, ratio, scope), budget)
    return c.plan(counts, lambda g: f"{budget.kind} {budget.fraction:g} leaves it whole")
