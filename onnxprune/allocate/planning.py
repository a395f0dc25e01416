"""Options become a plan: at once or in steps, by a ratio, within a budget, or as far as a limit lets it go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxprune.allocate.budget import Budget, budget_of, of_smaller
from onnxprune.allocate.cost import cost_of
from onnxprune.allocate.latency import Stopwatch
from onnxprune.allocate.options import Options
from onnxprune.allocate.ratios import counts_at
from onnxprune.allocate.selection import Candidates, candidates
from onnxprune.allocate.sharing import Means, Sharing
from onnxprune.allocate.steps import composed, shares
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.io import Model, saved_bytes
from onnxprune.groups import Analysis, analyze
from onnxprune.plans import Plan
from onnxprune.surgery import apply_plan
from onnxprune.validation.data import input_specs, random_inputs

TRIES = 4  # a file may be some bytes larger than its weights say: names and shapes of copies
HALVINGS = 7


def make_plan(a: Analysis, options: Options, means: Means | None = None) -> Plan:
    """Score the chosen groups, share out what is to go among them, and say what stays of each.

    Raises OnnxPruneError for options that cannot be, and for a budget that is out of reach.
    """
    options.check()
    means = means or Means()
    first = _Stage.of(a, options, means)
    if options.limit is not None:
        return _as_far_as(first, _limit(first))
    if options.budget is None:
        return _in_steps(first, lambda stage, share: stage.by_ratio(share))
    return _within(first, budget_of(a, *options.budget))


@dataclass(frozen=True)
class _Stage:
    """A model that is to lose channels, be it the original or what earlier steps left of it."""

    c: Candidates
    sharing: Sharing
    means: Means

    @staticmethod
    def of(a: Analysis, options: Options, means: Means, first: _Stage | None = None, base: float = 0.0) -> _Stage:
        c = candidates(a, options, means.progress("plan"), first.c if first else None)
        return _Stage(c, Sharing(c, means, base), means)

    def next(self, plan: Plan) -> _Stage:
        """What a plan for this model leaves of it, scored again."""
        model = self.means.make(self.c.analysis, plan)
        base = self.means.judge.of(model).error if self.means.judge and self.c.options.measures else 0.0
        return _Stage.of(analyze(model), self.c.options, self.means, self, base)

    def by_ratio(self, share: float) -> Plan:
        o = self.c.options
        local = "ratio {:g} of {} channels removes none"
        ranked = f"its channels rank above the others ({o.scope} scope)"
        return self.c.plan(
            counts_at(self.c, o.ratio, o.scope, share),
            lambda g: local.format(o.ratio, self.c.full[g.name]) if o.scope == "local" else ranked,
        )

    def within(self, budget: Budget, refine: bool = True) -> Plan:
        counts = self.sharing.refined(budget) if refine else self.sharing.counts(budget)
        return self.c.plan(counts, lambda g: f"{budget.kind} {budget.fraction:g} leaves it whole")


def _in_steps(first: _Stage, plan_of: Callable[[_Stage, float], Plan]) -> Plan:
    """One plan for the original, made by `plan_of(stage, share of all that is to go)` step by step."""
    o = first.c.options
    stage, done = first, None
    for share in shares(o.steps, o.schedule):
        if done is not None:
            stage = first.next(done)
        plan = plan_of(stage, share)
        done = plan if done is None else composed(done, plan)
    assert done is not None
    return done


def _within(first: _Stage, budget: Budget, refine: bool = True) -> Plan:
    """The plan that an allocation makes of a budget; the bytes of a file are looked at once more."""

    def step(stage: _Stage, share: float) -> Plan:
        mine = budget if stage is first else of_smaller(budget, stage.c.analysis)
        return stage.within(replace(mine, fraction=1 - (1 - budget.fraction) * share), refine)

    plan = _in_steps(first, step)
    for _ in range(TRIES if budget.kind == "bytes" else 0):
        over = saved_bytes(apply_plan(first.c.analysis, plan)) - budget.allowed
        if over <= 0:
            break
        budget = replace(budget, spare=budget.spare + int(over) + 1)
        plan = _in_steps(first, step)
    return plan


def _limit(first: _Stage) -> Callable[[Model], bool]:
    """Is a model what --latency, --max-error or --min-agreement asks for?"""
    o, judge = first.c.options, first.means.judge
    if o.latency is not None:
        model = first.c.analysis.model
        feeds = judge.feeds[0] if judge else random_inputs(input_specs(model.proto), seed=o.seed, batch=1)[0]
        watch, most = Stopwatch(model, feeds), o.latency
        return lambda smaller: watch.ratio(smaller) <= most
    if judge is None:
        raise OnnxPruneError("--max-error and --min-agreement are measured on calibration data; give some with --calib")
    if o.max_error is not None:
        worst = o.max_error
        return lambda smaller: (judge.of(smaller).relative_l2 or 0.0) <= worst
    least = o.min_agreement or 0.0
    return lambda smaller: _agreement(judge.of(smaller).agreement) >= least


def _agreement(share: float | None) -> float:
    if share is None:
        raise OnnxPruneError("--min-agreement: no output looks like class scores [N, C]; use --max-error")
    return share


def _as_far_as(first: _Stage, within: Callable[[Model], bool]) -> Plan:
    """The smallest plan whose outputs are still good, or the largest that is fast: by bisection on another budget."""
    a, o = first.c.analysis, first.c.options
    budget = budget_of(a, "macs" if cost_of(a, "macs") else "params", 1.0)
    smallest = {g.name: range(first.c.settle(g, 1)[0]) for g in first.c.groups}
    low, high = budget.of(smallest) / budget.whole, 1.0
    larger = o.latency is not None  # where a plan is what is asked for: look for a larger one, or for a smaller?
    whole = first.c.plan({g.name: g.size for g in first.c.groups}, lambda g: "the limit leaves it whole")
    best = None if larger else whole
    for at in range(HALVINGS):
        first.means.tell("limit", at + 1, HALVINGS)
        middle = (low + high) / 2
        plan = _within(first, replace(budget, fraction=middle), refine=False)
        good = within(first.means.make(a, plan))
        best = plan if good else best
        low, high = (middle, high) if good == larger else (low, middle)
    if best is None:
        raise OnnxPruneError(f"--latency {o.latency:g}: no plan that was tried is that fast; ask for less speed")
    return best
