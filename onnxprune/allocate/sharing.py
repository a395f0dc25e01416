"""How the groups of a model share a budget: one function from budgets to counts for each allocation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxprune.allocate.budget import Budget, fit, out_of_reach
from onnxprune.allocate.error import Judge
from onnxprune.allocate.netadapt import netadapt
from onnxprune.allocate.options import Options
from onnxprune.allocate.ratios import counts_at
from onnxprune.allocate.search import cheapest, refine, tolerant
from onnxprune.allocate.selection import Candidates, Counts, Progress
from onnxprune.allocate.tables import Cache, Make, curves, measure
from onnxprune.errors import OnnxPruneError
from onnxprune.graph.weights import Array
from onnxprune.surgery import apply_plan

Tell = Callable[[str, int, int], None]  # stage, steps done, steps in all
SCOPE = {"uniform": "local", "global": "global"}


@dataclass(frozen=True)
class Means:
    """What planning may use beside the model: calibration data, and measurements that were made before.

    `make` makes the model that will come out of a plan, `cut` one for a table, where a single group is cut: both may repair.
    """

    judge: Judge | None = None
    cache: Cache | None = None
    make: Make = apply_plan
    cut: Make = apply_plan
    tell: Tell = lambda stage, done, of: None

    def progress(self, stage: str) -> Progress:
        return lambda done, of: self.tell(stage, done, of)


@dataclass
class Sharing:
    """The allocation that the options ask for. Whatever it measures beforehand is measured once."""

    c: Candidates
    means: Means
    base: float = 0.0  # the error of the model as it is: earlier steps have cut it
    _curves: dict[str, Array] = field(default_factory=dict)

    @property
    def how(self) -> str:
        return how(self.c.options, self.means.judge is not None)

    def counts(self, budget: Budget) -> Counts:
        """Counts within the budget. Raises OnnxPruneError where it is out of reach, or data are missing."""
        if self.how == "netadapt":
            return netadapt(self.c, budget, self._error(self.means.cut), self.means.progress("search"))
        if self.how == "sensitivity":
            return fit(self.c, tolerant(self.c, self.curves), budget)
        if self.how == "search":
            found = cheapest(self.c, self.curves, budget)
            if found is None:
                raise out_of_reach(self.c, budget)
            return found
        scope = SCOPE.get(self.how, self.c.options.scope)
        return fit(self.c, lambda ratio: counts_at(self.c, ratio, scope), budget)

    def refined(self, budget: Budget) -> Counts:
        """The same, tried against the error of what `make` makes where sums of errors were searched."""
        counts = self.counts(budget)
        if self.how != "search":
            return counts
        return refine(
            self.c, self.curves, budget, dict(counts), self._error(self.means.make), self.means.progress("search")
        )

    @property
    def curves(self) -> dict[str, Array]:
        if not self._curves:
            m = self.means
            tables = measure(self.c, self._judge, cache=m.cache, cut=m.cut, progress=m.progress("measure"))
            self._curves = curves(tables, self.base)
        return self._curves

    @property
    def _judge(self) -> Judge:
        if self.means.judge is None:
            raise OnnxPruneError(f"--allocation {self.how} measures errors on calibration data; give some with --calib")
        return self.means.judge

    def _error(self, make: Make) -> Callable[[Counts], float]:
        judge = self._judge
        return lambda counts: judge.of(make(self.c.analysis, self.c.plan(counts, lambda g: ""))).error


def how(options: Options, calibrated: bool) -> str:
    """The allocation in force: the best one known where nothing was asked for; a scope where that says it all."""
    if options.allocation:
        return options.allocation
    return "search" if calibrated and options.measures else options.scope
