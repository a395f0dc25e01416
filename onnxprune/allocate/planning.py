"""Options become a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxprune.allocate.budget import Budget, budget_of, fit, out_of_reach
from onnxprune.allocate.error import Judge
from onnxprune.allocate.netadapt import netadapt
from onnxprune.allocate.options import MEASURED, Options
from onnxprune.allocate.ratios import counts_at
from onnxprune.allocate.search import cheapest, refine, tolerant
from onnxprune.allocate.selection import Candidates, Counts, Progress, candidates
from onnxprune.allocate.tables import Cache, curves, measure
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import saved_bytes
from onnxprune.groups import Analysis
from onnxprune.plans import Plan
from onnxprune.surgery import apply_plan

TRIES = 4  # a file may be some bytes larger than its weights say: names and shapes of copies
Tell = Callable[[str, int, int], None]  # stage, steps done, steps in all


@dataclass(frozen=True)
class Means:
    """What planning may use beside the model: calibration data, and measurements that were made before."""

    judge: Judge | None = None
    cache: Cache | None = None
    tell: Tell = lambda stage, done, of: None

    def progress(self, stage: str) -> Progress:
        return lambda done, of: self.tell(stage, done, of)


def make_plan(a: Analysis, options: Options, means: Means | None = None) -> Plan:
    """Score the chosen groups, share out what is to go among them, and say what stays of each.

    Raises OnnxPruneError for options that cannot be, and for a budget that is out of reach.
    """
    options.check()
    means = means or Means()
    c = candidates(a, options, means.progress("plan"))
    if options.budget is None:
        return _by_ratio(c, options.ratio, options.scope)
    budget = budget_of(a, *options.budget)
    share = _sharing(c, means)
    plan = _within(c, budget, share)
    for _ in range(TRIES if budget.kind == "bytes" else 0):
        over = saved_bytes(apply_plan(a, plan)) - budget.fraction * budget.whole
        if over <= 0:
            break
        budget = replace(budget, constant=budget.constant + int(over) + 1)
        plan = _within(c, budget, share)
    return plan


def _by_ratio(c: Candidates, ratio: float, scope: str) -> Plan:
    local = "ratio {:g} of {} channels removes none"
    ranked = f"its channels rank above the others ({scope} scope)"
    return c.plan(counts_at(c, ratio, scope), lambda g: local.format(ratio, g.size) if scope == "local" else ranked)


def _within(c: Candidates, budget: Budget, share: Callable[[Budget], Counts]) -> Plan:
    return c.plan(share(budget), lambda g: f"{budget.kind} {budget.fraction:g} leaves it whole")


def _sharing(c: Candidates, means: Means) -> Callable[[Budget], Counts]:
    """How the groups share a budget: a function from budgets to counts. Whatever is measured is measured once."""
    how = c.options.allocation or ("search" if means.judge else None)
    if how is None or how not in MEASURED:
        scope = {"uniform": "local", "global": "global"}.get(how or "", c.options.scope)
        return lambda budget: fit(c, lambda ratio: counts_at(c, ratio, scope), budget)
    judge = means.judge
    if judge is None:
        raise OnnxPruneError(f"--allocation {how} measures errors on calibration data; give some with --calib")

    def error(counts: Counts) -> float:
        return judge.of_plan(c.analysis, c.plan(counts, lambda g: "")).error

    if how == "netadapt":
        return lambda budget: netadapt(c, budget, error, means.progress("search"))
    curve = curves(measure(c, judge, cache=means.cache, progress=means.progress("measure")))
    if how == "sensitivity":
        return lambda budget: fit(c, tolerant(c, curve), budget)

    def search(budget: Budget) -> Counts:
        found = cheapest(c, curve, budget)
        if found is None:
            raise out_of_reach(c, budget)
        return refine(c, curve, budget, found, error, means.progress("search"))

    return search
