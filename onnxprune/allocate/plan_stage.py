"""A model that is to lose channels, and its plans within a ratio or a budget, at once or in steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from onnxprune.allocate.budget import Budget, explain_rest, relax, rescale_budget
from onnxprune.allocate.evaluator import Evaluator
from onnxprune.allocate.polynomial import Ints
from onnxprune.allocate.ratios import count_by_ratio, count_by_threshold
from onnxprune.allocate.schedule import plan_shares
from onnxprune.allocate.selection import Branch, Candidates, select_candidates
from onnxprune.allocate.sharing import Sharing
from onnxprune.graph.save import count_saved_bytes
from onnxprune.groups import Analysis, analyze
from onnxprune.plans import Plan
from onnxprune.settings.options import MEASURED, Options
from onnxprune.surgery import apply_plan

TRIES = 4  # a file may be some bytes larger than its weights say: names and shapes of copies


@dataclass(frozen=True)
class PlanStage:
    """A model that is to lose channels, be it the original or what earlier steps left of it."""

    c: Candidates
    sharing: Sharing

    @staticmethod
    def of(
        a: Analysis,
        options: Options,
        evaluator: Evaluator,
        done: Plan | None = None,
        first: PlanStage | None = None,
        free: Mapping[str, Ints] = MappingProxyType({}),
    ) -> PlanStage:
        statistics = evaluator.watch(a, options)
        c = select_candidates(
            a, options, statistics, evaluator.stage_progress("plan"), first.c if first else None, free
        )
        measured = done is not None and options.measures and options.allocation in MEASURED
        base = evaluator.comparer.of(a.model).error if measured else 0.0
        fitted = statistics if evaluator.repair != "none" else None
        return PlanStage(
            c, Sharing(c, evaluator, base, done, fitted, first.sharing.heights if first else {}, statistics)
        )

    def without(self, units: Sequence[Branch]) -> PlanStage:
        """The same where these units go."""
        c = self.c.without(units)
        return PlanStage(c, replace(self.sharing, c=c))

    def relax(self, budget: Budget) -> PlanStage:
        """The same with fewer aligned groups, where the budget asks for it."""
        c = relax(self.c, budget)
        return self if c is self.c else PlanStage(c, replace(self.sharing, c=c))

    def allocating(self, allocation: str) -> PlanStage:
        """The same with another allocation."""
        return self._with(replace(self.c.options, allocation=allocation))

    def stepping(self, steps: int) -> PlanStage:
        """The same with several steps."""
        return self._with(replace(self.c.options, steps=steps))

    def _with(self, options: Options) -> PlanStage:
        c = replace(self.c, options=options)
        return PlanStage(c, replace(self.sharing, c=c))

    def next(self, done: Plan) -> PlanStage:
        """The model under a plan, with new scores; this one is the original."""
        evaluator = self.sharing.evaluator
        return PlanStage.of(
            analyze(evaluator.make(done), evaluator.original.data), self.c.options, evaluator, done, self
        )

    def by_ratio(self, share: float) -> Plan:
        o = self.c.options
        local = "no channel of it is free" if o.only_free else "ratio {:g} of {} channels removes none"
        ranked = f"its channels rank above the others ({o.scope} scope)"
        return self.sharing.plan(
            count_by_ratio(self.c, o.scope, share)(o.removed),
            lambda g: local.format(o.removed, self.c.full[g.name]) if o.scope == "local" else ranked,
        )

    def by_threshold(self, threshold: float) -> Plan:
        return self.sharing.plan(
            count_by_threshold(self.c, threshold), lambda g: f"no channel of it scores below {threshold:g}"
        )

    def within(self, budget: Budget, last: bool) -> Plan:
        why = f"{self.c.options.asked.removeprefix('--')} leaves it whole"
        counts = self.sharing.counts(budget, last)
        return self.sharing.plan(counts, lambda g: why, explain_rest(self.c, counts, budget) if last else {})


def plan_in_steps(first: PlanStage, rest: float, plan_of: Callable[[PlanStage, float], Plan]) -> Plan:
    """A plan for the original, made by `plan_of(stage, share of all that is to go)` step by step; `rest` stays in the end."""
    o = first.c.options
    stage, done = first, None
    for share in plan_shares(o.steps or 1, o.schedule or "linear", rest):
        if done is not None:
            stage = first.next(done)
        done = plan_of(stage, share)
    assert done is not None
    return done


def plan_within(first: PlanStage, budget: Budget, final: bool = True) -> Plan:
    """The plan that an allocation makes of a budget, in less time where it is not final; bytes are looked at once more."""

    def step(stage: PlanStage, share: float) -> Plan:
        done = stage.sharing.done
        rest = budget if done is None else rescale_budget(budget, stage.c, done)
        return stage.within(replace(rest, fraction=1 - (1 - budget.fraction) * share), final and share == 1)

    plan = plan_in_steps(first.relax(budget), budget.fraction, step)
    for _ in range(TRIES if budget.kind == "bytes" else 0):
        over = count_saved_bytes(apply_plan(first.c.analysis, plan)) - budget.allowed
        if over <= 0:
            break
        budget = replace(budget, spare=budget.spare + int(over) + 1)
        plan = plan_in_steps(first.relax(budget), budget.fraction, step)
    return plan
