"""The plan that keeps most within a budget, along a family of plans that lose more and more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from onnxprune.allocate.cost import Cost, Keeps, cost_of
from onnxprune.allocate.selection import Candidates, Counts
from onnxprune.allocate.timing.cost import TimeCost
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.save import saved_bytes
from onnxprune.groups import Analysis
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
    """How much of a cost may stay."""

    kind: str
    fraction: float
    cost: Cost | TimeCost
    whole: float
    constant: int  # what no plan changes: of a file's bytes, all but the weights
    spare: int = 0  # to be left free

    @property
    def allowed(self) -> float:
        return self.fraction * self.whole

    def of(self, keeps: Keeps) -> float:
        return self.cost.of(keeps) + self.constant

    def fits(self, keeps: Keeps) -> bool:
        return self.of(keeps) <= self.allowed - self.spare


def budget_of(analysis: Analysis, kind: str, fraction: float) -> Budget:
    """Raises OnnxPruneError where the model's own cost is unknown."""
    cost = cost_of(analysis, kind)
    if cost is None:
        raise OnnxPruneError(f"--{kind}: the {WORDS[kind]} of the model are unknown, {analysis.no_macs}; use --params")
    if kind == "bytes" and analysis.model.sparse:
        raise OnnxPruneError(
            f"--bytes: '{analysis.model.sparse[0]}' is stored sparse, so its bytes depend on its zeros; use --params"
        )
    if kind != "bytes":
        return Budget(kind, fraction, cost, cost.whole, 0)
    return Budget(kind, fraction, cost, analysis.model.size_bytes, saved_bytes(analysis.model) - cost.whole)


def budget_of_time(cost: TimeCost, fraction: float) -> Budget:
    return Budget("latency", fraction, cost, cost.whole, 0)


def of_smaller(budget: Budget, analysis: Analysis, done: Plan) -> Budget:
    """The budget of a model, for what the steps of pruning in `done` made of it by now."""
    if isinstance(budget.cost, TimeCost):
        return replace(budget, cost=budget.cost.after(done, analysis))
    return replace(budget_of(analysis, budget.kind, budget.fraction), whole=budget.whole, spare=budget.spare)


def fit(c: Candidates, family: Family, budget: Budget) -> Counts:
    """The counts of the family that keep most and are within the budget, filled up where a step of it is coarse.

    Where much is left over all the same, one aligned group gets its next count first, and the others share the rest, unless one of
    them would be left with half of the share that the hardest hit one has without.

    Raises OnnxPruneError where even the smallest plan is beyond the budget.
    """
    counts = _fit_or_none(c, family, budget)
    if counts is None:
        raise out_of_reach(c, budget)
    found = [counts]
    if not is_left_over(budget, c.keeps(counts), MUCH):
        return counts
    for name, count in [(n, k) for n, k in _next_counts(c, counts, budget) if n in c.aligned][:PINNED]:
        if not is_left_over(budget, c.keeps(found[-1]), MUCH):
            break
        other = _fit_or_none(c, lambda ratio, own=(name, count): {**family(ratio), own[0]: own[1]}, budget)  # type: ignore[misc]
        found += [other] if other and _least_share(c, other) > _least_share(c, counts) / 2 else []
    return max(found, key=lambda counts: budget.of(c.keeps(counts)))


def _least_share(c: Candidates, counts: Counts) -> float:
    """What the group that loses most keeps of its channels."""
    return min(counts[g.name] / g.size for g in c.groups)


def _fit_or_none(c: Candidates, family: Family, budget: Budget) -> Counts | None:
    """As `fit`, of one family; None where even its smallest plan is beyond the budget."""

    def at(ratio: float) -> dict[str, int]:
        return c.settled(family(ratio))

    if budget.fits(c.keeps(at(0.0))):
        return at(0.0)
    low, high = 0.0, 1.0
    if not budget.fits(c.keeps(at(high))):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if budget.fits(c.keeps(at(middle))) else (middle, high)
    more = at(low)
    few = at(high)
    filled = _grow(c, few, {n: max(few[n], more[n]) for n in few}, budget)
    return _top_up(c, filled, more, budget) if c.aligned or c.options.round_to > 1 else filled


