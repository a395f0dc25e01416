"""Which units a plan within a budget may remove: those with the cheapest errors first.

What a branch does to the outputs is measured alone, once the next layers are fitted to make up for it. On ResNet-56 the sum of
these errors ranks sets of 11 of 27 branches, all repaired, much as their own errors do (rank correlation .89); errors without
repair do not (.57).
How good a set is beside narrower layers, only a try tells: see `planning`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from onnxprune.allocate.budget import Budget
from onnxprune.allocate.cost import Number, Sizes
from onnxprune.allocate.polynomial import Compiled
from onnxprune.allocate.selection import Branch, Candidates
from onnxprune.allocate.timing.prediction import TimeCost
from onnxprune.experts import Expert, find_experts
from onnxprune.groups import Analysis
from onnxprune.progress import Progress
from onnxprune.settings import Options
from onnxprune.units import BRANCH, Unit, find_units

SHARES = (0.5, 1.0)  # of what a budget takes, that branches may save
MOST_BRANCHES = 64  # that are measured; of more, those evenly spread
LEAST = 1e-9  # an error, and a share of the cost


def find_branches(a: Analysis, options: Options) -> list[Branch]:
    """The innermost residual branches, and the experts, of which the options let every part go."""
    nodes = a.flat.proto.graph.node

    def names(unit: Branch) -> set[str]:
        parts = unit.goes if isinstance(unit, Unit) else {unit.node}
        return {unit.name} | {n for i in parts for n in (nodes[i].name, *nodes[i].input) if n}

    def hit(unit: Branch, globs: Collection[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs for name in names(unit))

    branches = [u for u in find_units(a) if u.kind == BRANCH]
    inner: list[Branch] = [*(u for u in branches if not any(v.node in u.goes for v in branches)), *find_experts(a)]
    allowed = [u for u in inner if not hit(u, [*options.exclude, *options.group_ratio])]
    chosen = [u for u in allowed if not options.include or hit(u, options.include)]
    if len(chosen) > MOST_BRANCHES:  # each takes a run of some samples
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, MOST_BRANCHES).round().astype(int)]
    return chosen


@dataclass(frozen=True)
class RankedBranches:
    """Branches in the order in which they are removed, and the share of the cost that each saves."""

    branches: Sequence[Branch]
    saves: Mapping[str, float]

    def take(self, share: float) -> list[Branch]:
        """The first branches that together save so large a share, or all, in the order of the graph.

        Of a mixture those experts stay that a token can use.
        """
        chosen, saved, experts = list[Branch](), 0.0, Counter[str]()
        for unit in self.branches:
            if saved >= share:
                break
            if isinstance(unit, Expert):
                if experts[unit.group] == unit.size - unit.used:
                    continue
                experts[unit.group] += 1
            chosen.append(unit)
            saved += self.saves[unit.name]
        return sorted(chosen, key=lambda u: u.node)


def rank_branches(
    c: Candidates, budget: Budget, branches: Sequence[Branch], measure: Callable[[Branch], float], progress: Progress
) -> RankedBranches:
    """Branches by the error that removing each makes for what it saves.

    Args:
        c: The original's groups.
        budget: In what costs are counted.
        branches: Those that may go.
        measure: The error of the outputs without a branch.
        progress: Called with the measurements done and in all.
    """
    saves, prices = _saves(c, budget, branches), dict[str, float]()
    for done, unit in enumerate(branches):
        progress(done, len(branches))
        prices[unit.name] = max(measure(unit), LEAST) / saves[unit.name]
    return RankedBranches(sorted(branches, key=lambda u: (prices[u.name], u.node)), saves)


def _saves(c: Candidates, budget: Budget, branches: Sequence[Branch]) -> dict[str, float]:
    """The share of the cost that goes with each of the branches."""
    units, full = [u for u in branches if isinstance(u, Unit)], budget.exact(c.sizes)
    savings = _save_units(c, budget, units)
    for expert in (e for e in branches if isinstance(e, Expert)):
        savings[expert.name] = full - budget.exact(c.counts({expert.group: expert.size - 1}))
    return {name: max(saved / budget.whole, LEAST) for name, saved in savings.items()}


def _save_units(c: Candidates, budget: Budget, branches: Sequence[Unit]) -> dict[str, float]:
    """The cost that goes with each of the units."""
    if isinstance(budget.cost, TimeCost):
        full = budget.cost.exact(c.keep)(c.sizes)
        savings = {u.name: full - budget.cost.without([u]).exact(c.keep)(c.sizes) for u in branches}
    elif budget.kind == "macs":
        sizes = Sizes(c.analysis)
        savings = {u.name: sum(_at(sizes.of_node(i)[0], c) for i in u.goes) for u in branches}
    else:
        stored = c.analysis.coupling.weights
        count = c.analysis.param_count if budget.kind == "params" else lambda n: stored[n].nbytes
        savings = {u.name: float(sum(map(count, u.weights))) for u in branches}
    return savings


def _at(number: Number, c: Candidates) -> float:
    """The value of a polynomial in the sizes of groups, where all are whole."""
    return float(Compiled(number, len(c.sizes))(c.sizes))
