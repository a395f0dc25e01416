"""The plan that keeps most within a budget, along a family of plans that lose more and more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocate.cost import Cost, make_cost
from onnxprune.allocate.polynomial import Ints
from onnxprune.allocate.selection import Candidates, Counts, change
from onnxprune.allocate.timing.prediction import TimeCost
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.save import count_saved_bytes
from onnxprune.plans import Plan

Family = Callable[[float], Counts]  # counts at a ratio from 0 (all stays) to 1 (the least that can)
HALVINGS = 40
MUCH = 0.03  # of the original, that is left over of a budget
LEAST_BLOCK = 8  # of channels, that any target is fast with
SKIPS = 24  # groups that are too large for what is left of a budget, until no more are tried
PINNED = 12  # groups that get their next count first where much is left over
WORDS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "time"}


@dataclass(frozen=True)
class Budget:
    """The part of a cost that may remain."""

    kind: str
    fraction: float
    cost: Cost | TimeCost
    exact: Callable[[Counts], float]  # the same of candidates: they know which channels stay
    whole: float
    constant: int  # what no plan changes: of a file's bytes, all but the weights
    spare: int = 0  # to be left free

    @property
    def allowed(self) -> float:
        return self.fraction * self.whole

    def of(self, counts: Counts) -> float:
        return self.exact(counts) + self.constant

    def fits(self, counts: Counts) -> bool:
        return self.of(counts) <= self.allowed - self.spare

    def has_left(self, counts: Counts, share: float = 0.0) -> bool:
        """Is more than a share of the original's cost left of what may stay?"""
        return self.of(counts) < self.allowed - share * self.whole


def make_budget(c: Candidates, kind: str, fraction: float) -> Budget:
    """Raises OnnxPruneError where the model's own cost is unknown."""
    analysis = c.analysis
    cost = make_cost(analysis, kind)
    if cost is None:
        raise OnnxPruneError(f"--{kind}: the {WORDS[kind]} of the model are unknown, {analysis.no_macs}; use --params")
    if kind == "bytes" and analysis.model.sparse:
        raise OnnxPruneError(
            f"--bytes: '{analysis.model.sparse[0]}' is stored sparse, so its bytes depend on its zeros; use --params"
        )
    if kind != "bytes":
        return Budget(kind, fraction, cost, cost.exact(c.keep), cost.whole, 0)
    constant = count_saved_bytes(analysis.model) - cost.whole
    return Budget(kind, fraction, cost, cost.exact(c.keep), analysis.model.size_bytes, constant)


def make_time_budget(c: Candidates, cost: TimeCost, fraction: float) -> Budget:
    return Budget("latency", fraction, cost, cost.exact(c.keep), cost.whole, 0)


def exclude_units(budget: Budget, c: Candidates) -> Budget:
    """The same where the units of the candidates go."""
    if isinstance(budget.cost, TimeCost):
        cost: Cost | TimeCost | None = budget.cost.without(c.units)
    else:
        cost = make_cost(c.analysis, budget.kind, c.units)
    assert cost is not None
    return replace(budget, cost=cost, exact=cost.exact(c.keep))


def rescale_budget(budget: Budget, c: Candidates, done: Plan) -> Budget:
    """The budget of a model, for what the steps of pruning in `done` made of it by now."""
    if isinstance(budget.cost, TimeCost):
        cost = budget.cost.after(done, c.analysis)
        return replace(budget, cost=cost, exact=cost.exact(c.keep))
    return replace(make_budget(c, budget.kind, budget.fraction), whole=budget.whole, spare=budget.spare)


def fit(c: Candidates, family: Family, budget: Budget) -> Counts:
    """The counts of the family that keep most and are within the budget, filled up where a step of it is coarse.

    Where much is left over all the same, one aligned group gets its next count first, and the others share the rest, unless one of
    them would be left with half of the share that the hardest hit one has without.

    Raises OnnxPruneError where even the smallest plan is beyond the budget.
    """
    counts = _fit_or_none(c, family, budget)
    if counts is None:
        raise explain_unreachable(c, budget)
    candidates = [counts]
    if not budget.has_left(counts, MUCH):
        return counts
    larger, nearest = c.larger(counts), _next_groups(c, counts, budget)
    for at in nearest[c.is_aligned[nearest]][:PINNED]:
        if not budget.has_left(candidates[-1], MUCH):
            break
        other = _fit_or_none(c, lambda ratio, at=at: change(family(ratio), at, larger[at]), budget)  # type: ignore[misc]
        if other is not None and (other / c.sizes).min() > (counts / c.sizes).min() / 2:
            candidates.append(other)
    return max(candidates, key=lambda counts: budget.of(counts))


def _fit_or_none(c: Candidates, family: Family, budget: Budget) -> Counts | None:
    """As `fit`, of one family; None where even its smallest plan is beyond the budget."""

    def at(ratio: float) -> Counts:
        return c.settled(family(ratio))

    if budget.fits(at(0.0)):
        return at(0.0)
    low, high = 0.0, 1.0
    if not budget.fits(at(high)):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if budget.fits(at(middle)) else (middle, high)
    more = at(low)
    few = at(high)
    filled = _grow(c, few, np.maximum(few, more), budget)
    return _top_up(c, filled, more, budget) if c.aligned or c.options.round_to > 1 else filled


