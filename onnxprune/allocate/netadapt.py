"""NetAdapt's loop: cut the budget in small steps, each time in the one group where that costs least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxprune.allocate.budget import Budget, explain_unreachable
from onnxprune.allocate.search import list_allowed
from onnxprune.allocate.selection import Candidates, Counts, change
from onnxprune.progress import Progress

STEPS = 12


def netadapt(c: Candidates, budget: Budget, error: Callable[[Counts], float], progress: Progress) -> Counts:
    """Counts within the budget; every group is tried alone at each step, by its true error.

    Source: Yang et al. 2018, NetAdapt, arXiv 1804.03230, algorithm 1 (without the fine-tuning; channels go by their scores).
    Raises OnnxPruneError where the budget is out of reach.
    """
    counts = c.sizes
    now = budget.of(counts) / budget.whole
    for step in range(STEPS):
        target = replace(budget, fraction=now + (budget.fraction - now) * (step + 1) / STEPS)
        while not target.fits(counts):
            tries = _cuts(c, counts, target)
            if not tries:
                raise explain_unreachable(c, budget)
            counts = min(tries, key=error)
        progress(step + 1, STEPS)
    return counts


def _cuts(c: Candidates, counts: Counts, target: Budget) -> list[Counts]:
    """For each group the mildest cut of it alone that meets the target, else (where none does) its next smaller count."""
    enough, less = [], []
    for g in c.groups:
        at = c.analysis.at_of[g.name]
        tries = [change(counts, at, n) for n in reversed(list_allowed(c, g)) if n < counts[at]]
        enough += [t for t in tries if target.fits(t)][:1]
        less += tries[:1]
    return enough or less
