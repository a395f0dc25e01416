"""Options become a plan: at once or in steps, by a ratio, within a budget, or as far as a limit lets it go."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np

from onnxprune.allocate.budget import Budget, exclude_units, make_budget
from onnxprune.allocate.cost import make_cost
from onnxprune.allocate.evaluator import FOLDS, Evaluator
from onnxprune.allocate.latency_plan import plan_within_latency
from onnxprune.allocate.plan_stage import PlanStage, plan_in_steps, plan_within
from onnxprune.allocate.shallower import list_shallower
from onnxprune.errors import OnnxPruneError
from onnxprune.free import Found, find_free, fold_all
from onnxprune.groups import Analysis
from onnxprune.plans import Choice, Plan, compute_fingerprint
from onnxprune.settings.options import SEARCHED, Options

HIGH_STEPS = 3  # of another plan that is tried with much effort
HALVINGS = 7
NO_LABELS = (
    "--max-drop: there are no labels beside --calib to measure accuracy with; give an array 'labels' there, or --metric"
)
LUCK = 0.5  # standard errors of a share that are left: the smallest of several good plans is often one that was lucky


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
        plan = _make(PlanStage.of(folded, options, evaluator, free=free))
    finally:
        evaluator.turn_to(a)
        if evaluator.best is not None:  # what an interrupt leaves behind is for the model as it was given
            evaluator.best = mark_free(replace(evaluator.best, model=compute_fingerprint(a.model)), free_channels)
    return mark_free(replace(plan, model=compute_fingerprint(a.model)), free_channels)


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


def _make(first: PlanStage) -> Plan:
    """The plan that the options ask for."""
    options = first.c.options
    if options.limit is not None:
        return _as_far_as_limit(first)
    if options.threshold is not None:
        return first.by_threshold(options.threshold)
    if options.budget is None:
        return plan_in_steps(first, 1 - options.removed, lambda stage, share: stage.by_ratio(share))
    if options.latency is not None:
        return plan_within_latency(first, options.latency)
    return _within_best(first, make_budget(first.c, *options.budget))


def _within_best(first: PlanStage, budget: Budget) -> Plan:
    """The plan within a budget; with much effort the best of several, on samples that are held out."""
    o, evaluator = first.c.options, first.sharing.evaluator
    if o.allocation in SEARCHED and evaluator.batches:
        with suppress(
            OnnxPruneError
        ):  # with ratios that groups have of their own, the search may reach what this does not
            evaluator.best = plan_within(first.allocating("uniform"), budget, final=False)
    evaluator.best = plan_within(first, budget)
    plans = [evaluator.best]
    if o.effort == "high" and o.allocation == "search" and o.steps == 1:
        plans.append(plan_within(first.stepping(HIGH_STEPS), budget))
    folds = FOLDS if o.effort == "high" else 1

    def measure(plan: Plan) -> float:
        return evaluator.judge(plan, folds).loss

    best = plans[0] if len(plans) == 1 else min(plans, key=measure)
    for rest in list_shallower(first, budget):
        try:
            plan = plan_within(rest, exclude_units(budget, rest.c), final=False)
        except OnnxPruneError:  # where so much has gone, what is left may not be narrow enough
            continue
        if measure(plan) >= measure(best):  # without still more branches it would hardly be better
            break
        best = plan
    return best


def _is_within_limit(first: PlanStage, plan: Plan) -> bool:
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


def _as_far_as_limit(first: PlanStage) -> Plan:
    """The smallest plan whose outputs are still good: by bisection on another budget."""
    budget = make_budget(first.c, "macs" if make_cost(first.c.analysis, "macs") else "params", 1.0)
    free = replace(first.c, aligned={})  # what is aligned is relaxed where the limit leaves room for less
    low, high = budget.of(free.smallest) / budget.whole, 1.0
    evaluator = first.sharing.evaluator
    best = first.c.plan(first.c.sizes, lambda g: "the limit leaves it whole")
    for at in range(HALVINGS):
        evaluator.progress("limit", at + 1, HALVINGS)
        middle = (low + high) / 2
        plan = plan_within(first, replace(budget, fraction=middle), final=False)
        good = _is_within_limit(first, plan)
        evaluator.best = plan if good else evaluator.best
        best = plan if good else best
        low, high = (low, middle) if good else (middle, high)
    return best