def relax(c: Candidates, budget: Budget) -> Candidates:
    """The same with counts less aligned, the smallest groups first, as far as it takes for the budget to be within reach.

    A group may first keep multiples of half of what it should, while that is a block, and then any count. Groups are relaxed
    until none that may have any count has to lose more than its part: else the first one would be left with next to nothing.
    """
    if not c.aligned or budget.fits(c.smallest):
        return c
    halves = {name: by // 2 for name, by in c.aligned.items() if by // 2 >= LEAST_BLOCK}
    counts, halved, free = (
        _least_fair(replace(c, aligned=aligned), budget.fraction) for aligned in (c.aligned, halves, {})
    )
    aligned, relaxed = dict(c.aligned), dict[str, int]()
    for g in sorted((g for g in c.groups if g.name in c.aligned), key=lambda g: g.size):
        relaxed[g.name], at = aligned.pop(g.name), c.analysis.at_of[g.name]
        if g.name in halves and budget.fits(counts := change(counts, at, halved[at])):
            return replace(c, aligned=aligned | {g.name: halves[g.name]}, relaxed=relaxed)
        if budget.fits(counts := change(counts, at, free[at])):
            break
    return replace(c, aligned=aligned, relaxed=relaxed)


def _least_fair(c: Candidates, fraction: float) -> Counts:
    """What groups keep at least where those that may have any count lose no more than their part."""
    part = (fraction * c.sizes).astype(np.int64)
    return c.settled(np.maximum(c.least, np.where(c.is_aligned, 1, part)))


def _top_up(c: Candidates, counts: Counts, more: Counts, budget: Budget) -> Counts:
    """Give groups their next aligned count, those that lost most first, until none fits into the budget any more.

    None gets more than a step above what the next larger plan gives it, else cheap groups would stay whole, and others pay; unless
    much of the budget would be left over.
    """
    best = counts
    for most, share in ((c.larger(more), 0.0), (c.sizes, MUCH)):
        grown = True
        while grown and budget.has_left(best, share):
            before = best
            best = _grow(c, best, np.minimum(most, c.larger(best)), budget)
            grown = not np.array_equal(best, before)
    return best


def explain_rest(c: Candidates, counts: Counts, budget: Budget) -> dict[str, str]:
    """Where much of a budget is left over: the group whose next count would be the least too much, and why it is not taken."""
    settled = c.settled(counts)
    if not budget.has_left(settled, MUCH):
        return {}
    for at in _next_groups(c, settled, budget)[:1]:
        more = change(settled, at, c.larger(settled)[at])
        if not budget.fits(more):
            left = f"{budget.of(more) / budget.whole:.3f} of the {WORDS[budget.kind]}"
            return {c.analysis.groups[at].name: f"its next count, {more[at]}, would leave {left}"}
    return {}


def _next_groups(c: Candidates, counts: Counts, budget: Budget) -> Ints:
    """The groups that are not whole, the one whose next count is the cheapest first."""
    larger = c.larger(counts)
    some = np.flatnonzero(larger > counts)
    costs = [budget.of(change(counts, at, larger[at])) for at in some]
    return some[np.argsort(costs, kind="stable")]


def _grow(c: Candidates, counts: Counts, wanted: Counts, budget: Budget) -> Counts:
    """Let one group after another have what is wanted, those that lost most first, as long as all stays within the budget.

    A group that does not fit is passed over, up to SKIPS of them.
    """
    grown = counts
    left = np.argsort(counts / c.sizes, kind="stable")
    left = left[wanted[left] > counts[left]]
    for _ in range(SKIPS):
        low, high = 0, len(left)  # the longest start of the list that fits
        while low < high:
            middle = (low + high + 1) // 2
            more = change(grown, left[:middle], wanted[left[:middle]])
            low, high = (middle, high) if budget.fits(more) else (low, middle - 1)
        grown = change(grown, left[:low], wanted[left[:low]])
        left = left[low + 1 :]
        if not len(left):
            break
    return grown


def explain_unreachable(c: Candidates, budget: Budget) -> OnnxPruneError:
    """The error for a budget that no plan meets."""
    o = c.options
    bounds = {
        "--max-ratio": o.max_ratio < 1, "--round-to": o.round_to > 1, "--exclude": o.exclude, "--include": o.include,
        "--group-ratio": o.group_ratio,
    }  # fmt: skip
    loosen = " or ".join(name for name, bounds_it in bounds.items() if bounds_it)
    return OnnxPruneError(
        f"{o.asked}: {budget.of(c.smallest) / budget.whole:.3g} of the {WORDS[budget.kind]} remain even if every group keeps "
        f"the least; ask for more{f', or loosen {loosen}' if loosen else ''}"
    )
