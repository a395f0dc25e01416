"""Allocation of a budget to the groups of a model: one function from budgets to counts per method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.allocate.amc import search_by_agent
from onnxprune.allocate.budget import Budget, explain_unreachable, fit
from onnxprune.allocate.error import OutputComparer
from onnxprune.allocate.evaluator import Evaluator
from onnxprune.allocate.netadapt import netadapt
from onnxprune.allocate.ratios import count_by_ratio, count_by_redundancy
from onnxprune.allocate.schedule import compose_plans
from onnxprune.allocate.search import choose_by_tolerance, choose_cheapest
from onnxprune.allocate.selection import Candidates, Counts
from onnxprune.allocate.tables import RATIOS, Heights, Table, choose_ratios, measure, sum_errors
from onnxprune.calibration.statistics import Statistics
from onnxprune.graph.weights import Array
from onnxprune.groups import Group
from onnxprune.plans import Plan
from onnxprune.repair import cut
from onnxprune.scoring import is_cumulative, list_needed_statistics, score_group

FISHER = "fisher"
SCOPE = {"uniform": "local", "global": "global"}


@dataclass
class Sharing:
    """The allocation that the options ask for. Whatever it measures beforehand is measured once.

    `done` is the plan for the original that earlier steps made; the candidates are of what it left, and `base` is its error.
    `heights` are what the first step measured of each group, `watched` all that its criteria were told.
    """

    c: Candidates
    evaluator: Evaluator
    base: float = 0.0
    done: Plan | None = None
    statistics: Statistics | None = None
    heights: dict[str, Heights] = field(default_factory=dict)
    watched: Statistics | None = None

    def counts(self, budget: Budget, last: bool = True) -> Counts:
        """Counts within the budget. Raises OnnxPruneError where it is out of reach, or data are missing."""
        allocation = self.c.options.allocation
        if allocation == "netadapt":
            return netadapt(self.c, budget, self._error_of_cut, self.evaluator.stage_progress("search"))
        if allocation == "amc":
            seed, progress = self.c.options.seed, self.evaluator.stage_progress("search")
            return search_by_agent(self.c, budget, self._error_of_cut, seed, progress)
        if allocation == "sensitivity":
            return fit(self.c, choose_by_tolerance(self.c, self.curves), budget)
        if allocation == "redundancy":
            return fit(self.c, count_by_redundancy(self.c), budget)
        if allocation in ("search", FISHER):
            return self._searched(budget, last)
        return fit(self.c, count_by_ratio(self.c, SCOPE.get(allocation or "", self.c.options.scope)), budget)

    def _searched(self, budget: Budget, last: bool) -> Counts:
        """The least sum of errors; at the last step, of two plans the one whose error on samples held out is less.

        The width of a residual stream is left whole for as long as the rest can pay: alone its errors look small, but every
        layer reads it, and errors of several streams do not add.
        """
        whole = {g.name: g.size for g in self.c.groups if g.kind == "width"}
        plans = [choose_cheapest(self.c, self.curves, budget, fixed) for fixed in ((whole, {}) if whole else ({},))]
        possible = [counts for counts in plans if counts is not None]
        if not possible:
            raise explain_unreachable(self.c, budget)
        if not last or len(possible) == 1 or np.array_equal(possible[0], possible[1]):
            return possible[0]
        return min(possible, key=self._loss_held_out)

    @cached_property
    def curves(self) -> dict[str, Array]:
        """The error of each count of a group.

        Cumulative scores know it but for a factor, which is measured once, before the first step. The errors of other groups are
        measured at several counts, and at each step again.
        """
        a, o = self.c.analysis, self.c.options
        if o.allocation == FISHER:
            return self._summed()
        scored = [g for g in self.c.groups if o.reduce is None and is_cumulative(a, g, o.criterion or "")]
        if self.done is not None:
            scored = [g for g in scored if g.name in self.heights]
        named = {g.name for g in scored}
        others = [g for g in self.c.groups if g.name not in named]
        if self.done is None and not named <= self.heights.keys():
            ratios = choose_ratios(len(scored), self.evaluator.data.samples or 0)
            comparer = self.evaluator.quick_comparer(len(scored) * len(ratios))
            for name, table in self._measure(scored, ratios, comparer).items():
                self.heights[name] = Heights.of(self.c.scores[name], table)
        curves = {name: table.curve(self.base) for name, table in self._measure(others).items()}
        return curves | {g.name: self.heights[g.name].curve(self.c.scores[g.name]) for g in scored}

    def _summed(self) -> dict[str, Array]:
        """The errors that gradients tell, channel by channel in the order in which they go; measured where there are none.

        What channels do together is left out: a repair makes up for much of what they have in common.
        """
        a, o = self.c.analysis, self.c.options
        with_gradients = [
            g for g in self.c.groups if self.watched is not None and list_needed_statistics(a, [g], FISHER)
        ]
        curves = {
            name: t.curve(self.base)
            for name, t in self._measure([g for g in self.c.groups if g not in with_gradients]).items()
        }
        for g in with_gradients:
            errors = score_group(a, g, FISHER, None, o.seed, self.watched)
            curves[g.name] = sum_errors(errors[self.c.leaving(g)])
        return curves

    def _measure(
        self, groups: Sequence[Group], ratios: Sequence[float] = RATIOS, comparer: OutputComparer | None = None
    ) -> dict[str, Table]:
        """The error tables of some groups; the report gets those of the original's."""
        m = self.evaluator
        if not groups:
            return {}
        tables = measure(
            self.c, comparer or m.comparer, ratios, m.cache, self.statistics, m.stage_progress("measure"), groups
        )
        if self.done is None:
            m.tables.update(tables)
        return tables

    def plan(self, counts: Counts, why_whole: Callable[[Group], str], notes: Mapping[str, str] | None = None) -> Plan:
        """The plan for the original; `why_whole` says why a group keeps all its channels, `notes` more of some groups."""
        plan = self.c.plan(counts, why_whole, notes)
        return plan if self.done is None else compose_plans(self.done, plan)

    def _loss_held_out(self, counts: Counts) -> float:
        return self.evaluator.judge(self.plan(counts, lambda g: "")).loss

    def _error_of_cut(self, counts: Counts) -> float:
        plan = self.c.plan(counts, lambda g: "")
        return self.evaluator.comparer.of(cut(self.c.analysis, plan, self.statistics or {})).error
