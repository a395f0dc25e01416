"""The plan within a fraction of the time: what is predicted is held against the clock, and the budget corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from onnxprune.allocate.budget import Budget, exclude_units, make_budget, make_time_budget
from onnxprune.allocate.cost import make_cost
from onnxprune.allocate.depth import SHARES
from onnxprune.allocate.plan_stage import PlanStage, plan_within
from onnxprune.allocate.shallower import rank_removable
from onnxprune.allocate.timing.prediction import learn_time_cost
from onnxprune.calibration import draw_batches
from onnxprune.errors import OnnxPruneError
from onnxprune.plans import Plan, read_units
from onnxprune.report.types import TimingReport
from onnxprune.settings.options import SEARCHED
from onnxprune.surgery import apply_plan
from onnxprune.validation.latency import Stopwatch

APPROACHES = 4  # budgets that are tried on the way to a time
THREADS = 1  # that time is measured with
NEAR = 0.01  # of the time that was asked for: plans that miss it by so much more are as good
FLAT = 0.1  # the least slope of time against a budget that is believed
FASTER, SLOWER = 0.97, 1.02  # of the time that --latency asks for, what the clock may say
FAR = 1.5  # of that time: where the clock says more than this of the fastest plan, the budget is refused


@dataclass(frozen=True)
class TimedPlan:
    """A plan, what was predicted and measured of its time, and how far that is from what was asked for."""

    plan: Plan
    report: TimingReport
    miss: float


def plan_within_latency(first: PlanStage, fraction: float) -> Plan:
    """The plan that a search within the predicted time makes; where the clock says another time, with another budget.

    Where errors are measured, a search within multiply-accumulates is tried as well, whatever time is predicted for it, and so are
    models with fewer residual branches: of those that are fast enough the best one on samples held out.
    """
    o, evaluator = first.c.options, first.sharing.evaluator
    model, table = first.c.analysis.model, evaluator.timings
    watch = Stopwatch(model, evaluator.batches or draw_batches(model, o.seed, 1))
    cost = learn_time_cost(first.c, watch.feeds, table, THREADS, o.seed, evaluator.stage_progress("time"))

    def time(plan: Plan) -> TimedPlan:
        took = table.get_or_measure(watch.key(plan), lambda: watch.ratio(apply_plan(first.c.analysis, plan)))
        left = cost.without(read_units(plan, first.c.analysis))
        report = TimingReport(cost.whole, left.of_plan(plan), cost.error, THREADS, table.digest, took)
        return TimedPlan(replace(plan, timings=table.digest), report, measure_miss(took, fraction))

    def of_time(asked: float) -> Budget:
        return make_time_budget(first.c, cost, asked)

    def of_macs(asked: float) -> Budget:
        return make_budget(first.c, "macs", asked)

    ways: list[Callable[[float], Plan]] = [lambda asked: plan_within(first, of_time(asked))]
    counted = make_cost(first.c.analysis, "macs") is not None
    if o.allocation in SEARCHED and evaluator.batches and counted:
        ways.append(lambda asked: plan_within(first, of_macs(asked), False))
    budget = of_macs if counted else of_time
    ranked = rank_removable(first, of_time(1.0))

    def shallower(asked: float, share: float) -> Plan:
        rest = first.without(ranked.take((1 - asked) * share))
        try:
            return plan_within(rest, exclude_units(budget(asked), rest.c), False)
        except OnnxPruneError:  # these branches have fewer of the multiply-accumulates than of the time
            return plan_within(rest, exclude_units(of_time(asked), rest.c), False)

    ways += [partial(shallower, share=share) for share in SHARES if ranked.branches]
    timed, errors = list[TimedPlan](), list[OnnxPruneError]()
    for way in ways:
        try:
            timed.append(approach_time(lambda asked, way=way: time(way(asked)), fraction))  # type: ignore[misc]
        except OnnxPruneError as e:  # this way does not lead there; another one may
            errors.append(e)
    if not timed:
        raise errors[0]
    least = min(t.miss for t in timed)
    near = [t for t in timed if t.report.measured <= fraction * SLOWER or t.miss <= least + NEAR]
    best = near[0] if len(near) == 1 else min(near, key=lambda t: evaluator.judge(t.plan).loss)
    evaluator.timing = best.report
    return best.plan


def approach_time(make: Callable[[float], TimedPlan], fraction: float) -> TimedPlan:
    """The plan that takes most nearly a fraction of the time, along a family of budgets: by secants, from the whole model on."""
    tried = list[TimedPlan]()
    asked, last = fraction, (1.0, 1.0)
    for _ in range(APPROACHES):
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


def measure_miss(took: float, asked: float) -> float:
    """The distance of a measured fraction of the time from the accepted range: slightly more, or somewhat less."""
    return max(took / asked - SLOWER, FASTER - took / asked, 0.0)
