"""Which units a plan within a budget may remove: sets of them, one within the next, the cheapest errors first.

What a unit does to the outputs is measured alone, without repair. Units that go together harm more than the sum, so after the first
half the others are measured again. How good a set is once what is left is repaired, only a try tells: see `planning`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from onnxprune.allocate.budget import Budget, of_rest
from onnxprune.allocate.error import OutputComparer
from onnxprune.allocate.selection import Candidates
from onnxprune.groups import Analysis
from onnxprune.plans import Plan, fingerprint
from onnxprune.progress import Progress
from onnxprune.settings import Options
from onnxprune.surgery import apply_plan
from onnxprune.units import BRANCH, Unit, find_units

ROUNDS = 2  # of measuring
LEAST = 1e-9  # an error, and a share of the cost


def find_branches(a: Analysis, options: Options) -> list[Unit]:
    """The innermost residual branches of which the options let every part go."""
    nodes = a.flat.proto.graph.node

    def names(unit: Unit) -> set[str]:
        return {unit.name} | {n for i in unit.goes for n in (nodes[i].name, *nodes[i].input) if n}

    def hit(unit: Unit, globs: Collection[str]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs for name in names(unit))

    branches = [u for u in find_units(a) if u.kind == BRANCH]
    inner = [u for u in branches if not any(v.node in u.goes for v in branches)]
    kept = [u for u in inner if not hit(u, [*options.exclude, *options.group_ratio])]
    return [u for u in kept if not options.include or hit(u, options.include)]


def find_unit_sets(
    c: Candidates, budget: Budget, branches: Sequence[Unit], comparer: OutputComparer, progress: Progress
) -> list[list[Unit]]:
    """Two sets of branches: about half of what the budget takes when only branches go, and all of it.

    Args:
        c: The original's groups.
        budget: What may stay.
        branches: Those that may go.
        comparer: Measures errors.
        progress: Called with the measurements done and in all.
    """
    to_go = budget.whole - budget.allowed
    chosen, sets, total, done = list[Unit](), list[list[Unit]](), ROUNDS * len(branches), 0
    for at in range(ROUNDS):
        errors = dict[str, float]()
        for unit in branches:
            if unit not in chosen:
                errors[unit.name] = _error(c.analysis, [*chosen, unit], comparer)
            done += 1
            progress(done, total)
        base = _error(c.analysis, chosen, comparer) if chosen else 0.0
        prices = {
            u.name: max((errors[u.name] - base), LEAST) / max(_saves(c, budget, [u]), LEAST)
            for u in branches
            if u.name in errors
        }
        for unit in sorted((u for u in branches if u.name in prices), key=lambda u: (prices[u.name], u.node)):
            if chosen and _saves(c, budget, chosen) * budget.whole >= to_go * (at + 1) / ROUNDS:
                break
            chosen.append(unit)
        sets.append(sorted(chosen, key=lambda u: u.node))
    return [s for i, s in enumerate(sets) if s and s not in sets[:i]]


def _saves(c: Candidates, budget: Budget, units: Sequence[Unit]) -> float:
    """The share of the cost that goes with some units."""
    return (budget.of(c.sizes) - of_rest(budget, c.without(units)).of(c.sizes)) / budget.whole


def _error(a: Analysis, units: Sequence[Unit], comparer: OutputComparer) -> float:
    plan = Plan(fingerprint(a.model), units=tuple(u.name for u in units))
    return comparer.of(apply_plan(a, plan)).error