def relax(c: Candidates, budget: Budget) -> Candidates:
    """The same with counts less aligned, the smallest groups first, as far as it takes for the budget to be within reach.

    A group may first keep multiples of half of what it should, while that is a block, and then any count. Groups are relaxed
    until none that may have any count has to lose more than its part: else the first one would be left with next to nothing.
    """
    if budget.fits(c.keeps(c.settled({g.name: c.least(g) for g in c.groups}))):
        return c
    aligned, relaxed = dict(c.aligned), dict[str, int]()
    for g in sorted((g for g in c.groups if g.name in aligned), key=lambda g: g.size):
        relaxed[g.name] = by = aligned.pop(g.name)
        for less in (by // 2, 1):
            more = {g.name: less} if less >= LEAST_BLOCK else {}
            c = replace(c, aligned=aligned | more, relaxed=dict(relaxed))
            if budget.fits(c.keeps(c.settled(_least_fair(c, budget.fraction)))):
                return c
    return c


def _least_fair(c: Candidates, fraction: float) -> Counts:
    """What groups keep at least where those that may have any count lose no more than their part."""
    return {g.name: max(c.least(g), 1 if g.name in c.aligned else int(fraction * g.size)) for g in c.groups}


def _top_up(c: Candidates, counts: Mapping[str, int], more: Counts, budget: Budget) -> dict[str, int]:
    """Give groups their next aligned count, those that lost most first, until none fits into the budget any more.

    None gets more than a step above what the next larger plan gives it, else cheap groups would stay whole, and others pay; unless
    much of the budget would be left over.
    """
    found = dict(counts)
    step = {g.name: c.larger(g, more[g.name]) for g in c.groups}
    for most, share in ((step, 0.0), (c.full, MUCH)):
        grown = True
        while grown and is_left_over(budget, c.keeps(found), share):
            before = found
            wanted = {g.name: min(most[g.name], c.larger(g, found[g.name])) for g in c.groups}
            found = _grow(c, found, wanted, budget)
            grown = found != before
    return found


def is_left_over(budget: Budget, keeps: Keeps, share: float = 0.0) -> bool:
    """Is more than a share of the original's cost left of what may stay?"""
    return budget.of(keeps) < budget.allowed - share * budget.whole


def explain_rest(c: Candidates, counts: Counts, budget: Budget) -> dict[str, str]:
    """Where much of a budget is left over: the group whose next count would be the least too much, and why it is not taken."""
    settled = c.settled(counts)
    if not is_left_over(budget, c.keeps(settled), MUCH):
        return {}
    name, count = next(iter(_next_counts(c, settled, budget)), ("", 0))
    more = c.keeps(settled | {name: count}) if name else {}
    if not name or budget.fits(more):
        return {}
    share = budget.of(more) / budget.whole
    return {name: f"its next count, {count}, would leave {share:.3f} of the {WORDS[budget.kind]}"}


def _next_counts(c: Candidates, counts: Counts, budget: Budget) -> list[tuple[str, int]]:
    """The next count of each group that is not whole, the cheapest first."""
    larger = {g.name: c.larger(g, counts[g.name]) for g in c.groups}
    costs = {n: budget.of(c.keeps({**counts, n: k})) for n, k in larger.items() if k > counts[n]}
    return [(n, larger[n]) for n in sorted(costs, key=lambda n: costs[n])]


def _grow(c: Candidates, counts: Mapping[str, int], wanted: Counts, budget: Budget) -> dict[str, int]:
    """Let one group after another have what is wanted, those that lost most first, as long as all stays within the budget.

    A group that does not fit is passed over, up to SKIPS of them.
    """
    found = dict(counts)
    order = sorted(c.groups, key=lambda g: counts[g.name] / g.size)
    left = [g.name for g in order if wanted[g.name] > counts[g.name]]
    for _ in range(SKIPS):
        low, high = 0, len(left)  # the longest start of the list that fits
        while low < high:
            middle = (low + high + 1) // 2
            more = found | {n: wanted[n] for n in left[:middle]}
            low, high = (middle, high) if budget.fits(c.keeps(more)) else (low, middle - 1)
        found |= {n: wanted[n] for n in left[:low]}
        left = left[low + 1 :]
        if not left:
            break
    return found


def out_of_reach(c: Candidates, budget: Budget) -> OnnxPruneError:
    """What to say where no plan is within the budget."""
    least = c.keeps(c.settled({g.name: c.least(g) for g in c.groups}))
    o = c.options
    bounds = {
        "--max-ratio": o.max_ratio < 1, "--round-to": o.round_to > 1, "--exclude": o.exclude, "--include": o.include,
        "--group-ratio": o.group_ratio,
    }  # fmt: skip
    loosen = " or ".join(name for name, bounds_it in bounds.items() if bounds_it)
    return OnnxPruneError(
        f"{o.asked}: {budget.of(least) / budget.whole:.3g} of the {WORDS[budget.kind]} stay even where every group keeps as "
        f"little as it may; ask for more than that{f', or loosen {loosen}' if loosen else ''}"
    )
