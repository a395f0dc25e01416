"""Options become a plan: at once or in steps, by a ratio, within a budget, or as far as a limit lets it go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from onnxprune.allocate.budget import Budget, budget_of, budget_of_time, explain_rest, of_rest, of_smaller, relax
from onnxprune.allocate.cost import cost_of
from onnxprune.allocate.depth import SHARES, RankedBranches, find_branches, rank_branches
from onnxprune.allocate.evaluator import FOLDS, Evaluator
from onnxprune.allocate.polynomial import Ints
from onnxprune.allocate.ratios import by_ratio, by_threshold
from onnxprune.allocate.schedule import shares
from onnxprune.allocate.selection import Branch, Candidates, candidates
from onnxprune.allocate.sharing import Sharing
from onnxprune.allocate.timing.prediction import time_cost
from onnxprune.calibration import random_batches
from onnxprune.errors import OnnxPruneError
from onnxprune.free import Found, find_free, fold_all
from onnxprune.graph.save import saved_bytes
from onnxprune.groups import Analysis, analyze
from onnxprune.plans import Choice, Plan, fingerprint, read_units
from onnxprune.report.types import TimingReport
from onnxprune.settings.options import MEASURED, SEARCHED, Options
from onnxprune.surgery import apply_plan
from onnxprune.validation.latency import Stopwatch

HIGH_STEPS = 3  # of another plan that is tried with much effort
TRIES = 4  # a file may be some bytes larger than its weights say: names and shapes of copies
HALVINGS = 7
THREADS = 1  # that time is measured with
NO_LABELS = (
    "--max-drop: there are no labels beside --calib to measure accuracy with; give an array 'labels' there, or --metric"
)
LUCK = 0.5  # standard errors of a share that are left: the smallest of several good plans is often one that was lucky
NEAR = 0.01  # of the time that was asked for: plans that miss it by so much more are as good
FLAT = 0.1  # the least slope of time against a budget that is believed
FASTER, SLOWER = 0.97, 1.02  # of the time that --latency asks for, what the clock may say
FAR = 1.5  # of that time: where the clock says more than this of the fastest plan, the budget is refused


def make_plan(a: Analysis, options: Options, evaluator: Evaluator | None = None) -> Plan:
    """Score the chosen groups, share out what is to go among them, and say what stays of each; `options` are resolved.

    Raises OnnxPruneError for options that cannot be, and for a budget that is out of reach.
    """
    options.check()
    evaluator = evaluator or Evaluator(a)
    if options.max_drop is not None and evaluator.batches and evaluator.metric is None:
        raise OnnxPruneError(NO_LABELS)
    free_channels = evaluator.free = find_free(a)
    folded = a if options.only_free else fold_all(free_channels)
    evaluator.turn_to(folded)
    free = {name: f.all for name, f in free_channels.groups.items()}
    try:
        plan = _make(_Stage.of(folded, options, evaluator, free=free))
    finally:
        evaluator.turn_to(a)
        if evaluator.best is not None:  # what an interrupt leaves behind is for the model as it was given
            evaluator.best = mark_free(replace(evaluator.best, model=fingerprint(a.model)), free_channels)
    return mark_free(replace(plan, model=fingerprint(a.model)), free_channels)


def mark_free(plan: Plan, free_channels: Found) -> Plan:
    """A plan that says which of the removed channels are free."""

    def mark(name: str, choice: Choice) -> Choice:
        gone = np.setdiff1d(np.arange(choice.size), choice.keep)
        free = free_channels.groups[name].kinds() if name in free_channels.groups else {}
        kinds = {why: np.intersect1d(some, gone) for why, some in free.items()}
        reason = "; ".join(filter(None, (choice.reason, free_channels.notes.get(name, ""))))
        return replace(
            choice, reason=reason, free={why: tuple(some.tolist()) for why, some in kinds.items() if len(some)}
        )

    return replace(plan, groups={name: mark(name, choice) for name, choice in plan.groups.items()})


def _make(first: _Stage) -> Plan:
    """The plan that the options ask for."""
    options = first.c.options
    if options.limit is not None:
        return _as_far_as_limit(first)
    if options.threshold is not None:
        return first.by_threshold(options.threshold)
    if options.budget is None:
        return _in_steps(first, 1 - options.removed, lambda stage, share: stage.by_ratio(share))
    if options.latency is not None:
        return _within_latency(first, options.latency)
    return _within_best(first, budget_of(first.c, *options.budget))


@dataclass(frozen=True)
class _Stage:
    """A model that is to lose channels, be it the original or what earlier steps left of it."""

    c: Candidates
    sharing: Sharing

    @staticmethod
    def of(
        a: Analysis,
        options: Options,
        evaluator: Evaluator,
        done: Plan | None = None,
        first: _Stage | None = None,
        free: Mapping[str, Ints] = MappingProxyType({}),
    ) -> _Stage:
        statistics = evaluator.watch(a, options)
        c = candidates(a, options, statistics, evaluator.stage_progress("plan"), first.c if first else None, free)
        measured = done is not None and options.measures and options.allocation in MEASURED
        base = evaluator.comparer.of(a.model).error if measured else 0.0
        fitted = statistics if evaluator.repair != "none" else None
        return _Stage(c, Sharing(c, evaluator, base, done, fitted, first.sharing.heights if first else {}, statistics))

    def without(self, units: Sequence[Branch]) -> _Stage:
        """The same where these units go."""
        c = self.c.without(units)
        return _Stage(c, replace(self.sharing, c=c))

    def relax(self, budget: Budget) -> _Stage:
        """The same with fewer aligned groups, where the budget asks for it."""
        c = relax(self.c, budget)
        return self if c is self.c else _Stage(c, replace(self.sharing, c=c))

    def allocating(self, allocation: str) -> _Stage:
        """The same with another allocation."""
        return self._with(replace(self.c.options, allocation=allocation))

    def stepping(self, steps: int) -> _Stage:
        """The same with several steps."""
        return self._with(replace(self.c.options, steps=steps))

    def _with(self, options: Options) -> _Stage:
        c = replace(self.c, options=options)
        return _Stage(c, replace(self.sharing, c=c))

    def next(self, done: Plan) -> _Stage:
        """The model under a plan, with new scores; this one is the original."""
        evaluator = self.sharing.evaluator
        return _Stage.of(analyze(evaluator.make(done), evaluator.original.data), self.c.options, evaluator, done, self)

    def by_ratio(self, share: float) -> Plan:
        o = self.c.options
        local = "no channel of it is free" if o.only_free else "ratio {:g} of {} channels removes none"
        ranked = f"its channels rank above the others ({o.scope} scope)"
        return self.sharing.plan(
            by_ratio(self.c, o.scope, share)(o.removed),
            lambda g: local.format(o.removed, self.c.full[g.name]) if o.scope == "local" else ranked,
        )

    def by_threshold(self, threshold: float) -> Plan:
        return self.sharing.plan(
            by_threshold(self.c, threshold), lambda g: f"no channel of it scores below {threshold:g}"
        )

    def within(self, budget: Budget, last: bool) -> Plan:
        why = f"{self.c.options.asked.removeprefix('--')} leaves it whole"
        counts = self.sharing.counts(budget, last)
        return self.sharing.plan(counts, lambda g: why, explain_rest(self.c, counts, budget) if last else {})


def _in_steps(first: _Stage, rest: float, plan_of: Callable[[_Stage, float], Plan]) -> Plan:
    """A plan for the original, made by `plan_of(stage, share of all that is to go)` step by step; `rest` stays in the end."""
    o = first.c.options
    stage, done = first, None
    for share in shares(o.steps or 1, o.schedule or "linear", rest):
        if done is not None:
            stage = first.next(done)
        done = plan_of(stage, share)
    assert done is not None
    return done


def _within(first: _Stage, budget: Budget, final: bool = True) -> Plan:
    """The plan that an allocation makes of a budget, in less time where it is not final; bytes are looked at once more."""

    def step(stage: _Stage, share: float) -> Plan:
        done = stage.sharing.done
        rest = budget if done is None else of_smaller(budget, stage.c, done)
        return stage.within(replace(rest, fraction=1 - (1 - budget.fraction) * share), final and share == 1)

    plan = _in_steps(first.relax(budget), budget.fraction, step)
    for _ in range(TRIES if budget.kind == "bytes" else 0):
        over = saved_bytes(apply_plan(first.c.analysis, plan)) - budget.allowed
        if over <= 0:
            break
        budget = replace(budget, spare=budget.spare + int(over) + 1)
        plan = _in_steps(first.relax(budget), budget.fraction, step)
    return plan


def _within_best(first: _Stage, budget: Budget) -> Plan:
    """The plan within a budget; with much effort the best of several, on samples that are held out."""
    o, evaluator = first.c.options, first.sharing.evaluator
    if o.allocation in SEARCHED and evaluator.batches:
        with suppress(
            OnnxPruneError
        ):  # with ratios that groups have of their own, the search may reach what this does not
            evaluator.best = _within(first.allocating("uniform"), budget, final=False)
    evaluator.best = _within(first, budget)
    plans = [evaluator.best]
    if o.effort == "high" and o.allocation == "search" and o.steps == 1:
        plans.append(_within(first.stepping(HIGH_STEPS), budget))
    folds = FOLDS if o.effort == "high" else 1

    def measure(plan: Plan) -> float:
        return evaluator.judge(plan, folds).loss

    best = plans[0] if len(plans) == 1 else min(plans, key=measure)
    for rest in _with_fewer_branches(first, budget):
        try:
            plan = _within(rest, of_rest(budget, rest.c), final=False)
        except OnnxPruneError:  # where so much has gone, what is left may not be narrow enough
            continue
        if measure(plan) >= measure(best):  # without still more branches it would hardly be better
            break
        best = plan
    return best


def _with_fewer_branches(first: _Stage, budget: Budget) -> list[_Stage]:
    """The same model without the branches that save some shares of what a budget takes, fewest first."""
    ranked, to_go = _rank_branches(first, budget), 1 - budget.allowed / budget.whole
    sets = [ranked.take(to_go * share) for share in SHARES]
    return [first.without(units) for i, units in enumerate(sets) if units and units not in sets[:i]]


def _rank_branches(first: _Stage, budget: Budget) -> RankedBranches:
    """The residual branches that a budget may remove: none without data to rank them by."""
    o, evaluator = first.c.options, first.sharing.evaluator
    branches = find_branches(first.c.analysis, o) if o.has_depth and evaluator.batches else []
    if not branches:
        return RankedBranches((), {})
    measure = evaluator.quick_trials(len(branches))
    whole = Plan(fingerprint(first.c.analysis.model))

    def without(unit: Branch) -> float:
        return measure(replace(whole, units=(unit.name,)))

    return rank_branches(first.c, budget, branches, without, evaluator.stage_progress("depth"))


@dataclass(frozen=True)
class _Timed:
    """A plan, what was predicted and measured of its time, and how far that is from what was asked for."""

    plan: Plan
    report: TimingReport
    miss: float


def _within_latency(first: _Stage, fraction: float) -> Plan:
    """The plan that a search within the predicted time makes; where the clock says another time, with another budget.

    Where errors are measured, a search within multiply-accumulates is tried as well, whatever time is predicted for it, and so are
    models with fewer residual branches: of those that are fast enough the best one on samples held out.
    """
    o, evaluator = first.c.options, first.sharing.evaluator
    model, table = first.c.analysis.model, evaluator.timings
    watch = Stopwatch(model, evaluator.batches or random_batches(model, o.seed, 1))
    cost = time_cost(first.c, watch.feeds, table, THREADS, o.seed, evaluator.stage_progress("time"))

    def time(plan: Plan) -> _Timed:
        took = table.get_or_measure(watch.key(plan), lambda: watch.ratio(apply_plan(first.c.analysis, plan)))
        left = cost.without(read_units(plan, first.c.analysis))
        report = TimingReport(cost.whole, left.of_plan(plan), cost.error, THREADS, table.digest, took)
        return _Timed(replace(plan, timings=table.digest), report, _miss(took, fraction))

    def of_time(asked: float) -> Budget:
        return budget_of_time(first.c, cost, asked)

    def of_macs(asked: float) -> Budget:
        return budget_of(first.c, "macs", asked)

    ways: list[Callable[[float], Plan]] = [lambda asked: _within(first, of_time(asked))]
    counted = cost_of(first.c.analysis, "macs") is not None
    if o.allocation in SEARCHED and evaluator.batches and counted:
        ways.append(lambda asked: _within(first, of_macs(asked), False))
    budget = of_macs if counted else of_time
    ranked = _rank_branches(first, of_time(1.0))

    def shallower(asked: float, share: float) -> Plan:
        rest = first.without(ranked.take((1 - asked) * share))
        try:
            return _within(rest, of_rest(budget(asked), rest.c), False)
        except OnnxPruneError:  # these branches have fewer of the multiply-accumulates than of the time
            return _within(rest, of_rest(of_time(asked), rest.c), False)

    ways += [partial(shallower, share=share) for share in SHARES if ranked.branches]
    timed, errors = list[_Timed](), list[OnnxPruneError]()
    for way in ways:
        try:
            timed.append(_approach(lambda asked, way=way: time(way(asked)), fraction))  # type: ignore[misc]
        except OnnxPruneError as e:  # this way does not lead there; another one may
            errors.append(e)
    if not timed:
        raise errors[0]
    least = min(t.miss for t in timed)
    near = [t for t in timed if t.report.measured <= fraction * SLOWER or t.miss <= least + NEAR]
    best = near[0] if len(near) == 1 else min(near, key=lambda t: evaluator.judge(t.plan).loss)
    evaluator.timing = best.report
    return best.plan


def _approach(make: Callable[[float], _Timed], fraction: float) -> _Timed:
    """The plan that takes most nearly a fraction of the time, along a family of budgets: by secants, from the whole model on."""
    tried = list[_Timed]()
    asked, last = fraction, (1.0, 1.0)
    for _ in range(TRIES):
        try:
            tried.append(make(asked))
        except OnnxPruneError:  # the budget is out of reach
            if not any(t.report.measured <= fraction * FAR for t in tried):
                raise
            asked = (asked + last[0]) / 2  # the clock asked for more than there is: nearer to what was reached
            continue
        took = tried[-1].report.measured
        slope = (last[1] - took) / (last[0] - asked) if asked != last[0] else 0.0
        last, further = (asked, took), asked * fraction / took
        if slope > FLAT:
            further = asked + (fraction - took) / slope
        asked = min(1.0, max(further, asked / 2))
        if tried[-1].miss == 0 or asked == last[0]:
            break
    return min(tried, key=lambda t: t.miss)


def _miss(took: float, asked: float) -> float:
    """The distance of a measured fraction of the time from the accepted range: slightly more, or somewhat less."""
    return max(took / asked - SLOWER, FASTER - took / asked, 0.0)


def _is_within_limit(first: _Stage, plan: Plan) -> bool:
    """Is a plan as good on held-out samples as the limit asks? All samples are held out, part after part."""
    o, evaluator = first.c.options, first.sharing.evaluator
    judged = evaluator.judge(plan, FOLDS)
    if o.max_error is not None:
        return judged.relative_l2 is not None and judged.relative_l2 <= o.max_error
    if o.max_drop is not None:
        assert judged.metric is not None
        return judged.metric.before - judged.metric.after <= o.max_drop
    if judged.agreement is None:
        raise OnnxPruneError("--min-agreement: no output looks like class scores [N, C]; use --max-error")
    luck = LUCK * math.sqrt(judged.agreement * (1 - judged.agreement) / max(judged.rows or 1, 1))
    return judged.agreement - luck >= (o.min_agreement or 0.0)


def _as_far_as_limit(first: _Stage) -> Plan:
    """The smallest plan whose outputs are still good: by bisection on another budget."""
    budget = budget_of(first.c, "macs" if cost_of(first.c.analysis, "macs") else "params", 1.0)
    free = replace(first.c, aligned={})  # what is aligned is relaxed where the limit leaves room for less
    low, high = budget.of(free.smallest) / budget.whole, 1.0
    evaluator = first.sharing.evaluator
    best = first.c.plan(first.c.sizes, lambda g: "the limit leaves it whole")
    for at in range(HALVINGS):
        evaluator.progress("limit", at + 1, HALVINGS)
        middle = (low + high) / 2
        plan = _within(first, replace(budget, fraction=middle), final=False)
        good = _is_within_limit(first, plan)
        evaluator.best = plan if good else evaluator.best
        best = plan if good else best
        low, high = (low, middle) if good else (middle, high)
    return best
