"""How the groups of a model share a budget: one function from budgets to counts for each allocation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnxprune.allocate.budget import Budget, fit, out_of_reach
from onnxprune.allocate.evaluator import Evaluator
from onnxprune.allocate.netadapt import netadapt
from onnxprune.allocate.ratios import counts_at
from onnxprune.allocate.search import cheapest, refine, tolerant
from onnxprune.allocate.selection import Candidates, Counts
from onnxprune.allocate.steps import composed
from onnxprune.allocate.tables import curves, measure
from onnxprune.calibration.statistics import Statistics
from onnxprune.graph.weights import Array
from onnxprune.groups import Group
from onnxprune.plans import Plan
from onnxprune.repair import cut

SCOPE = {"uniform": "local", "global": "global"}


@dataclass
class Sharing:
    """The allocation that the options ask for. Whatever it measures beforehand is measured once.

    `done` is the plan for the original that earlier steps made; the candidates are of what it left, and `base` is its error.
    """

    c: Candidates
    evaluator: Evaluator
    base: float = 0.0
    done: Plan | None = None
    statistics: Statistics | None = None

    def counts(self, budget: Budget, last: bool = True) -> Counts:
        """Counts within the budget. Raises OnnxPruneError where it is out of reach, or data are missing."""
        how = self.c.options.allocation
        if how == "netadapt":
            return netadapt(self.c, budget, self._error_of_cut, self.evaluator.stage_progress("search"))
        if how == "sensitivity":
            return fit(self.c, tolerant(self.c, self.curves), budget)
        if how == "search":
            return self._searched(budget, last)
        scope = SCOPE.get(how or "", self.c.options.scope)
        return fit(self.c, lambda ratio: counts_at(self.c, ratio, scope), budget)

    def _searched(self, budget: Budget, last: bool) -> Counts:
        """The least sum of errors; at the last step refined, and of two plans the one whose true error, repaired, is less.

        The width of a residual stream is left whole for as long as the rest can pay: alone its tables look cheap, but every
        layer reads it, and errors of several streams do not add.
        """
        whole = {g.name: g.size for g in self.c.groups if g.kind == "width"}
        plans = [cheapest(self.c, self.curves, budget, fixed) for fixed in ((whole, {}) if whole else ({},))]
        found = [counts for counts in plans if counts is not None]
        if not found:
            raise out_of_reach(self.c, budget)
        if not last:
            return found[0]
        if len(found) > 1 and found[0] == found[1]:
            found.pop()
        best = [self._refined(budget, counts, whole if counts is plans[0] else {}) for counts in found]
        return min(best, key=self._error) if len(best) > 1 else best[0]

    def _refined(self, budget: Budget, counts: dict[str, int], fixed: Counts) -> Counts:
        """Counts tried against the error of cutting all groups at once."""
        return refine(
            self.c, self.curves, budget, counts, fixed, self._error_of_cut, self.evaluator.stage_progress("search")
        )

    @cached_property
    def curves(self) -> dict[str, Array]:
        m = self.evaluator
        tables = measure(
            self.c, m.comparer, cache=m.cache, statistics=self.statistics, progress=m.stage_progress("measure")
        )
        if self.done is None:
            m.tables.update(tables)
        return curves(tables, self.base)

    def plan(self, counts: Counts, why_whole: Callable[[Group], str], notes: Mapping[str, str] | None = None) -> Plan:
        """The plan for the original; `why_whole` says why a group keeps all its channels, `notes` more of some groups."""
        plan = self.c.plan(counts, why_whole, notes)
        return plan if self.done is None else composed(self.done, plan)

    def _error(self, counts: Counts) -> float:
        return self.evaluator.comparer.of(self.evaluator.make(self.plan(counts, lambda g: ""))).error

    def _error_of_cut(self, counts: Counts) -> float:
        plan = self.c.plan(counts, lambda g: "")
        return self.evaluator.comparer.of(cut(self.c.analysis, plan, self.statistics or {})).error
